"""Goals 5 and 6: from files to vectors, against TorchGeo and timm in float32, and against chips kept as pictures."""

from __future__ import annotations

import io
import tarfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.encoders import COSINE, PRELOAD, cosines, encoder_for, too_far, whole
from benchmarks.environment import environment
from benchmarks.imagery import (
    CORNER,
    PIXEL_M,
    SENSOR,
    Layout,
    as_picture,
    described,
    scene_pixels,
    warm,
    write_tiff,
)
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, at_least, settled, verdict, workplace
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.measure import Race, Steps

OURS = "ours"
ONE_HANDLE, PER_CHIP = "one handle, float32", "open for every chip, float32"
TORCHGEO = {workers: f"TorchGeo, {workers} workers, timm float32" for workers in (0, 2)}
WEBDATASET = {workers: f"webdataset, {workers} workers, PIL, float32" for workers in (0, 2)}
PICTURES = {workers: f"PNG files, {workers} workers, PIL, float32" for workers in (0, 2)}
BATCH = 64
SHARD = 64  # chips in a tar file
RGB = "rgb"
RESIZED = 0.9  # least cosine where PIL resizes 8-bit pictures by bicubic splines, and ours numbers by areas
ALL_PRELOAD = (*PRELOAD, "torchgeo.datasets", "torchgeo.samplers", "webdataset")


def starts_of(size: int, chip: int) -> list[tuple[int, int]]:
    """Upper left corners of chips side by side, row by row."""
    return [(row, col) for row in range(0, size, chip) for col in range(0, size, chip)]


def outcome(found: NDArray[np.float32], reference: Path, least: float = COSINE) -> Outcome:
    """Whether vectors (N, D) are those of the slow and obvious way."""
    facts = cosines(found, np.load(reference))
    return Outcome(len(found), facts, too_far(facts, least))


def ours(path: Path, reference: Path, chip: int, threads: int, sensor: str, least: float) -> Steps:
    """The embedding pipeline as an add runs it."""
    from retrieval.embed import Job, embed_rasters

    encoder = encoder_for(threads=threads)
    yield
    (result,) = embed_rasters([Job(path, sensor)], encoder, chip=chip, stride=chip, batch=BATCH, readers=threads)
    yield
    if result.failure:
        return Outcome(1, {}, result.failure)
    return outcome(result.vectors, reference, least)


def windows_then_whole(path: Path, reference: Path, chip: int, threads: int, *, reopen: bool) -> Steps:
    """A loop over windows, and batches through the encoder in one piece."""
    import rasterio
    import torch
    from rasterio.windows import Window

    encoder = encoder_for(threads=threads)

    def read(dataset: Any, row: int, col: int) -> NDArray[Any]:
        pixels: NDArray[Any] = dataset.read(window=Window(col, row, chip, chip))
        return pixels

    def chip_at(dataset: Any, row: int, col: int) -> NDArray[Any]:
        if not reopen:
            return read(dataset, row, col)
        with rasterio.open(path) as again:
            return read(again, row, col)

    yield
    found = []
    with rasterio.open(path) as file:
        starts = starts_of(file.width, chip)
        for first in range(0, len(starts), BATCH):
            pixels = np.stack([chip_at(file, row, col) for row, col in starts[first : first + BATCH]])
            found.append(vectors_of(encoder, torch.from_numpy(pixels.astype(np.float32))))
    yield
    return outcome(np.concatenate(found), reference)


def vectors_of(encoder: Any, stored: Tensor) -> NDArray[np.float32]:
    """Vectors (N, D) of stored values (N, 12, H, W) as float32, in one forward pass."""
    import torch

    bands = SENSORS[SENSOR].bands
    valid = torch.ones((len(stored), *stored.shape[2:]), dtype=torch.bool)
    found: NDArray[np.float32] = whole(encoder, stored * bands[0].scale, valid, bands).numpy()
    return found


