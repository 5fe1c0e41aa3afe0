"""`rsvlm index export`, `import` and `serve-vectors`: archives to and from other people's tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands import ArchivePath, app

KEY_VARIABLE = "QDRANT_API_KEY"
WhereOption = Annotated[str | None, typer.Option(help="""Only some, as 'sensor == "sentinel-2-l2a"'.""")]


def register(root: typer.Typer) -> None:
    """Add them to `rsvlm index`; `root` has that already."""
    app.command("export")(export)
    app.command("import")(bring_in)
    app.command("serve-vectors")(send)


def export(
    archive: ArchivePath,
    out: Annotated[Path, typer.Argument(help="The .parquet file to write.", show_default=False)],
    where: WhereOption = None,
    vectors: Annotated[bool, typer.Option(help="Write the vectors too.")] = True,
) -> None:
    """Write the chips as STAC items into one stac-geoparquet file."""
    from retrieval import Archive
    from retrieval.exchange import export_stac

    report = export_stac(Archive.open(archive), out, where=where, vectors=vectors)
    left = f"; {report.left_out} left out, which have no date or no place" if report.left_out else ""
    typer.echo(f"{report.items} items in {out}{left}", err=True)


def bring_in(
    archive: ArchivePath,
    file: Annotated[Path, typer.Argument(help="Parquet with vectors and footprints.", show_default=False)],
    encoder_name: Annotated[str | None, typer.Option(help="Their encoder, where the file names none.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Their sensor, where rows name none.")] = None,
) -> None:
    """Take in vectors that others made with the archive's encoder."""
    from retrieval import Archive
    from retrieval.exchange import import_vectors

    report = import_vectors(Archive.open(archive), file, encoder=encoder_name, sensor=sensor)
    if report.unchanged:
        typer.echo(f"{file} was imported before; nothing changed", err=True)
        return
    typer.echo(
        f"{report.imported} rows imported, {report.replaced} replaced, {report.already} there already, "
        f"{report.skipped} without a sound vector or place",
        err=True,
    )


def send(
    archive: ArchivePath,
    location: Annotated[str, typer.Argument(help="http://HOST:6333 of a Qdrant server.", show_default=False)],
    collection: Annotated[str, typer.Option(help="Begins its name; the archive's by default.")] = "",
    where: WhereOption = None,
) -> None:
    """Bring a Qdrant server to the state of the archive; a key is taken from QDRANT_API_KEY."""
    from retrieval import Archive
    from retrieval.qdrant import QdrantServer
    from retrieval.servers import export_vectors

    opened = Archive.open(archive)
    server = QdrantServer.open(location, opened, collection=collection, key=os.environ.get(KEY_VARIABLE))
    report = export_vectors(opened, server, name=f"{location} {server.collection}", where=where)
    typer.echo(f"{report.sent} points sent, {report.held} in {server.collection}", err=True)
