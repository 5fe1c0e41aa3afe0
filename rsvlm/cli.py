"""The `rsvlm` command: data on standard output, progress and reasons on standard error, exit 0, 1 or 2."""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsvlm.errors import RsvlmError

if TYPE_CHECKING:
    from rsvlm.answer import Answer
    from rsvlm.assistant import Assistant

app = typer.Typer(
    help="Ask questions of satellite imagery, get answers that can be checked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train the encoder.", no_args_is_help=True)
app.add_typer(train_app, name="train")
COMMANDS = (  # loaded by name: rsvlm never looks up
    "retrieval.commands",
    "retrieval.exchange_commands",
    "data_engine.commands",
    "eval.commands",
)

Image = Annotated[Path, typer.Argument(help="GeoTIFF, COG, JP2, PNG, JPEG or WebP.", show_default=False)]
SensorOption = Annotated[
    str | None, typer.Option("--sensor", help="Sensor name or .toml file, where the image does not say.")
]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Folder of a saved encoder.")]
LanguageOption = Annotated[str | None, typer.Option("--language", help="Folder or name of a language model.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@app.callback()
def _settings(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )


@app.command()
def ask(
    image: Image,
    question: Annotated[str, typer.Argument(help="A question in plain words.", show_default=False)],
    archive: Annotated[Path | None, typer.Option(help="Archive to take evidence from.")] = None,
    sensor: SensorOption = None,
    encoder: EncoderOption = None,
    language: LanguageOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Ask a question about one image."""
    assistant = load_assistant(encoder, language, device, archive)
    show(assistant.ask(image, question, sensor=sensor), as_json=as_json)


@app.command()
def caption(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON Lines file; a run that was stopped goes on in it.")],
    geojson: Annotated[Path | None, typer.Option(help="Also write the captioned footprints here.")] = None,
    sensor: SensorOption = None,
    encoder: EncoderOption = None,
    language: LanguageOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Caption many images; resumable, failures are listed and passed over."""
    from rsvlm.captioning import caption_files
    from rsvlm.files import require_imagery

    require_imagery(paths)
    report = caption_files(load_assistant(encoder, language, device), paths, out, geojson=geojson, sensor=sensor)
    typer.echo(
        f"{report.captioned} captioned, {report.already} were there, {len(report.failed)} failed: {out}", err=True
    )
    list_failures(report.failed)


@app.command()
def ground(
    image: Image,
    phrase: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write the outlines to this GeoJSON or .gpkg file.")] = None,
    sensor: SensorOption = None,
    encoder: EncoderOption = None,
    language: LanguageOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Outline what a phrase names."""
    answer = load_assistant(encoder, language, device).ground(image, phrase, sensor=sensor)
    if out is not None:
        write_regions(answer, out, image)
    show(answer, as_json=as_json)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="The earlier image.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="The later image.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to compare; everything by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write changed outlines to this GeoJSON or .gpkg file.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Write the change mask to this GeoTIFF.")] = None,
    sensor: SensorOption = None,
    encoder: EncoderOption = None,
    language: LanguageOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two dates."""
    from rsvlm.export import write_mask_tif

    assistant = load_assistant(encoder, language, device)
    first, second = assistant.read(before, sensor=sensor), assistant.read(after, sensor=sensor)
    answer, change = assistant.measure_change(first, second, question)
    answer = assistant.word_change(answer, change)
    if mask is not None:
        write_mask_tif(change.mask, mask, inputs=(before, after))
    if out is not None:
        write_regions(answer, out, before, after)
    show(answer, as_json=as_json)


@app.command()
def serve(
    archive: Annotated[Path | None, typer.Option(help="Archive to search.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 7860,
    encoder: EncoderOption = None,
    language: LanguageOption = None,
) -> None:
    """Open the chat page in a local server."""
    import_module("app").serve(archive=archive, host=host, port=port, encoder=encoder, language=language)


@app.command()
def doctor() -> None:
    """Check this installation and say what is missing."""
    from rsvlm.doctor import checks

    results = checks()
    for check in results:
        typer.echo(f"{'ok  ' if check.good else 'FAIL'}  {check.name}: {check.found}")
    if not all(check.good for check in results):
        raise typer.Exit(1)


@train_app.command("encoder")
def train_encoder(
    config: Annotated[Path, typer.Argument(help="TOML training config.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Run folder; a run that was stopped goes on in it.")],
    device: DeviceOption = "cpu",
) -> None:
    """Train the encoder: whole images with their captions, places with their words, change with its name."""
    from rsvlm.training.config import TrainingConfig
    from rsvlm.training.contrastive import train

    train(TrainingConfig.load(config), out, device=device)
    typer.echo(f"the encoder is in {out / 'encoder'}", err=True)


def load_assistant(encoder: str | None, language: str | None, device: str, archive: Path | None = None) -> Assistant:
    """Put the assistant together; the archive, if any, is opened with the same encoder."""
    from rsvlm.assistant import Assistant

    assistant = Assistant.from_pretrained(encoder=encoder, language=language, device=device)
    if archive is not None:
        assistant.retriever = import_module("retrieval").Archive.open(archive, assistant.encoder)
    return assistant


def show(answer: Answer, *, as_json: bool) -> None:
    """Print an answer: the sentence and what it rests on, or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(answer.to_json(), ensure_ascii=False, indent=1))
        return
    typer.echo(answer.text)
    typer.echo(f"answered by {answer.model}", err=True)


def write_regions(answer: Answer, out: Path, *inputs: Path) -> None:
    """Write an answer's outlines as GeoPackage (.gpkg) or GeoJSON; raises ExportError for another ending."""
    from rsvlm.errors import ExportError
    from rsvlm.export import write_geojson, write_geopackage

    if out.suffix.lower() not in (".gpkg", ".geojson", ".json"):
        raise ExportError(f"outlines are written as .geojson or .gpkg; got {out.name}")
    if out.suffix.lower() == ".gpkg":
        write_geopackage(answer.regions, out, inputs=inputs)
    else:
        write_geojson(answer.to_geojson(), out, inputs=inputs)


def list_failures(failed: tuple[tuple[str, str], ...]) -> None:
    """Name what failed on standard error and exit with 1; nothing happens when nothing failed."""
    for path, reason in failed:
        typer.echo(f"failed: {path}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


@cache
def full_app() -> typer.Typer:
    """The command with those of the other packages."""
    for name in COMMANDS:
        import_module(name).register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command; what a person did wrong becomes one sentence and exit code 2."""
    try:
        full_app()(arguments, prog_name="rsvlm")
    except RsvlmError as error:
        typer.echo(f"rsvlm: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        remedy = f"run `pip install {_extra(package)}`"
        typer.echo(f"rsvlm: this needs {package}, which is not installed; {remedy}", err=True)
        sys.exit(2)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        typer.echo(f"rsvlm: {named}{error.strerror or error}; check the path, its rights and the space left", err=True)
        sys.exit(2)


def _extra(package: str) -> str:
    """What to install for a module: the extra that brings it, or the module itself."""
    extras = {
        "eval": ("ir_measures", "matplotlib", "pycocoevalcap", "pycocotools", "sklearn"),
        "hdf5": ("h5py", "hdf5plugin"),
        "app": ("gradio",),
        "scale": ("ray",),
        "exchange": ("qdrant_client",),
    }
    return next((f"'rsvlm[{extra}]'" for extra, modules in extras.items() if package in modules), package)


if __name__ == "__main__":
    main()
