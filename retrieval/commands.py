"""`rsvlm index` and `rsvlm search`: the archive from the command line."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from retrieval import Archive
    from retrieval.adding import AddReport
    from retrieval.asking import ArchiveEncoder
    from rsvlm.encoder.model import SpectralEncoder

DEFAULT_CHIP = 256  # pixels
app = typer.Typer(help="Build and look after an archive of chips.", no_args_is_help=True)
ArchivePath = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="Folder of the archive.", show_default=False)]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Folder of a saved encoder.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N; adding uses every GPU of cuda.")]


def register(root: typer.Typer) -> None:
    """Add `index` and `search` to the rsvlm command."""
    root.add_typer(app, name="index")
    root.command("search")(search)


@app.command()
def add(
    archive: ArchivePath,
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.", show_default=False)],
    sensor: Annotated[str | None, typer.Option(help="Sensor name or .toml file, where images do not say.")] = None,
    chip: Annotated[int | None, typer.Option(help="Side of a chip in pixels, for a new archive; 256.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step from chip to chip; the side of a chip by default.")] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "cpu",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Do the work on this Ray cluster; 'local' starts one here.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Workers with --ray.", min=1)] = 2,
    shared: Annotated[
        bool, typer.Option("--shared", help="Share the work with the other processes of accelerate launch or torchrun.")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Chips encoded at once; 64, on a GPU 256.", min=1)] = None,
    readers: Annotated[int | None, typer.Option(help="Threads that read; 2, for a GPU all cores.", min=1)] = None,
    table: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where the table of a new archive lies, as s3://bucket/path; else with it."),
    ] = None,
) -> None:
    """Add images; what is there already is left alone, what changed is replaced."""
    from retrieval import Archive
    from rsvlm.cli import list_failures
    from rsvlm.files import require_imagery

    require_imagery(paths)
    # of "cuda" each of the processes takes the GPU with its number on this machine
    here = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if shared and device == "cuda" else device
    load = cache(lambda: _encoder(encoder, here))

    def opened() -> Archive:
        return _opened_or_made(archive, load(), chip, stride, table)

    report: AddReport | None
    if ray is not None:
        from retrieval.scale import add_with_ray

        report = add_with_ray(
            opened(),
            paths,
            address=ray,
            workers=workers,
            encoder_folder=encoder,
            device=device,
            sensor=sensor,
            batch=batch,
            readers=readers,
        )
    elif shared:
        from retrieval.processes import add_with_accelerate

        report = add_with_accelerate(opened, paths, load=load, sensor=sensor, batch=batch, readers=readers)
        if report is None:  # the first process tells
            return
    else:
        report = opened().add(paths, sensor=sensor, batch=batch, readers=readers)
    typer.echo(
        f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged, "
        f"{len(report.failed)} failed; {report.chips} new chips, {len(Archive.open(archive))} in {archive}",
        err=True,
    )
    list_failures(tuple(report.failed))


@app.command()
def attach(
    archive: ArchivePath,
    table: Annotated[str, typer.Argument(metavar="URI", help="As s3://bucket/path.", show_default=False)],
) -> None:
    """Make an archive of a table that is on object storage already, as on a second machine."""
    from retrieval import Archive

    count = len(Archive.attach(archive, table))
    typer.echo(f"{count} chips in {archive}; the first search builds its index", err=True)


@app.command()
def remove(
    archive: ArchivePath,
    paths: Annotated[list[Path], typer.Argument(help="Files or folders to forget.", show_default=False)],
) -> None:
    """Forget the chips of files; the files themselves stay."""
    from retrieval import Archive

    count = Archive.open(archive).remove(paths)
    typer.echo(f"{count} chips removed", err=True)


@app.command()
def info(
    archive: ArchivePath,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what the archive holds and with which encoder it was made."""
    from retrieval import Archive

    facts = Archive.open(archive).info()
    if as_json:
        typer.echo(json.dumps(facts, indent=1, default=str))
        return
    index = facts.pop("index")
    for key, value in facts.items():
        typer.echo(f"{key}: {value}")
    _tell_index(index)


def _tell_index(index: dict[str, Any]) -> None:
    """The state of the search index and every part of it, in words with numbers."""
    asked = f", kind asked for: {index['asked']}" if "asked" in index else ""
    typer.echo(f"index: {index['state']}{asked}")
    for part in index.get("segments", []):
        removed = f" and {part['removed_rows']:,} removed ones" if part["removed_rows"] else ""
        typer.echo(f"  {part['kind']}, {part['rows']:,} chips{removed}, {part['bytes'] / 1e6:.1f} MB on disk")
        typer.echo(f"    why: {part['why']}")
        typer.echo(f"    recall: {part['recall']}")


