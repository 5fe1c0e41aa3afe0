"""Goal 8, memory: what embedding and adding hold beside the model, by the number and the size of the rasters."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.adding import scenes
from benchmarks.encoders import PRELOAD, encoder_for
from benchmarks.end_to_end import vectors_of
from benchmarks.imagery import SENSOR, Layout, scene_pixels, warm, write_tiff
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, settled, verdict, workplace

if TYPE_CHECKING:
    import argparse

    from benchmarks.measure import Race, Steps

BATCH = 64
GROWTH = 1.25  # of memory, from a quarter of the files to all of them
MOST_MB = 2000


def embed(files: list[Path], chip: int, threads: int) -> Steps:
    """Vectors of all files, let go as they come."""
    from retrieval.embed import Job, embed_rasters

    encoder, jobs = encoder_for(threads=threads), [Job(path, SENSOR) for path in files]
    next(iter(embed_rasters(jobs[:1], encoder, chip=chip, stride=chip, batch=BATCH, readers=threads)))
    yield
    chips = 0
    for result in embed_rasters(jobs, encoder, chip=chip, stride=chip, batch=BATCH, readers=threads):
        chips += len(result.vectors)
    yield
    return Outcome(chips)


def add(files: list[Path], chip: int, threads: int) -> Steps:
    """An archive of all files, with its table and its index."""
    from retrieval import Archive

    encoder = encoder_for(threads=threads)
    with tempfile.TemporaryDirectory(dir=files[0].parent.parent) as folder:
        with Archive.create(Path(folder) / "first", encoder, chip=chip, stride=chip) as archive:
            archive.add(files[:1], progress=False, readers=threads)
        yield
        with Archive.create(Path(folder) / "archive", encoder, chip=chip, stride=chip) as archive:
            chips = archive.add(files, progress=False, readers=threads).chips
        yield
        return Outcome(chips)


def torchgeo(files: list[Path], chip: int, threads: int) -> Steps:
    """TorchGeo's grid sampler without workers, and timm's trunk in float32: all in one process, to be comparable."""
    from torch.utils.data import DataLoader

    datasets, samplers = import_module("torchgeo.datasets"), import_module("torchgeo.samplers")
    encoder = encoder_for(threads=threads)
    yield
    chips = 0
    for path in files:
        dataset = datasets.RasterDataset(paths=[str(path)])
        sampler = samplers.GridGeoSampler(dataset, size=chip, stride=chip)
        loader: Any = DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=datasets.stack_samples)
        for batch in loader:
            chips += len(vectors_of(encoder, batch["image"]))
    yield
    return Outcome(chips)


def one_case(folder: Path, options: argparse.Namespace) -> Race:
    """Everyone, and the project's at three numbers of files and with one large raster."""
    files, content = scenes(folder / "scenes", options.files, options.size, options.data)
    pixels, _ = scene_pixels(options.data, options.large, seed=options.seed)
    large = write_tiff(folder / "scenes" / "large.tif", pixels, Layout())
    del pixels
    common = {"chip": options.chip, "threads": options.threads}
    fewer = files[: max(1, len(files) // 4)], files[: max(1, len(files) // 16)]
    several = [files, *fewer]
    return race(
        f"rasters of 12 bands, {options.size} x {options.size}, chips of {options.chip}",
        [
            *(Contender(f"embed {len(some)} files", embed, {**common, "files": some}) for some in several),
            Contender(f"embed one of {options.large} x {options.large}", embed, {**common, "files": [large]}),
            *(Contender(f"add {len(some)} files", add, {**common, "files": some}) for some in several),
            Contender(f"TorchGeo, {len(fewer[1])} files", torchgeo, {**common, "files": fewer[1]}, ("torchgeo",)),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=(*PRELOAD, "torchgeo.datasets", "torchgeo.samplers"),
        notes={"content": content, "page_cache": warm([*files, large])},
    )


def grown(found: Race, name: str) -> float:
    """Megabytes held at most beside what was there when work began; the middle of the rounds."""
    samples = sorted(sample.peak - sample.resting for sample in found.samples[name])
    return samples[len(samples) // 2] / 1e6


def goals_of(found: Race) -> list[Goal]:
    """Flat in the number of chips, and under the cap."""
    own = [name for name in found.samples if name.startswith(("embed", "add")) and not name.endswith("again")]
    most = max(own, key=lambda name: grown(found, name))
    said = f"{grown(found, most):.0f} MB ({most})"
    goals = [Goal("8", "memory beside the model", f"under {MOST_MB} MB", said, verdict(grown(found, most) < MOST_MB))]
    for what in ("embed", "add"):
        all_, some, *_ = [name for name in own if name.startswith(what) and name.endswith("files")]
        sizes = grown(found, some), grown(found, all_)
        met = verdict(sizes[1] <= GROWTH * max(sizes[0], 1))
        said = f"{sizes[0]:.0f} MB ({some}), {sizes[1]:.0f} MB ({all_})"
        goals.append(Goal("8", f"memory flat in the number of chips, {what}", f"at most {GROWTH}x", said, met))
    return goals


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--files", type=int, help="rasters; default 160, 16 quick: a quarter must fill what may wait")
    parser.add_argument("--size", type=int, help="side of each; default 1024, 256 quick")
    parser.add_argument("--large", type=int, help="side of the large one; default 4096, 512 quick")
    parser.add_argument("--chip", type=int, default=128)
    options = parser.parse_args()
    options.files = options.files or (16 if options.quick else 160)
    options.size = options.size or (256 if options.quick else 1024)
    options.large = options.large or (512 if options.quick else 4096)
    report = Report("memory", settled(options))
    with workplace(options.work) as work, tempfile.TemporaryDirectory(dir=work) as own:
        report.races = [one_case(Path(own), options)]
    report.goals = goals_of(report.races[0])
    report.finish(options.out)


if __name__ == "__main__":
    main()
