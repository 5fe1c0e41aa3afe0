"""Goal 8: adding a hundredth of an archive takes a hundredth of its making, and as much whatever its size."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoders import PRELOAD, encoder_for
from benchmarks.imagery import SENSOR, Layout, as_picture, scene_pixels, warm, write_tiff
from benchmarks.indexes import place_of
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, settled, spread_text, verdict, workplace
from benchmarks.searching import build_all, corpus_arguments, made, with_sizes
from benchmarks.vectors import CHIP
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    import argparse

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.measure import Race, Steps
    from benchmarks.vectors import Corpus
    from retrieval.schema import ArchiveConfig
    from rsvlm.sensors import Band

ALL, NAMED, AGAIN, NOTHING = "all files", "1 % more, by name", "1 % more, the folder again", "no more, the folder again"
EMPTY = "into an empty archive"
INTO = {kind: f"into all rows, index {kind}" for kind in ("flat", "hnsw", "ivf")}
SHARE = 0.01
RGB = "rgb"


class Means:
    """An encoder that takes next to nothing, so that what the archive itself takes shows: means of bands, projected."""

    def __init__(self, config: ArchiveConfig, texts: NDArray[np.float32]) -> None:
        import torch

        self.name, self.fingerprint, self.dim = config.encoder, config.fingerprint, config.dim
        self.device: torch.device = torch.device("cpu")
        self._texts = texts
        self._directions = torch.randn(6, config.dim, generator=torch.Generator().manual_seed(0))

    def embed(self, pixels: Tensor, valid: Tensor, bands: tuple[Band, ...]) -> Tensor:
        """Vectors (N, D)."""
        import torch

        del valid, bands
        features = torch.cat([pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))], dim=1)
        return torch.nn.functional.normalize(features @ self._directions, dim=1)

    def encode_texts(self, texts: Any) -> NDArray[np.float32]:
        """The texts to tune with, whatever is asked."""
        del texts
        return self._texts

    def encode_scenes(self, scenes: Any) -> NDArray[np.float32]:
        """Not needed to add."""
        raise NotImplementedError(f"{len(scenes)} scenes were given to an encoder that only embeds pixels")


def make_archive(files: list[Path], chip: int, threads: int) -> Steps:
    """A new archive of all files."""
    from retrieval import Archive

    encoder = encoder_for(threads=threads)
    with tempfile.TemporaryDirectory(dir=files[0].parent.parent) as folder:
        yield
        with Archive.create(Path(folder) / "archive", encoder, chip=chip, stride=chip) as archive:
            report = archive.add(files, progress=False, readers=threads)
        yield
        return Outcome(report.chips, {}, "; ".join(reason for _, reason in report.failed))


def grow(prepared: Path, paths: list[Path], threads: int, expected: int, units: int) -> Steps:
    """Add to a copy of an archive; `expected` chips must come of it."""
    from retrieval import Archive

    encoder = encoder_for(threads=threads)
    with tempfile.TemporaryDirectory(dir=prepared.parent) as folder:
        shutil.copytree(prepared, Path(folder) / "archive")
        yield
        with Archive.open(Path(folder) / "archive", encoder) as archive:
            report = archive.add(paths, progress=False, readers=threads)
        yield
        wrong = "" if report.chips == expected else f"{report.chips} chips were added, {expected} expected"
        return Outcome(units, {"files left alone": float(report.unchanged)}, wrong)


def scenes(folder: Path, count: int, size: int, data: Path) -> tuple[list[Path], str]:
    """Different GeoTIFFs of 12 bands."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, content = [], ""
    for seed in range(count):
        pixels, content = scene_pixels(data, size, seed=seed)
        paths.append(write_tiff(folder / f"{seed:04}.tif", pixels, Layout()))
    return paths, content


