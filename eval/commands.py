"""`rsvlm eval`: every number this project prints comes from here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eval.calibrate_command import calibrate

if TYPE_CHECKING:
    from eval.tasks.task import Settings

app = typer.Typer(help="Measure how good the answers are.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="Manifest: one JSON object a line, paths relative to it.")]
EncoderName = Annotated[
    Path | None, typer.Option("--encoder", help="Folder of an encoder; the shipped one if not given.")
]
LanguageName = Annotated[str | None, typer.Option("--language", help="Folder or name of a language model.")]
Protocol = Annotated[str, typer.Option(help="Which way of scoring, by name; a wrong name lists them.")]
Train = Annotated[list[Path] | None, typer.Option(help="Training manifest to look for leaks from; may be repeated.")]
Bands = Annotated[str, typer.Option(help="Show only these bands, by common name: red,green,blue,nir.")]
Split = Annotated[str, typer.Option(help="How the split was made, in words, for the report.")]
Skip = Annotated[int, typer.Option(help="Leave out the first N lines.", min=0)]
Limit = Annotated[int | None, typer.Option(help="Only N lines, drawn by the seed.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the bootstrap, the drawn baselines and the limit.", min=0)]
Out = Annotated[Path | None, typer.Option(help="Folder for predictions.jsonl and report.json; resumes there.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json and nothing else.")]
Folder = Annotated[Path, typer.Argument(help="Folder of an evaluation.", show_default=False)]

PLAIN_TASKS = {
    "captions": "Captions against reference captions: BLEU, ROUGE-L, CIDEr.",
    "vqa": "Questions about one image or two dates, by type.",
    "grounding": "Phrases to boxes, oriented boxes or masks, absent phrases included.",
    "change": "Change between two dates, as a mask or in words.",
    "plan": "How often questions are read as the plans they should be.",
}


def register(root: typer.Typer) -> None:
    """Add `eval` to the rsvlm command."""
    root.add_typer(app, name="eval")


@app.command()
def retrieval(
    data: Data,
    queries: Annotated[str, typer.Option(help="captions, labels or label-sets.")] = "captions",
    onto: Annotated[
        Path | None,
        typer.Option(
            help="Second manifest: every image of --data a query for the image of its place there, and back.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    bands: Bands = "",
    archive: Annotated[
        Path | None, typer.Option(help="Archive that holds these images: adds what its index loses.")
    ] = None,
    encoder: EncoderName = None,
    protocol: Protocol = "",
    train: Train = None,
    split: Split = "",
    skip: Skip = 0,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Text-to-image and image-to-text retrieval, over a manifest and over an archive; between images with --onto."""
    from eval.runs import sha256_of
    from eval.tasks.task import Settings
    from rsvlm.errors import QueryError

    wanted = [name for name in ("" if queries == "captions" else queries, protocol) if name]
    wanted += ["image-pairs"] if onto else []
    if len(set(wanted)) > 1:
        raise QueryError(
            f"--queries, --protocol and --onto ask for {' and '.join(wanted)}, two ways of scoring; give one of them"
        )
    if archive and (onto or bands):
        raise QueryError("an archive is searched by text over all bands; leave out --archive, or --onto and --bands")
    settings = Settings(wanted[0] if wanted else "", bands=_listed(bands), limit=limit, skip=skip, seed=seed)
    if onto:
        settings = replace(settings, onto=str(onto.resolve()), onto_sha256=sha256_of(onto))
    _run("retrieval", data, settings, encoder, None, device, train, split, out, as_json, archive)


