"""Goals 1 to 4: what cutting every chip out of a raster takes, by layout, against the usual ways of doing it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.imagery import CORNER, LAYOUTS, PIXEL_M, SENSOR, Layout, described, scene_pixels, write_tiff
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, at_least, settled, spread_text, verdict, workplace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from benchmarks.measure import Measure, Race, Steps

PRELOAD = ("rasterio", "torch", "retrieval.reading", "torchgeo.datasets", "torchgeo.samplers")
OURS_1, OURS, PIXELS_ONLY = "ours, 1 thread", "ours, 2 threads", "ours, blocks alone, 1 thread"
PER_CHIP, ONE_HANDLE = "open for every chip", "one handle, row by row"
TORCHGEO = {workers: f"TorchGeo, {workers} workers" for workers in (0, 2)}
BATCH = 64


class Kept:
    """Every chip a contender read, to be compared when the clock has stopped; the memory is touched before."""

    def __init__(self, truth: Path, chip: int, dtype: str) -> None:
        self.truth: NDArray[np.uint16] = np.load(truth, mmap_mode="r")
        layers, height, width = self.truth.shape
        self.starts = [(row, col) for row in range(0, height, chip) for col in range(0, width, chip)]
        self.across, self.chip = width // chip, chip
        self.pixels = np.ones((len(self.starts), layers, chip, chip), dtype)

    def outcome(self, **facts: float | str) -> Outcome:
        """Whether all pixels are those that were written."""
        unequal = 0
        for place, (row, col) in enumerate(self.starts):
            expected = self.truth[:, row : row + self.chip, col : col + self.chip]
            unequal += not np.array_equal(self.pixels[place], expected)
        wrong = f"{unequal} of {len(self.starts)} chips have other pixels" if unequal else ""
        return Outcome(len(self.starts), facts, wrong)


def open_for_every_chip(path: Path, truth: Path, chip: int) -> Steps:
    """The loop people write first."""
    import rasterio
    from rasterio.windows import Window

    kept = Kept(truth, chip, "uint16")
    yield
    for place, (row, col) in enumerate(kept.starts):
        with rasterio.open(path) as file:
            kept.pixels[place] = file.read(window=Window(col, row, chip, chip))
    yield
    return kept.outcome()


def one_handle(path: Path, truth: Path, chip: int) -> Steps:
    """The loop people write next, chips in the order of their rows."""
    import rasterio
    from rasterio.windows import Window

    kept = Kept(truth, chip, "uint16")
    yield
    with rasterio.open(path) as file:
        for place, (row, col) in enumerate(kept.starts):
            kept.pixels[place] = file.read(window=Window(col, row, chip, chip))
    yield
    return kept.outcome()


def torchgeo(path: Path, truth: Path, chip: int, workers: int) -> Steps:
    """TorchGeo's grid sampler through a DataLoader."""
    from torch.utils.data import DataLoader

    datasets, samplers = import_module("torchgeo.datasets"), import_module("torchgeo.samplers")
    kept = Kept(truth, chip, "float32")  # what TorchGeo makes of every image
    step = chip * PIXEL_M
    yield
    dataset = datasets.RasterDataset(paths=[str(path)])
    loader: Any = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=samplers.GridGeoSampler(dataset, size=chip, stride=chip),
        num_workers=workers,
        collate_fn=datasets.stack_samples,
    )
    for batch in loader:
        for image, (x, y, *_) in zip(batch["image"].numpy(), batch["bounds"], strict=True):
            row, col = round((CORNER[1] - y.stop) / step), round((x.start - CORNER[0]) / step)
            kept.pixels[row * kept.across + col] = image
    yield
    return kept.outcome()


def ours(path: Path, truth: Path, chip: int, threads: int) -> Steps:
    """The readers of the embedding pipeline: with the file's hash, its masks and its clouds, as an add needs them."""
    from retrieval.reading import Chip, Ended, Job, Readers

    kept, ended = Kept(truth, chip, "uint16"), None
    yield
    with Readers([Job(path, SENSOR)], chip=chip, stride=chip, threads=threads) as readers:
        for message in readers.messages():
            if isinstance(message, Chip):
                kept.pixels[message.cut.place] = message.cut.raw
            elif isinstance(message, Ended):
                ended = message
    yield
    return kept.outcome(**{"decoded / touched": ended.blocks.ratio if ended else 0.0})


def ours_alone(path: Path, truth: Path, chip: int) -> Steps:
    """The same blocks and cuts in one thread, without hash and clouds: what the two loops do, and masks."""
    import rasterio

    from retrieval.block_cache import BlockCache
    from retrieval.cutting import Sheet
    from retrieval.reading import layout_of, read_chips
    from rsvlm.raster import open_raster, tiles

    kept = Kept(truth, chip, "uint16")
    yield
    with rasterio.Env(), BlockCache(1), open_raster(path, sensor=SENSOR) as raster:
        sheet = Sheet(list(tiles(raster.grid, chip, chip)), layout_of(raster))
        for cut in read_chips(raster, sheet):
            kept.pixels[cut.place] = cut.raw
    yield
    return kept.outcome(**{"decoded / touched": sheet.blocks.ratio})