def with_files(folder: Path, options: argparse.Namespace) -> Race:
    """Real rasters and the encoder that ships: all of them, then a hundredth more."""
    from retrieval import Archive

    new = max(1, round(SHARE * options.files))
    files, content = scenes(folder / "scenes", options.files + new, options.size, options.data)
    old, more, prepared = files[: options.files], files[options.files :], folder / "prepared"
    with Archive.create(
        prepared, encoder_for(threads=options.threads), chip=options.chip, stride=options.chip
    ) as made_:
        made_.add(old, progress=False, readers=options.threads)
    each = (options.size // options.chip) ** 2
    what: dict[str, Any] = {"prepared": prepared, "threads": options.threads}
    some = {**what, "expected": new * each, "units": new * each}
    none = {**what, "expected": 0, "units": len(old) * each, "paths": old}
    return race(
        f"{len(old)} files of {options.size} x {options.size}, {each} chips each, and {new} more",
        [
            Contender(ALL, make_archive, {"files": old, "chip": options.chip, "threads": options.threads}),
            Contender(NAMED, grow, {**some, "paths": more}),
            Contender(AGAIN, grow, {**some, "paths": [folder / "scenes"]}),
            Contender(NOTHING, grow, none),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=PRELOAD,
        notes={"content": content, "page_cache": warm(files), "sensor": SENSOR},
    )


def add_rows(place: Path | None, archive: Path, picture: Path, texts: NDArray[np.float32], threads: int) -> Steps:
    """Add one raster of many small chips to a copy of a large archive with its index, or to an empty one."""
    import torch

    from retrieval import Archive
    from retrieval.store import ChipTable

    torch.set_num_threads(threads)
    encoder = Means(ChipTable.open(archive).config, texts)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        target = Path(folder) / "archive"
        if place is None:
            Archive.create(target, encoder, chip=CHIP, stride=CHIP)
        else:
            shutil.copytree(archive, target)
            shutil.copytree(place / "index", target / "index")
        before = len(Archive.open(target, encoder))
        yield
        with Archive.open(target, encoder) as opened:
            report = opened.add(picture, sensor=RGB, progress=False, readers=threads)
        yield
        found = len(Archive.open(target, encoder)) - before
        wrong = "" if found == report.chips > 0 else f"{found} rows are there, {report.chips} were added"
        return Outcome(report.chips, {"rows before": float(before)}, wrong)


def with_rows(found: Corpus, folder: Path, options: argparse.Namespace) -> Race:
    """A hundredth more of a large archive, by the kind of its index; with an encoder that takes next to nothing."""
    side = CHIP * int(np.ceil(np.sqrt(SHARE * found.rows)))
    pixels, content = scene_pixels(options.data, side, seed=options.seed)
    picture = write_tiff(
        folder / "more.tif", as_picture(pixels), Layout(), bands=tuple(band.name for band in SENSORS[RGB].bands)
    )
    what = {"archive": found.folder / "archive", "picture": picture, "texts": found.tuning()}
    what["threads"] = options.threads
    return race(
        f"{(side // CHIP) ** 2:,} chips more, of {found.rows:,}, without the cost of an encoder",
        [
            Contender(EMPTY, add_rows, {**what, "place": None}),
            *(
                Contender(name, add_rows, {**what, "place": place_of(found, f"ours {kind}")})
                for kind, name in INTO.items()
            ),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        notes={"vectors": found.about, "content": content, "page_cache": warm([picture])},
    )


def goals_of(files: Race, rows: Race) -> list[Goal]:
    """What a hundredth more takes, in hundredths of all."""
    goals = []
    for name in (NAMED, AGAIN):
        ratio = files.ratio(name, "cpu")
        met = verdict(ratio.median <= 2, sure=files.conclusive("cpu"))
        goals.append(
            Goal("8", f"{name}: CPU per chip over that of all", "about 1x, at most 2x", spread_text(ratio), met)
        )
    embedding = 1000 * float(np.median(files.seconds(ALL, "cpu")))
    for name in INTO.values():
        own = 1000 * float(np.median(rows.seconds(name, "cpu")))
        said = f"{own:.2f} ms beside {embedding:.2f} ms a chip when all were added"
        met = verdict(own <= embedding, sure=rows.conclusive("cpu"))
        goals.append(Goal("8", f"{rows.case}, {name}: CPU of the archive itself", "less than of embedding", said, met))
    return goals


def main() -> None:
    parser = corpus_arguments(__doc__)
    parser.add_argument("--files", type=int, help="rasters; default 100, 4 quick")
    parser.add_argument("--size", type=int, help="side of each; default 768, 256 quick")
    parser.add_argument("--chip", type=int, default=128)
    options = with_sizes(parser.parse_args())
    options.files, options.size = (
        options.files or (4 if options.quick else 100),
        options.size or (256 if options.quick else 768),
    )
    report = Report("adding", settled(options))
    with workplace(options.work) as work, tempfile.TemporaryDirectory(dir=work) as own:
        files = with_files(Path(own), options)
        found = made(work, options)
        build_all(found, [f"ours {kind}" for kind in INTO], options.threads)
        rows = with_rows(found, Path(own), options)
    report.races, report.goals = [files, rows], goals_of(files, rows)
    report.finish(options.out)


if __name__ == "__main__":
    main()
