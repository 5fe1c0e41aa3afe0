"""Goal 7: on a GPU, how much of what the device, the bus, the decoder and the disk allow the pipeline reaches."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoders import SHIPPED, encoder_for
from benchmarks.imagery import SENSOR, Layout, scene_pixels, warm, write_tiff
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, settled, verdict, workplace
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Race, Steps
    from retrieval.embed import EmbeddedChips

NO_GPU = "This part needs a GPU that torch can use (CUDA), and there is none on this machine: nothing was measured."
MODELS = {  # name -> timm trunk, side of the image, share of the product's rate that is wanted
    "ViT-S/16 at 128": ("vit_small_patch16_224", 128, 0.22),
    "ViT-B/16 at 224": ("vit_base_patch16_224", 224, 0.38),
    "as shipped at 128": (SHIPPED, 128, 0.0),
}
PRODUCT = "bf16 product"
FORWARD, MEMORY, TIFF = "forward only", "from memory", "from GeoTIFFs"
BUS, DECODE, DISK = "bus", "decoding", "file"
WAYS: dict[str, dict[str, Any]] = {  # other ways to run it, to see which pays
    "forward only, float32": {"precision": "float32"},
    "forward only, bfloat16": {"precision": "bfloat16"},
}
COMPILED = "forward only, compiled"
SECONDS = 2.0  # that a rate is measured for, at least


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def repeated(work: Callable[[], object], device: str, seconds: float) -> int:
    """Do something over and over for so long, and say how often."""
    synchronise(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        count += 1
        if count % 8 == 0:
            synchronise(device)
    synchronise(device)
    return count


def product(device: str, size: int, seconds: float) -> Steps:
    """Square matrices in bfloat16, multiplied: what the device can do; units are 10^9 operations."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    repeated(lambda: left @ right, device, seconds / 4)
    yield
    count = repeated(lambda: left @ right, device, seconds)
    yield
    return Outcome(max(1, round(count * 2 * size**3 / 1e9)))


def chips_of(files: list[Path], chip: int, count: int) -> Any:
    """Stored values (N, 12, chip, chip) of the first chips of the first files."""
    import rasterio

    found: list[Any] = []
    for path in files:
        with rasterio.open(path) as file:
            pixels = file.read()
        across = pixels.shape[1] // chip
        cut = pixels[:, : across * chip, : across * chip].reshape(len(pixels), across, chip, across, chip)
        found += list(cut.transpose(1, 3, 0, 2, 4).reshape(-1, len(pixels), chip, chip))
        if len(found) >= count:
            break
    return np.ascontiguousarray(np.stack([found[place % len(found)] for place in range(count)]))