def torchgeo(path: Path, reference: Path, chip: int, threads: int, workers: int) -> Steps:
    """TorchGeo's grid sampler through a DataLoader, and timm's trunk in float32."""
    from torch.utils.data import DataLoader

    datasets, samplers = import_module("torchgeo.datasets"), import_module("torchgeo.samplers")
    encoder, step = encoder_for(threads=threads), chip * PIXEL_M
    found = np.zeros_like(np.load(reference))
    across = int(np.sqrt(len(found)))
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
        places = [
            round((CORNER[1] - y.stop) / step) * across + round((x.start - CORNER[0]) / step)
            for x, y, *_ in batch["bounds"]
        ]
        found[places] = vectors_of(encoder, batch["image"])
    yield
    return outcome(found, reference)


class Prepared:
    """Pictures as clip-retrieval prepares them: PIL, then open_clip's transform; a dataset of files, a map of bytes."""

    def __init__(self, files: list[Path], size: int, mean: list[float], std: list[float]) -> None:
        import open_clip

        self.files = files
        self.transform = open_clip.image_transform(size, is_train=False, mean=tuple(mean), std=tuple(std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.picture(self.files[place].read_bytes()), place

    def picture(self, data: bytes) -> Tensor:
        """One picture, normalised."""
        prepared: Tensor = self.transform(Image.open(io.BytesIO(data)))
        return prepared

    def sample(self, item: dict[str, Any]) -> tuple[Tensor, int]:
        """One sample of a tar file."""
        return self.picture(item["png"]), int(item["__key__"])


def pictures(folder: Path, reference: Path, threads: int, workers: int, least: float, *, shards: bool) -> Steps:
    """Chips kept as PNG, in files or in tar files, through a DataLoader and the encoder in one piece."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader

    encoder = encoder_for(threads=threads)
    bands, preprocessing = SENSORS[RGB].bands, encoder.preprocessing
    known = [preprocessing.of(band) for band in bands]
    files = sorted(folder.glob("*.png"))
    prepared = Prepared(files, preprocessing.image_size, [s.mean for s in known], [s.std for s in known])
    found = np.zeros_like(np.load(reference))
    yield
    dataset: Any = prepared
    if shards:
        urls = [str(path) for path in sorted(folder.glob("*.tar"))]
        dataset = (
            import_module("webdataset").WebDataset(urls, shardshuffle=False, empty_check=False).map(prepared.sample)
        )
    with torch.inference_mode():
        for batch, places in DataLoader(dataset, batch_size=BATCH, num_workers=workers):
            vectors = functional.normalize(encoder.model.image_features(batch, bands), dim=-1)
            found[places.numpy()] = vectors.numpy()
    yield
    return outcome(found, reference, least)


def reference_vectors(chips: Iterable[NDArray[Any]], sensor: str, threads: int) -> NDArray[np.float32]:
    """Chip by chip through `encode_scenes` in float32: slow and obvious."""
    from rsvlm.scene import Grid, Scene

    encoder, about = encoder_for(threads=threads, precision="float32"), SENSORS[sensor]
    factors = np.array([(band.scale, band.offset) for band in about.bands], np.float32)
    scale, offset = factors.T[:, :, None, None]

    def vector(raw: NDArray[Any]) -> NDArray[np.float32]:
        size = raw.shape[1:]
        pixels = raw.astype(np.float32) * scale + offset
        return encoder.encode_scenes([Scene(pixels, np.ones(size, np.bool_), about.bands, about, Grid(*size))])

    return np.concatenate([vector(raw) for raw in chips])


def cut(pixels: NDArray[Any], chip: int) -> list[NDArray[Any]]:
    """Chips (C, chip, chip) side by side."""
    return [pixels[:, row : row + chip, col : col + chip] for row, col in starts_of(pixels.shape[1], chip)]


def from_rasters(folder: Path, options: argparse.Namespace) -> Race:
    """Goal 5: 12 bands out of a GeoTIFF."""
    pixels, content = scene_pixels(options.data, options.size, seed=options.seed)
    path, reference, layout = folder / "scene.tif", folder / "scene.npy", Layout()
    write_tiff(path, pixels, layout)
    np.save(reference, reference_vectors(cut(pixels, options.chip), SENSOR, options.threads))
    what = {"path": path, "reference": reference, "chip": options.chip, "threads": options.threads}
    return race(
        f"12 bands from a GeoTIFF, {layout}, {options.size} x {options.size}, chips of {options.chip}",
        [
            Contender(OURS, ours, {**what, "sensor": SENSOR, "least": COSINE}),
            Contender(ONE_HANDLE, windows_then_whole, {**what, "reopen": False}),
            Contender(PER_CHIP, windows_then_whole, {**what, "reopen": True}),
            *(
                Contender(name, torchgeo, {**what, "workers": workers}, ("torchgeo",))
                for workers, name in TORCHGEO.items()
            ),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=ALL_PRELOAD,
        notes=described(layout, path, pixels, content),
    )


def from_pictures(folder: Path, chip: int, options: argparse.Namespace) -> Race:
    """Goal 6: three bands of 8 bits, out of a GeoTIFF and out of one PNG a chip; cutting those is not counted."""
    folder.mkdir()
    pixels, content = scene_pixels(options.data, options.size, seed=options.seed)
    picture, layout, reference = as_picture(pixels), Layout(interleave="pixel"), folder / "picture.npy"
    path = write_tiff(folder / "picture.tif", picture, layout, bands=tuple(band.name for band in SENSORS[RGB].bands))
    chips = cut(picture, chip)
    np.save(reference, reference_vectors(chips, RGB, options.threads))
    for place, one in enumerate(chips):
        Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))).save(folder / f"{place:06}.png")
    write_shards(folder)
    what: dict[str, Any] = {"reference": reference, "threads": options.threads, "least": COSINE}
    if chip != 128:
        what["least"] = RESIZED
    kept = {**what, "folder": folder}
    notes = {**described(layout, path, picture, content), "pictures": warm(sorted(folder.glob("*.[pt][na][gr]")))}
    return race(
        f"three bands of 8 bits, {options.size} x {options.size}, chips of {chip}",
        [
            Contender(OURS, ours, {**what, "path": path, "chip": chip, "sensor": RGB, "least": COSINE}),
            *(
                Contender(name, pictures, {**kept, "workers": workers, "shards": True}, ("webdataset",))
                for workers, name in WEBDATASET.items()
            ),
            *(
                Contender(name, pictures, {**kept, "workers": workers, "shards": False})
                for workers, name in PICTURES.items()
            ),
        ],
        unit="chip",
        rounds=options.rounds,
        seed=options.seed,
        preload=ALL_PRELOAD,
        notes=notes,
    )


def write_shards(folder: Path) -> None:
    """The PNG files of a folder in tar files, as webdataset wants them."""
    files = sorted(folder.glob("*.png"))
    for first in range(0, len(files), SHARD):
        with tarfile.open(folder / f"{first:06}.tar", "w") as tar:
            for path in files[first : first + SHARD]:
                tar.add(path, path.name)


def goals_of(rasters: Race, picture_races: list[Race]) -> list[Goal]:
    """Goals 5 and 6."""
    matrix = "amx_bf16" in environment()["instructions"]
    wanted = 3.0 if matrix else 1.2
    best = rasters.best(list(TORCHGEO.values()), "cpu") or TORCHGEO[0]
    where = "with AMX" if matrix else "without AMX"
    cosine = rasters.fact(OURS, "least cosine")
    goals = [
        at_least("5", f"CPU per chip, {where}, against {best}", wanted, rasters, best, "cpu"),
        Goal("5", "least cosine to float32", f"{COSINE}", f"{cosine:.6f}", verdict(cosine >= COSINE)),
    ]
    for found in picture_races:
        best = found.best([*WEBDATASET.values(), *PICTURES.values()], "cpu")
        goals.append(at_least("6", f"CPU per chip, {found.case}, against {best}", 2.0, found, best, "cpu"))
    return goals


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chip", type=int, default=128, help="side of the chips of 12 bands, in pixels")
    parser.add_argument("--size", type=int, help="side of the raster; default 4096, 512 quick")
    parser.add_argument("--pictures", type=int, nargs="*", default=[128, 256], help="sides of the chips of three bands")
    options = parser.parse_args()
    options.size = options.size or (512 if options.quick else 4096)
    report = Report("end_to_end", settled(options))
    with workplace(options.work) as folder:
        rasters = from_rasters(folder, options)
        others = [from_pictures(folder / f"pictures-{chip}", chip, options) for chip in options.pictures]
    report.races, report.goals = [rasters, *others], goals_of(rasters, others)
    report.finish(options.out)


if __name__ == "__main__":
    main()
