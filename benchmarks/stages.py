"""What stands between reading and goals 1 and 3: where the CPU time of a chip goes, stage upon stage, tiled files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.imagery import LAYOUTS, SENSOR, described, scene_pixels, write_tiff
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Report, arguments, settled, workplace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Race, Steps

PRELOAD = ("rasterio", "torch", "retrieval.reading")


def decoding(path: Path, chip: int) -> Steps:
    """GDAL alone: every block once, all bands of it at once."""
    import rasterio

    from retrieval.block_cache import BlockCache

    yield
    with BlockCache(1), rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            file.read(window=window)
        height, width = file.shape
    yield
    return Outcome((height // chip) * (width // chip))


def looping(path: Path, chip: int) -> Steps:
    """What goal 3 compares with: one handle, a window a chip, row by row, GDAL's cache as it comes."""
    import rasterio
    from rasterio.windows import Window

    yield
    with rasterio.open(path) as file:
        height, width = file.shape
        for row in range(0, height, chip):
            for col in range(0, width, chip):
                file.read(window=Window(col, row, chip, chip))
    yield
    return Outcome((height // chip) * (width // chip))


def opening(path: Path, chip: int) -> Steps:
    """The door alone, for the first time in a process: coordinates, sensor and bands; nothing is read."""
    from rsvlm.raster import open_raster

    yield
    with open_raster(path, sensor=SENSOR) as raster:
        height, width = raster.grid.shape
    yield
    return Outcome((height // chip) * (width // chip))


def masking(path: Path, chip: int) -> Steps:
    """The same through the door: which pixels are there, too."""
    import rasterio

    from retrieval.block_cache import BlockCache
    from retrieval.cutting import Sheet
    from retrieval.reading import layout_of, read_part
    from rsvlm.raster import open_raster, tiles

    yield
    with rasterio.Env(), BlockCache(1), open_raster(path, sensor=SENSOR) as raster:
        windows = list(tiles(raster.grid, chip, chip))
        sheet = Sheet(windows, layout_of(raster))
        while (taken := sheet.take()) is not None:
            read_part(raster, taken[1])
    yield
    return Outcome(len(windows))


def cutting(path: Path, chip: int, *, clouds: bool) -> Steps:
    """And cut into chips; with the clouds of each where asked."""
    import rasterio

    from retrieval.block_cache import BlockCache
    from retrieval.cutting import Sheet
    from retrieval.quality import cloud_test
    from retrieval.reading import layout_of, read_chips
    from rsvlm.raster import open_raster, tiles

    yield
    with rasterio.Env(), BlockCache(1), open_raster(path, sensor=SENSOR) as raster:
        test = cloud_test(raster, (chip, chip)) if clouds else None
        count = sum(1 for _ in read_chips(raster, Sheet(list(tiles(raster.grid, chip, chip)), layout_of(raster)), test))
    yield
    return Outcome(count)


def adding(path: Path, chip: int) -> Steps:
    """And hashed, and handed from thread to thread, as an add has it."""
    from retrieval.reading import Chip, Job, Readers

    yield
    with Readers([Job(path, SENSOR)], chip=chip, stride=chip, threads=1) as readers:
        count = sum(isinstance(message, Chip) for message in readers.messages())
    yield
    return Outcome(count)


STAGES: dict[str, tuple[Callable[..., Steps], dict[str, bool]]] = {
    "GDAL, every block once": (decoding, {}),
    "one handle, row by row": (looping, {}),
    "opening alone": (opening, {}),
    "and masks": (masking, {}),
    "and chips cut": (cutting, {"clouds": False}),
    "and clouds": (cutting, {"clouds": True}),
    "and hash and messages": (adding, {}),
}


def one_layout(number: int, size: int, folder: Path, *, chip: int, rounds: int, seed: int, data: Path) -> Race:
    """The stages of one layout."""
    pixels, content = scene_pixels(data, size, seed=seed)
    path = write_tiff(folder / f"{number}.tif", pixels, LAYOUTS[number])
    what = {"path": path, "chip": chip}
    found = race(
        f"{LAYOUTS[number]}, {size} x {size}",
        [Contender(name, steps, {**what, **options}) for name, (steps, options) in STAGES.items()],
        unit="chip",
        rounds=rounds,
        seed=seed,
        preload=PRELOAD,
        notes={**described(LAYOUTS[number], path, pixels, content), "chip": chip},
    )
    path.unlink()
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chip", type=int, default=128, help="side in pixels; must divide the size")
    parser.add_argument("--size", type=int, help="side of the raster; default 4096, 256 quick")
    options = parser.parse_args()
    options.size = options.size or (256 if options.quick else 4096)
    report = Report("stages", settled(options))
    settings = {"chip": options.chip, "rounds": options.rounds, "seed": options.seed, "data": options.data}
    with workplace(options.work) as folder:
        report.races = [
            one_layout(number, options.size, folder, **settings)
            for number, layout in enumerate(LAYOUTS)
            if layout.tiled
        ]
    report.finish(options.out)


if __name__ == "__main__":
    main()