@app.command()
def scenes(
    data: Data,
    templates: Annotated[
        Path | None, typer.Option(help="Text file with one template a line, {} for the label.")
    ] = None,
    names: Annotated[
        str,
        typer.Option(help='Ask other names for the labels: a TOML file of label = "name", or aid-paraphrased.'),
    ] = "",
    encoder: EncoderName = None,
    train: Train = None,
    split: Split = "",
    skip: Skip = 0,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Zero-shot classification of whole images by the names of the classes."""
    from eval.tasks.scenes import read_names
    from eval.tasks.task import Settings
    from rsvlm.errors import QueryError

    try:
        lines = templates.read_text(encoding="utf-8").splitlines() if templates else []
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"--templates names {templates}, which is no text file: {error}") from error
    used = tuple(line for line in lines if line.strip())
    asked = read_names(names) if names else ()
    settings = Settings(templates=used, names=asked, limit=limit, skip=skip, seed=seed)
    _run("scenes", data, settings, encoder, None, device, train, split, out, as_json)


@app.command("land-cover")
def land_cover(
    data: Data,
    background: Annotated[str, typer.Option(help="Class left out of mIoU_without_background.")] = "",
    bands: Bands = "",
    encoder: EncoderName = None,
    train: Train = None,
    split: Split = "",
    skip: Skip = 0,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """A class for every pixel, by the names of the classes; with --train, beside a random forest of the same bands."""
    from eval.tasks.task import Settings

    shown = _listed(bands)
    learned = tuple(str(manifest.resolve()) for manifest in train or ())
    settings = Settings(background=background, bands=shown, train=learned, limit=limit, skip=skip, seed=seed)
    _run("land-cover", data, settings, encoder, None, device, train, split, out, as_json)


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _plain(name: str, words: str) -> Callable[..., None]:
    @app.command(name, help=words)
    def run(
        data: Data,
        encoder: EncoderName = None,
        language: LanguageName = None,
        protocol: Protocol = "",
        train: Train = None,
        split: Split = "",
        skip: Skip = 0,
        limit: Limit = None,
        seed: Seed = 0,
        out: Out = None,
        device: Device = "cpu",
        as_json: AsJson = False,
    ) -> None:
        from eval.tasks.task import Settings

        settings = Settings(protocol, limit=limit, skip=skip, seed=seed)
        _run(name, data, settings, encoder, language, device, train, split, out, as_json)

    return run


for _name, _words in PLAIN_TASKS.items():
    _plain(_name, _words)


@app.command()
def score(
    folder: Folder,
    data: Annotated[
        Path | None, typer.Option(help="The manifest, where it moved or predictions came from elsewhere.")
    ] = None,
    task: Annotated[str, typer.Option(help="The task of predictions made elsewhere.")] = "",
    protocol: Protocol = "",
    as_json: AsJson = False,
) -> None:
    """Score saved predictions again, without running a model."""
    from eval.runner import rescore

    _tell(rescore(folder, manifest=data, name=task, protocol=protocol), as_json)


@app.command()
def diff(first: Folder, second: Folder, seed: Seed = 0, as_json: AsJson = False) -> None:
    """Compare two runs over the same lines: second minus first, by a paired bootstrap."""
    from eval.comparison import compare_runs

    found = compare_runs(first, second, seed=seed).to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(f"{found['task']}, {found['protocol']}; n = {found['n']} {found['unit']}, paired bootstrap")
    for name, row in found["metrics"].items():
        surely = "" if row["low"] is None or row["low"] <= 0 <= row["high"] else " *"
        low, high = _number(row["low"]), _number(row["high"])
        typer.echo(
            f"{name:24} {_number(row['first']):>7} -> {_number(row['second']):>7}  "
            f"{_number(row['value'])} [{low}, {high}]{surely}"
        )
    typer.echo("* the interval leaves out 0")


@app.command()
def leakage(
    train: Annotated[Path, typer.Argument(help="Training manifest.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="Evaluation manifest.", show_default=False)],
    encoder: EncoderName = None,
    embeddings: Annotated[bool, typer.Option(help="Compare embeddings too.")] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Name the images that both lists show: same file, same place, same picture. Exit code 1 when there are any."""
    from eval.leaks import leaks_between
    from eval.models import Models

    report = leaks_between([train], data, Models(encoder, None, device).encoder if embeddings else None)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1))
    else:
        for leak in report.pairs:
            typer.echo(f"{leak.reason}\t{leak.held_out}\t{leak.train}\t{leak.detail}")
        typer.echo(
            f"{len(report.pairs)} pairs; checked: {report.checked}; unreadable: {len(report.unreadable)}", err=True
        )
    if report.pairs or report.unreadable:
        raise typer.Exit(1)


@app.command()
def report(folder: Folder) -> None:
    """Render one self-contained HTML page: tables, curves, and the best and worst examples as pictures."""
    from eval.report import write_page

    typer.echo(f"open {write_page(folder)}")


def _run(
    name: str,
    data: Path,
    settings: Settings,
    encoder: Path | None,
    language: str | None,
    device: str,
    train: list[Path] | None,
    split: str,
    out: Path | None,
    as_json: bool,
    archive: Path | None = None,
) -> None:
    from eval.leaks import leaks_between
    from eval.models import Models
    from eval.runner import evaluate
    from eval.runs import prepare

    with tempfile.TemporaryDirectory(prefix="rsvlm-eval-") as beside:
        run = prepare(name, data, settings, out or Path(beside))
        models = Models(encoder, language, device)
        about: dict[str, Any] = {"split": split or "not stated"}
        about["leakage"] = (
            leaks_between(train, data).to_json() if train else "not checked: no --train manifest was given"
        )
        if train and settings.onto:
            about["leakage_onto"] = leaks_between(train, Path(settings.onto)).to_json()
        if archive is not None:
            from eval.archive import archive_report

            about["archive"] = archive_report(archive, run, models)
        found = evaluate(run, models, about=about)
    _tell(found, as_json)


def _tell(report: dict[str, Any], as_json: bool) -> None:
    """Print a report, then leave with 1 where lines failed."""
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _print_table(report)
    if report["failed"]:
        for number, why in report["failed"].items():
            typer.echo(f"line {number} is left out: {why}", err=True)
        raise typer.Exit(1)


def _print_table(report: dict[str, Any]) -> None:
    names = list(report["baselines"])
    typer.echo(report["protocol"])
    counted = f"n = {report['n']} lines, {report['units']} {report['unit']}"
    typer.echo(f"{counted}; 95 % intervals over {report['unit']}; seed {report['settings']['seed']}")
    typer.echo(f"{'':24} {'value':>7} {'interval':>17}  " + " ".join(f"{name:>8}" for name in names))
    for name, metric in report["metrics"].items():
        others = " ".join(f"{_number(report['baselines'][b].get(name, {}).get('value')):>8}" for b in names)
        interval = f"[{_number(metric['low'])}, {_number(metric['high'])}]"
        typer.echo(f"{name:24} {_number(metric['value']):>7} {interval:>17}  {others}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


app.command()(calibrate)
