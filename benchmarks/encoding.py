"""The forward pass of the encoder on a processor: float32 and bfloat16, at once and in parts, by size of batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoders import COSINE, PRELOAD, SHIPPED, cosines, encoder_for, too_far, whole
from benchmarks.imagery import SENSOR, scene_pixels
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, settled, spread_text, verdict, workplace
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.measure import Race, Steps

OURS = "ours"
WAYS: dict[str, dict[str, bool]] = {
    "float32, whole batch": {},
    "float32, whole batch, channels last": {"channels_last": True},
    "bfloat16, whole batch": {"bfloat16": True},
    "bfloat16, whole batch, channels last": {"bfloat16": True, "channels_last": True},
}
BATCHES = (1, 16, 64, 256)
LEAST_BFLOAT16 = 0.99  # what half precision may cost; reported whatever it is


def encode(chips: Path, batch: int, trunk: str, threads: int, way: dict[str, bool] | None) -> Steps:
    """Vectors of stored chips (N, C, H, W), batch by batch; `way` None is the project's own."""
    import torch

    from retrieval.embed import encode_raw, physical

    raw = np.load(chips)
    valid = np.ones((len(raw), *raw.shape[2:]), np.bool_)
    bands, encoder = SENSORS[SENSOR].bands, encoder_for(trunk, threads=threads)
    own = partial(encode_raw, encoder, bands=bands)

    def other(some: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        pixels, good = physical(torch.from_numpy(some), torch.from_numpy(mask), bands, linear=False)
        vectors: NDArray[np.float32] = whole(encoder, pixels, good, bands, **(way or {})).numpy()
        return vectors

    if way is not None and way.get("channels_last"):
        encoder.model.to(memory_format=torch.channels_last)
    run = other if way is not None else lambda some, mask: own(some, mask)[0]
    run(raw[:batch], valid[:batch])  # kernels are chosen and the stem is collapsed the first time
    yield
    parts = [slice(start, start + batch) for start in range(0, len(raw), batch)]
    found = np.concatenate([run(raw[part], valid[part]) for part in parts])
    yield
    exact = encoder_for(trunk, threads=threads, precision="float32")
    facts = cosines(found, encode_raw(exact, raw, valid, bands=bands)[0])
    least = LEAST_BFLOAT16 if way and way.get("bfloat16") else COSINE
    return Outcome(len(raw), facts, too_far(facts, least))


def one_batch(chips: Path, batch: int, trunk: str, options: Any) -> Race:
    """Race at one size of batch."""
    what = {"chips": chips, "batch": batch, "trunk": trunk, "threads": options.threads}
    return race(
        f"{trunk} encoder, {options.chip} px x 12 bands, batch {batch}",
        [
            Contender(OURS, encode, {**what, "way": None}),
            *(Contender(name, encode, {**what, "way": way}) for name, way in WAYS.items()),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=PRELOAD,
        notes={"chips": options.chips, "threads": options.threads},
    )


def fastest(found: Race) -> Goal:
    """No numbered goal: whether the way that ships is the cheapest that keeps the cosine."""
    right = [name for name in WAYS if name in found.samples and found.fact(name, "least cosine") >= COSINE]
    best = found.best(right, "cpu")
    ratio = found.ratio(best, "cpu")
    said = f"best other, {best}: {spread_text(ratio)}"
    return Goal(
        "-",
        f"ours is the cheapest at cosine {COSINE}; {found.case}",
        "0.95x",
        said,
        verdict(ratio.median >= 0.95, sure=found.conclusive("cpu")),
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chip", type=int, default=128, help="side in pixels")
    parser.add_argument("--chips", type=int, help="of every run; default 256, 16 quick")
    parser.add_argument("--batches", type=int, nargs="+", help=f"default {' '.join(map(str, BATCHES))}; 8 quick")
    parser.add_argument("--trunks", nargs="+", default=[SHIPPED], help="shipped, or timm trunks with untrained weights")
    options = parser.parse_args()
    options.chips = options.chips or (16 if options.quick else 256)
    options.batches = options.batches or ([8] if options.quick else list(BATCHES))
    report = Report("encoding", settled(options))
    with workplace(options.work) as folder:
        chips = folder / "chips.npy"
        across = int(np.ceil(np.sqrt(options.chips)))
        pixels, content = scene_pixels(options.data, across * options.chip, seed=options.seed)
        cut = pixels.reshape(len(pixels), across, options.chip, across, options.chip).transpose(1, 3, 0, 2, 4)
        np.save(chips, cut.reshape(-1, len(pixels), options.chip, options.chip)[: options.chips])
        report.notes["content"] = content
        for trunk in options.trunks:
            report.races += [one_batch(chips, min(batch, options.chips), trunk, options) for batch in options.batches]
    report.goals = [fastest(found) for found in report.races]
    report.finish(options.out)


if __name__ == "__main__":
    main()
