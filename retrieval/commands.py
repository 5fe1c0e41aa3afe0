"""`rsvlm index` and `rsvlm search`: the archive from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from retrieval import Archive
    from retrieval.archive import ArchiveEncoder
    from rsvlm.encoder.model import SpectralEncoder

DEFAULT_CHIP = 256  # pixels
app = typer.Typer(help="Build and look after an archive of chips.", no_args_is_help=True)
ArchivePath = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="Folder of the archive.", show_default=False)]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Folder of a saved encoder.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


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
) -> None:
    """Add images; what is there already is left alone, what changed is replaced."""
    from rsvlm.cli import list_failures
    from rsvlm.files import require_imagery

    require_imagery(paths)
    opened = _opened_or_made(archive, _encoder(encoder, device), chip, stride)
    report = opened.add(paths, sensor=sensor)
    typer.echo(
        f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged, "
        f"{len(report.failed)} failed; {report.chips} new chips, {len(opened)} in {archive}",
        err=True,
    )
    list_failures(tuple(report.failed))


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
    for key, value in facts.items():
        typer.echo(f"{key}: {value}")


@app.command()
def verify(archive: ArchivePath) -> None:
    """Read everything and list what is damaged; exit 1 if anything is."""
    from retrieval import Archive

    problems = Archive.open(archive).verify()
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{len(problems)} problems; mend them with: rsvlm index repair {archive}", err=True)
        raise typer.Exit(1)
    typer.echo("whole", err=True)


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
    encoder: EncoderOption = None,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print hits as JSON.")] = False,
    as_geojson: Annotated[bool, typer.Option("--geojson", help="Print hits as GeoJSON.")] = False,
) -> None:
    """Search an archive in words or by example."""
    from retrieval import Archive
    from rsvlm.errors import QueryError
    from rsvlm.raster import read_scene

    if (text is None) == (image is None):
        raise QueryError("give either a text or --image to search for")
    box = None if bbox is None else _box(bbox)
    loaded = _encoder(encoder, device)
    query: Any = text if image is None else read_scene(image, sensor=sensor)
    hits = Archive.open(archive, loaded).search(query, k, where=where, bbox=box)
    if as_geojson:
        collection = {"type": "FeatureCollection", "features": [hit.to_feature() for hit in hits]}
        typer.echo(json.dumps(collection, default=str))
    elif as_json:
        typer.echo(json.dumps([hit.to_json() for hit in hits], indent=1, default=str))
    else:
        for hit in hits:
            window = hit.window
            place = f"row {window.row}, column {window.col}"
            typer.echo(f"[{hit.rank}] {hit.score:.3f}  {hit.sensor}  {hit.acquired or 'no date'}  {hit.path} ({place})")


def _opened_or_made(path: Path, encoder: ArchiveEncoder, chip: int | None, stride: int | None) -> Archive:
    """The archive there, or a new one; raises ArchiveError where one is there with other chips than these."""
    from retrieval import Archive
    from rsvlm.errors import ArchiveError

    if not (path.exists() and any(path.iterdir())):
        side = DEFAULT_CHIP if chip is None else chip
        return Archive.create(path, encoder, chip=side, stride=side if stride is None else stride)
    archive = Archive.open(path, encoder)
    for name, wanted, own in (("chip", chip, archive.config.chip), ("stride", stride, archive.config.stride)):
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
