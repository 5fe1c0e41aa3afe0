"""`rsvlm data` and `rsvlm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Datasets and training data.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add `data` and `demo` to the rsvlm command."""
    root.add_typer(app, name="data")
    root.command("demo")(demo)


@app.command("list")
def list_datasets() -> None:
    """Name the datasets that can be read, their terms and where to get them."""
    from data_engine.catalogue import CATALOGUE

    for name, dataset in sorted(CATALOGUE.items()):
        typer.echo(f"{name}\t{dataset.title}\t{dataset.terms}\t{dataset.where}")


@app.command()
def manifests(
    sources: Annotated[list[str], typer.Argument(help="As rsicd=FOLDER, one or more.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the manifests.")],
    seed: Annotated[int, typer.Option(help="Of the captions that are made.")] = 0,
) -> None:
    """Write manifests, one a task, sensor and split, for `train encoder` and `eval`."""
    from data_engine.catalogue import CATALOGUE
    from data_engine.manifests import write_manifests
    from rsvlm.errors import QueryError

    items = []
    for source in sources:
        name, _, folder = source.partition("=")
        if name not in CATALOGUE or not Path(folder).is_dir():
            raise QueryError(f"{source!r} is not NAME=FOLDER with a name of {', '.join(CATALOGUE)}")
        items += list(CATALOGUE[name].read(Path(folder)))
    for file, count in write_manifests(items, out, seed=seed).items():
        typer.echo(f"{count}\t{out / file}")


@app.command("build")
def build_pack(
    config: Annotated[
        Path, typer.Argument(help="TOML file, or the name of a shipped one: default.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pack; an interrupted build goes on there.")],
    root: Annotated[Path, typer.Option(help="Folder that the sources' folders are in.")] = Path(),
) -> None:
    """Build training data: captions, questions, expressions, changes, plans and sentences, in shards."""
    from data_engine.build import BuildConfig, build

    manifest = build(BuildConfig.load(config), root, out)
    for name, counts in manifest["counts"].items():
        typer.echo(f"{name}\t{sum(counts.values())}\t{', '.join(f'{kind} {n}' for kind, n in counts.items())}")
    typer.echo(
        f"{manifest['samples']} samples in {out}, {manifest['seconds']} s; leaks: {manifest['leakage']['pairs']}"
    )


@app.command("show")
def show_pack(
    folder: Annotated[Path, typer.Argument(help="A pack.", show_default=False)],
    per_kind: Annotated[int, typer.Option(help="Samples of each kind.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Which samples are drawn.")] = 0,
) -> None:
    """Write an HTML sheet of random samples, pictures with their texts."""
    from data_engine.sheet import write_sheet

    typer.echo(f"open {write_sheet(folder, per_kind=per_kind, seed=seed)}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the answers, pictures and the page.")] = Path("demo-out"),
) -> None:
    """Run the main job on bundled imagery: index, search, caption, ask, ground, compare; leaves an HTML page."""
    from data_engine.demo import run_demo

    page = run_demo(out)
    typer.echo(f"open {page}")