def forward(
    files: list[Path],
    model: str,
    device: str,
    batch: int,
    threads: int,
    seconds: float,
    *,
    precision: str = "auto",
    compiled: bool = False,
) -> Steps:
    """The encoder on pixels that are on the device already; facts say how many operations one chip takes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    trunk, chip, _ = MODELS[model]
    encoder = encoder_for(trunk, threads=threads, device=device, size=chip, precision=precision)
    bands = SENSORS[SENSOR].bands
    pixels = torch.from_numpy(chips_of(files, chip, batch)).to(device).float() * bands[0].scale
    valid = torch.ones((batch, chip, chip), dtype=torch.bool, device=device)
    with FlopCounterMode(display=False) as counter:
        encoder.embed(pixels[:1], valid[:1], bands)
    if compiled:
        encoder.image_tower.compile(mode="reduce-overhead")  # with CUDA graphs, on a GPU
    repeated(lambda: encoder.embed(pixels, valid, bands), device, seconds / 2)
    yield
    count = repeated(lambda: encoder.embed(pixels, valid, bands), device, seconds)
    yield
    return Outcome(count * batch, {"GFLOP / chip": counter.get_total_flops() / 1e9})


def embed(files: list[Path], model: str, device: str, batch: int, threads: int) -> Steps:
    """The embedding pipeline as an add runs it."""
    from retrieval.embed import Job, embed_rasters

    trunk, chip, _ = MODELS[model]
    encoder = encoder_for(trunk, threads=threads, device=device, size=chip)

    def results(some: list[Path]) -> Iterator[EmbeddedChips]:
        jobs = [Job(path, SENSOR) for path in some]
        return embed_rasters(jobs, encoder, chip=chip, stride=chip, batch=batch, readers=threads)

    next(results(files[:1]))
    yield
    chips, failure = 0, ""
    for result in results(files):
        chips, failure = chips + len(result.vectors), failure or result.failure or ""
    yield
    return Outcome(chips, {}, failure)


def decode(files: list[Path], model: str, threads: int) -> Steps:
    """The readers alone, their chips let go."""
    from retrieval.reading import Chip, Job, Readers

    chip = MODELS[model][1]
    yield
    chips = 0
    with Readers([Job(path, SENSOR) for path in files], chip=chip, stride=chip, threads=threads) as readers:
        for message in readers.messages():
            chips += isinstance(message, Chip)
    yield
    return Outcome(chips)


def bus(files: list[Path], model: str, device: str, batch: int, seconds: float) -> Steps:
    """Batches of stored chips from pinned memory to the device."""
    import torch

    host = torch.from_numpy(chips_of(files, MODELS[model][1], batch))
    host = host.pin_memory() if device.startswith("cuda") else host
    target = torch.empty_like(host, device=device)
    yield
    count = repeated(lambda: target.copy_(host, non_blocking=True), device, seconds)
    yield
    return Outcome(count * batch, {"GB / chip": host.nbytes / batch / 1e9})


def disk(files: list[Path], model: str) -> Steps:
    """The bytes of the files, read and let go; from the page cache where they are in it."""
    import rasterio

    chip, chips = MODELS[model][1], 0
    for path in files:
        with rasterio.open(path) as file:
            chips += -(-file.height // chip) * -(-file.width // chip)
    yield
    for path in files:
        with path.open("rb", buffering=0) as raw:
            while raw.read(2**24):
                pass
    yield
    return Outcome(chips, {"GB": sum(path.stat().st_size for path in files) / 1e9})


def one_model(model: str, plain: list[Path], packed: list[Path], options: argparse.Namespace) -> Race:
    """Every part of the pipeline and the whole of it, for one model."""
    common = {"model": model, "device": options.device, "batch": options.batch}
    timed = {**common, "seconds": options.seconds}
    ways = {FORWARD: {}, **WAYS, **({COMPILED: {"compiled": True}} if options.compiled else {})}
    return race(
        f"{model}, 12 bands, batch {options.batch}, {options.threads} readers, on {options.device}",
        [
            Contender(TIFF, embed, {**common, "files": packed, "threads": options.threads}),
            Contender(MEMORY, embed, {**common, "files": plain, "threads": options.threads}),
            *(
                Contender(name, forward, {**timed, "files": plain[:1], "threads": options.threads, **way})
                for name, way in ways.items()
            ),
            Contender(BUS, bus, {**timed, "files": plain[:1]}),
            Contender(DECODE, decode, {"model": model, "files": packed, "threads": options.threads}),
            Contender(DISK, disk, {"model": model, "files": packed}),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        notes={
            "content": options.content,
            "page_cache": warm([*plain, *packed]),
            MEMORY: "uncompressed GeoTIFFs in the page cache",
        },
    )


def rate(found: Race, name: str) -> float:
    """Units a second, in the middle of the rounds."""
    return 1 / float(np.median(found.seconds(name, "wall")))


def goals_of(found: Race, power: Race) -> list[Goal]:
    """Shares of what is possible."""
    model = next(name for name in MODELS if found.case.startswith(name))
    wanted, sure = MODELS[model][2], found.conclusive("wall") and power.conclusive("wall")
    used = rate(found, FORWARD) * found.fact(FORWARD, "GFLOP / chip")
    share, possible = used / rate(power, PRODUCT), rate(power, PRODUCT) / 1000
    said = f"{share:.3f} at {rate(found, FORWARD):,.0f} chips/s, {used / 1000:.1f} of {possible:.0f} TFLOP/s"
    goals = []
    if wanted:
        met = verdict(share >= wanted, sure=sure)
        goals.append(Goal("7", f"{model}: share of the bf16 product", f"{wanted}", said, met))
    part = rate(found, MEMORY) / rate(found, FORWARD)
    said = f"{part:.2f} at {rate(found, MEMORY):,.0f} chips/s"
    goals.append(Goal("7", f"{model}: {MEMORY} over forward only", "0.9", said, verdict(part >= 0.9, sure=sure)))
    limits = {name: rate(found, name) for name in (FORWARD, BUS, DECODE, DISK)}
    least = min(limits, key=lambda name: limits[name])
    part = rate(found, TIFF) / limits[least]
    said = f"{part:.2f} at {rate(found, TIFF):,.0f} chips/s, held back by {least} at {limits[least]:,.0f}"
    goals.append(Goal("7", f"{model}: {TIFF} over the slowest part", "0.85", said, verdict(part >= 0.85, sure=sure)))
    return goals


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", help="cpu tries the script where there is no GPU")
    parser.add_argument("--batch", type=int, help="default 256, 4 quick")
    parser.add_argument("--files", type=int, help="rasters; default 8, 1 quick")
    parser.add_argument("--size", type=int, help="side of each; default 4096, 448 quick")
    parser.add_argument("--compiled", action="store_true", help="also through torch.compile: a minute more every run")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--product", type=int, help="side of the matrices; default 8192, 512 quick")
    options = parser.parse_args()
    if not usable(options.device):
        print(NO_GPU)
        sys.exit(0)
    sizes = {"batch": (4, 256), "files": (1, 8), "size": (448, 4096), "product": (512, 8192)}
    for name, (quick, full) in sizes.items():
        setattr(options, name, getattr(options, name) or (quick if options.quick else full))
    options.seconds = 0.2 if options.quick else SECONDS
    report = Report("gpu", settled(options))
    with workplace(options.work) as folder:
        plain, packed = [], []
        for number in range(options.files):
            pixels, options.content = scene_pixels(options.data, options.size, seed=number)
            plain.append(write_tiff(folder / f"plain-{number}.tif", pixels, Layout(compress="none")))
            packed.append(write_tiff(folder / f"packed-{number}.tif", pixels, Layout()))
        what = {"device": options.device, "size": options.product, "seconds": options.seconds}
        power = race(
            f"{PRODUCT}, {options.product} x {options.product}, on {options.device}",
            [Contender(PRODUCT, product, what)],
            unit="GFLOP",
            rounds=options.rounds,
        )
        report.races = [power, *(one_model(model, plain, packed, options) for model in options.models)]
    report.goals = [goal for found in report.races[1:] for goal in goals_of(found, power)]
    report.finish(options.out)


def usable(device: str) -> bool:
    """Whether torch can use that device."""
    import torch

    return not device.startswith("cuda") or torch.cuda.is_available()


if __name__ == "__main__":
    main()