@app.command()
def build(
    archive: ArchivePath,
    kind: Annotated[str, typer.Option(help="auto, flat (exact), hnsw (graph) or ivf (compressed lists).")] = "auto",
    recall: Annotated[float, typer.Option(help="Share of the 10 true neighbours that hnsw and ivf must find.")] = 0.95,
    encoder: EncoderOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Build the search index anew, of a kind of your choice, and say why it is as it is."""
    from retrieval import Archive

    index = Archive.open(archive, _encoder(encoder, device)).build_index(kind, recall=recall)
    _tell_index(index)


@app.command()
def annotate(
    archive: ArchivePath,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV or Parquet file.", show_default=False)],
    on: Annotated[str, typer.Option(help="Column that names the chips: path or chip_id.")] = "path",
) -> None:
    """Add columns of a table to the chips, to filter by with --where."""
    from retrieval import Archive

    names = Archive.open(archive).annotate(_read_table(table, on), on=on)
    typer.echo(f"{', '.join(names)} added", err=True)


@app.command()
def verify(archive: ArchivePath) -> None:
    """Read everything and list what is damaged; exit 1 if anything is."""
    from retrieval import Archive

    opened = Archive.open(archive)
    problems = opened.verify()
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{len(problems)} problems; mend them with: rsvlm index repair {archive}", err=True)
        raise typer.Exit(1)
    kept = "; that its files are as they were written is left to the object storage" if opened.is_remote else ""
    typer.echo(f"whole{kept}", err=True)


@app.command()
def repair(archive: ArchivePath) -> None:
    """Bring a damaged archive back to a whole state and say what was lost."""
    from retrieval import Archive

    report = Archive.mend(archive)
    for action in report.actions:
        typer.echo(action)
    for lost in report.lost:
        typer.echo(f"add again: {lost}")
    again = "; files must be added again" if report.lost else ""
    typer.echo(f"{len(report.actions)} repairs{again}", err=True)


def search(
    archive: ArchivePath,
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option(help="Search for chips like this image.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Sensor of --image, where it does not say.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    where: Annotated[str | None, typer.Option(help="""As 'sensor == "sentinel-2-l2a" and cloud < 0.2'.""")] = None,
    bbox: Annotated[str | None, typer.Option(help="W,S,E,N in degrees.")] = None,
    near: Annotated[str | None, typer.Option(help="LON,LAT: chips near it score higher.")] = None,
    near_km: Annotated[float, typer.Option(help="Distance at which --near counts a third.")] = 10.0,
    text_weight: Annotated[float, typer.Option(help="How much the text counts beside --image.")] = 1.0,
    apart_km: Annotated[float | None, typer.Option(help="Pass over chips nearer than this to a better one.")] = None,
    offset: Annotated[int, typer.Option(help="Pass over so many of the best, for a further page.")] = 0,
    encoder: EncoderOption = None,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print hits as JSON.")] = False,
    as_geojson: Annotated[bool, typer.Option("--geojson", help="Print hits as GeoJSON.")] = False,
) -> None:
    """Search an archive in words or by example."""
    from retrieval import Archive, Query
    from rsvlm.answer import nothing_like_that
    from rsvlm.errors import QueryError
    from rsvlm.raster import read_scene

    if text is None and image is None:
        raise QueryError("give a text or --image to search for, or both")
    box = None if bbox is None else _box(bbox)
    close_to = None if near is None else _place(near)
    loaded = _encoder(encoder, device)
    scene = None if image is None else read_scene(image, sensor=sensor)
    query = Query(text=text, image=scene, text_weight=text_weight, near=close_to, near_km=near_km)
    opened = Archive.open(archive, loaded)
    hits = opened.search(query, k, where=where, bbox=box, offset=offset, apart_km=apart_km)
    if reason := nothing_like_that(hits):
        typer.echo(reason, err=True)
    if as_geojson:
        collection = {"type": "FeatureCollection", "features": [hit.to_feature() for hit in hits]}
        typer.echo(json.dumps(collection, default=str))
    elif as_json:
        typer.echo(json.dumps([hit.to_json() for hit in hits], indent=1, default=str))
    else:
        for hit in hits:
            window = hit.window
            place = f"row {window.row}, column {window.col}" + ("; unlike" if hit.unlike else "")
            typer.echo(f"[{hit.rank}] {hit.score:.3f}  {hit.sensor}  {hit.acquired or 'no date'}  {hit.path} ({place})")


def _opened_or_made(
    path: Path, encoder: ArchiveEncoder, chip: int | None, stride: int | None, table: str | None = None
) -> Archive:
    """The archive there, or a new one; raises ArchiveError where one is there with other chips than these."""
    from retrieval import Archive
    from rsvlm.errors import ArchiveError

    if not (path.exists() and any(path.iterdir())):
        side = DEFAULT_CHIP if chip is None else chip
        return Archive.create(path, encoder, chip=side, stride=side if stride is None else stride, table=table)
    archive = Archive.open(path, encoder)
    place = None if table is None else table.rstrip("/")
    config = archive.config
    fixed = (("chip", chip, config.chip), ("stride", stride, config.stride), ("table", place, archive.table))
    for name, wanted, own in fixed:
        if wanted not in (None, own):
            raise ArchiveError(
                f"{path} has --{name} {own}, which cannot change; got {wanted}; leave the option out, or make a new "
                f"archive in another folder"
            )
    return archive


def _encoder(folder: str | None, device: str) -> SpectralEncoder:
    from rsvlm.encoder.model import SpectralEncoder

    return SpectralEncoder.from_pretrained(folder, device=device)


def _box(text: str) -> tuple[float, float, float, float]:
    from rsvlm.errors import QueryError

    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise QueryError(f"--bbox needs four numbers W,S,E,N in degrees; got {text!r}") from None
    return west, south, east, north


def _place(text: str) -> tuple[float, float]:
    from rsvlm.errors import QueryError

    try:
        longitude, latitude = (float(part) for part in text.split(","))
    except ValueError:
        raise QueryError(f"--near needs two numbers LON,LAT in degrees; got {text!r}") from None
    return longitude, latitude


def _read_table(path: Path, on: str) -> pa.Table:
    """A CSV or Parquet file; paths in it may be relative to its folder, as in the project's manifests."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    from rsvlm.errors import QueryError

    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (OSError, ValueError) as error:
        raise QueryError(f"{path} cannot be read as a CSV or Parquet table: {error}") from error
    if on != "path" or "path" not in table.column_names or not pa.types.is_string(table["path"].type):
        return table
    folder = Path(os.path.abspath(path)).parent
    whole = [None if text is None else os.path.normpath(folder / text) for text in table["path"].to_pylist()]
    return table.set_column(table.column_names.index("path"), "path", pa.array(whole, pa.string()))