def contenders(path: Path, truth: Path, chip: int, *, slow: bool) -> list[Contender]:
    """Everyone on one raster, ours first; the slow ones where asked."""
    what = {"path": path, "truth": truth, "chip": chip}
    fast = [
        Contender(OURS, ours, {**what, "threads": 2}),
        Contender(OURS_1, ours, {**what, "threads": 1}),
        Contender(PIXELS_ONLY, ours_alone, what),
        Contender(ONE_HANDLE, one_handle, what),
    ]
    samplers = [
        Contender(name, torchgeo, {**what, "workers": workers}, ("torchgeo",)) for workers, name in TORCHGEO.items()
    ]
    return [*fast, Contender(PER_CHIP, open_for_every_chip, what), *samplers] if slow else fast


def counted(path: Path, chip: int, seed: int) -> float:
    """Blocks decoded over blocks touched, for chips that overlap by half, in a shuffled order."""
    from retrieval.cutting import Sheet
    from retrieval.reading import layout_of, read_chips
    from rsvlm.raster import open_raster, tiles

    with open_raster(path, sensor=SENSOR) as raster:
        windows = list(tiles(raster.grid, chip, chip // 2))
        order = np.random.default_rng(seed).permutation(len(windows))
        sheet = Sheet([windows[place] for place in order], layout_of(raster))
        for _ in read_chips(raster, sheet):
            pass
    return sheet.blocks.ratio


def one_layout(layout: Layout, size: int, folder: Path, options: argparse.Namespace) -> tuple[Race, float]:
    """Race on one layout, and the counter of blocks."""
    pixels, content = scene_pixels(options.data, size, seed=options.seed)
    truth, path = folder / f"{size}.npy", folder / f"{size}.tif"
    np.save(truth, pixels)
    write_tiff(path, pixels, layout)
    notes = described(layout, path, pixels, content)
    del pixels
    ratio = counted(path, options.chip, options.seed)
    found = race(
        f"{layout}, {size} x {size}",
        contenders(path, truth, options.chip, slow=layout is LAYOUTS[0] or options.everyone),
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=PRELOAD,
        notes={**notes, "chip": options.chip, "decoded_over_touched_shuffled_and_overlapping": ratio},
    )
    path.unlink()
    return found, ratio


def main_goals(found: Race) -> list[Goal]:
    """Goals 1 and 2, on the layout most archives have."""
    goals = [
        at_least("1", "CPU per chip, pixels and masks, against opening", 15, found, PER_CHIP, "cpu", PIXELS_ONLY),
        at_least("1", "CPU per chip, with hash and clouds, against opening", 15, found, PER_CHIP, "cpu"),
        at_least("1", "wall on 2 threads, with hash and clouds, against opening", 25, found, PER_CHIP, "wall"),
    ]
    asked: tuple[tuple[Measure, float], ...] = (("cpu", 2.5), ("wall", 4.0))
    for measure, wanted in asked:
        best = found.best(list(TORCHGEO.values()), measure) or TORCHGEO[0]
        goals.append(at_least("2", f"{measure} per chip, against {best}", wanted, found, best, measure))
    return goals


def handle_goals(races: Iterable[Race]) -> list[Goal]:
    """Goal 3, on every layout: alike with alike, then with all that an add needs."""
    goals = []
    for mine, what in ((PIXELS_ONLY, "pixels and masks"), (OURS_1, "with hash and clouds")):
        ratios = {found.case: found.ratio(ONE_HANDLE, "cpu", mine) for found in races}
        sure = all(found.conclusive("cpu") for found in races)
        first, worst = next(iter(ratios.values())), min(ratios.values(), key=lambda ratio: ratio.median)
        case = next(case for case, ratio in ratios.items() if ratio is worst)
        found_so = verdict(first.median >= 1.2 and worst.median >= 0.9, sure=sure)
        said = f"{spread_text(first)}; least {spread_text(worst)} on {case}"
        goals.append(Goal("3", f"CPU per chip, {what}, against one handle", "1.2x, nowhere under 0.9x", said, found_so))
    return goals


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chip", type=int, default=128, help="side in pixels; must divide the sizes")
    parser.add_argument("--size", type=int, help="side of the raster of the first layout; default 4096, 512 quick")
    parser.add_argument("--others", type=int, help="side for the other seven layouts; default 4096, 0 for none")
    parser.add_argument("--everyone", action="store_true", help="race the slow peers on the other layouts too")
    options = parser.parse_args()
    options.size = options.size or (512 if options.quick else 4096)
    options.others = options.others if options.others is not None else (256 if options.quick else 4096)
    report = Report("reading", settled(options))
    with workplace(options.work) as folder:
        counts = []
        for layout, size in zip(LAYOUTS, [options.size] + [options.others] * 7, strict=True):
            if size:
                found, ratio = one_layout(layout, size, folder, options)
                report.races.append(found)
                counts += [ratio, found.fact(OURS, "decoded / touched")]
    report.goals = [*main_goals(report.races[0]), *handle_goals(report.races)]
    said = f"{min(counts):.2f} to {max(counts):.2f} over {len(report.races)} layouts, in order and shuffled"
    report.goals.append(
        Goal("4", "blocks decoded / blocks touched", "1.00", said, verdict(min(counts) == max(counts) == 1.0))
    )
    report.finish(options.out)


if __name__ == "__main__":
    main()
