"""`rsvlm eval`: every number this project prints comes from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure how good the answers are.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add `eval` to the rsvlm command."""
    root.add_typer(app, name="eval")


@app.callback()
def _group() -> None:
    pass


@app.command()
def retrieval(
    data: Annotated[Path, typer.Option(help="Manifest: one JSON object a line with image and captions.")],
    encoder: Annotated[Path | None, typer.Option(help="Folder of a saved encoder; the shipped one by default.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and the random baseline.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json and nothing else.")] = False,
) -> None:
    """Text-to-image and image-to-text retrieval over captioned images."""
    from eval.retrieval import evaluate, write_report
    from rsvlm.encoder.model import SpectralEncoder

    report = evaluate(SpectralEncoder.from_pretrained(encoder, device=device), data, limit=limit, seed=seed)
    if out is not None:
        write_report(report, out)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    typer.echo(f"{report['protocol']}; n = {report['n']} images, {report['captions']} captions")
    for name, value in report["metrics"].items():
        chance = report["baselines"]["random"][name]["value"]
        typer.echo(f"{name:10} {value['value']:6.2f}  [{value['low']:.2f}, {value['high']:.2f}]  random {chance:.2f}")


@app.command()
def plan(
    data: Annotated[Path, typer.Option(help="One JSON object a line with question and plan.")],
    skip: Annotated[int, typer.Option(help="Leave out the first N questions.", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="Only N questions.", min=1)] = None,
    language: Annotated[str | None, typer.Option(help="Folder or name of a language model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json and nothing else.")] = False,
) -> None:
    """How often questions are read as the plans they should be."""
    from eval.planning import evaluate, read_plans
    from eval.retrieval import write_report
    from rsvlm.language.model import CausalLanguageModel

    rows = read_plans(data)[skip:][:limit]
    report = evaluate(CausalLanguageModel.from_pretrained(language, device=device), rows, seed=seed)
    if out is not None:
        write_report(report, out)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    typer.echo(f"{report['protocol']}; n = {report['n']}; {report['language']['name']}")
    for name, value in report["metrics"].items():
        typer.echo(f"{name:10} {value['value']:6.2f}  [{value['low']:.2f}, {value['high']:.2f}]")
    typer.echo(f"majority task {report['baselines']['majority']['task']['value']:.2f}")
