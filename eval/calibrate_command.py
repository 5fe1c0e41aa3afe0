"""`rsvlm eval calibrate`: fit the thresholds for "not there" and write them beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def calibrate(
    encoder: Annotated[Path, typer.Option(help="Folder of an encoder.")],
    scenes: Annotated[Path | None, typer.Option(help="Scenes manifest, for words that name a whole picture.")] = None,
    land_cover: Annotated[Path | None, typer.Option(help="Land-cover manifest, for ground covers.")] = None,
    grounding: Annotated[Path | None, typer.Option(help="Grounding manifest, for objects.")] = None,
    change: Annotated[Path | None, typer.Option(help="Change manifest, for how much changed.")] = None,
    max_risk: Annotated[float, typer.Option(help="Share of wrong denials to bear, 0 to 1.")] = 0.1,
    limit: Annotated[int | None, typer.Option(help="Only N pictures a manifest, drawn by the seed.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the limit, the halves and the bootstrap.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for calibration.json; the encoder's if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report and nothing else.")] = False,
) -> None:
    """Fit from which likeness on a phrase is there, on validation manifests, and keep it beside the weights."""
    from eval.calibrate import calibrate as fit
    from rsvlm.encoder.model import SpectralEncoder

    given = {"scene": scenes, "ground": land_cover, "object": grounding, "change": change}
    manifests = {kind: path for kind, path in given.items() if path is not None}
    found, report = fit(
        manifests, SpectralEncoder.from_pretrained(encoder, device=device), max_risk=max_risk, limit=limit, seed=seed
    )
    folder = out or encoder
    folder.mkdir(parents=True, exist_ok=True)
    path = found.save(folder)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _print_table(report)
        typer.echo(f"wrote {path}", err=True)
    _leave(report)


def _print_table(report: dict[str, Any]) -> None:
    typer.echo(report["protocol"])
    for kind, row in report["kinds"].items():
        cut = "no safe denial" if row["value"] is None else f"there above {row['value']:.4f}"
        typer.echo(f"\n{kind}: {cut} ({row['statistic']})")
        typer.echo(
            f"fitted on {row['fitted']} pairs; n = {row['n']} other pairs of {row['places']} places; "
            f"95 % intervals over places; seed {report['settings']['seed']}"
        )
        names = list(row["baselines"])
        typer.echo(
            f"{'':12} {'value':>7} {'interval':>17} {'fitted half':>12}  " + " ".join(f"{name:>14}" for name in names)
        )
        for metric, value in row["metrics"].items():
            interval = f"[{_number(value['low'])}, {_number(value['high'])}]"
            others = " ".join(f"{_number(row['baselines'][name][metric]['value']):>14}" for name in names)
            own = _number(row["metrics_fitted"][metric])
            typer.echo(f"{metric:12} {_number(value['value']):>7} {interval:>17} {own:>12}  {others}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _leave(report: dict[str, Any]) -> None:
    """Exit code 1 where pictures failed."""
    failed = [(kind, number, why) for kind, row in report["kinds"].items() for number, why in row["failed"].items()]
    for kind, number, why in failed:
        typer.echo(f"line {number} of the manifest for {kind} is left out: {why}", err=True)
    if failed:
        raise typer.Exit(1)
