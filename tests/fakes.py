"""Tiny real parts for tests: an encoder small enough to check by hand."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

DIM = 32
BANDS = ("B02", "B03", "B04", "B08")


def write_raster(path, *, seed=0, shape=(32, 48), bands=BANDS, place=(500_000, 5_500_000), crs="EPSG:32633", **tags):
    """A small GeoTIFF of smooth, seeded Sentinel-2 numbers with named bands; returns its path."""
    random = np.random.default_rng(seed)
    levels = random.integers(200, 6000, (len(bands), shape[0] // 8 + 1, shape[1] // 8 + 1))
    pixels = levels.repeat(8, axis=1).repeat(8, axis=2)[:, : shape[0], : shape[1]]
    pixels = (pixels + random.integers(0, 200, pixels.shape)).astype(np.uint16)
    where = {"crs": crs, "transform": Affine(10, 0, place[0], 0, -10, place[1])} if crs else {}
    size = {"height": shape[0], "width": shape[1], "count": len(bands)}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", nodata=0, **size, **where) as file:
        file.write(pixels)
        file.descriptions = bands
        file.update_tags(**tags)
    return path


def write_scenes(folder, count):
    """So many small scenes in a folder, and a file that is none; returns the folder."""
    for i in range(count):
        write_raster(folder / f"{i:02d}.tif", seed=i)
    (folder / "broken.tif").write_bytes(b"II*\0 nothing more")
    return folder


class TinyEncoder:
    """Band means and deviations through a fixed random projection; texts as hashed bags of words. Real, only small."""

    dim = DIM

    def __init__(self, seed: int = 0) -> None:
        self.name = f"tiny-{seed}"
        self.seed = seed
        self.device = torch.device("cpu")
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()
        self.batches: list[int] = []

    def _direction(self, key: str) -> torch.Tensor:
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return torch.randn(DIM, generator=torch.Generator().manual_seed(int.from_bytes(digest[:6], "big")))

    def embed(self, pixels, valid, bands):
        self.batches.append(len(pixels))
        mask = valid[:, None].float()
        count = mask.sum(dim=(2, 3)).clamp_min(1)
        mean = (pixels * mask).sum(dim=(2, 3)) / count
        deviation = (((pixels - mean[:, :, None, None]) * mask) ** 2).sum(dim=(2, 3)).div(count).sqrt()
        features = torch.cat([mean, deviation], dim=1)
        directions = [self._direction(f"{what} {band.name}") for what in ("mean", "deviation") for band in bands]
        vectors = features @ torch.stack(directions) + 0.01 * self._direction("bias")
        return torch.nn.functional.normalize(vectors, dim=1)

    def encode_scenes(self, scenes):
        rows = [
            self.embed(torch.from_numpy(s.pixels)[None], torch.from_numpy(s.valid)[None], s.bands).numpy()
            for s in scenes
        ]
        return np.concatenate(rows) if rows else np.zeros((0, DIM), np.float32)

    def encode_texts(self, texts):
        rows = [
            sum((self._direction(word) for word in re.findall(r"\w+", text.lower())), self._direction("bias"))
            for text in texts
        ]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


class FaultError(BaseException):
    """What kills a worker; no handler of ordinary errors catches it."""


class Faulty(TinyEncoder):
    """The tiny encoder, until it has encoded so many chips; then it raises its `fault`."""

    def __init__(self, chips=10**9, fault=FaultError):
        super().__init__()
        self.left = chips
        self.fault = fault

    def embed(self, pixels, valid, bands):
        if self.left < len(pixels):
            raise self.fault
        self.left -= len(pixels)
        return super().embed(pixels, valid, bands)

    @property
    def encoded(self):
        return sum(self.batches)


def bytes_read():
    """What this process has read of files so far."""
    try:
        told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        pytest.skip("this system does not count what a process reads")
    return int(told["rchar"])


class MappedTiny(TinyEncoder):
    """The tiny encoder with a dense map: one vector for every 16 x 16 pixels."""

    def similarity_map(self, scene, texts):
        from rsvlm.scene import Window

        rows, cols = (max(1, n // 16) for n in scene.shape)
        cells = [
            scene.crop(Window(16 * r, 16 * c, min(16, scene.shape[0]), min(16, scene.shape[1])))
            for r in range(rows)
            for c in range(cols)
        ]
        return (self.encode_texts(texts) @ self.encode_scenes(cells).T).reshape(len(texts), rows, cols)

    def change_map(self, before, after, texts):
        return None


class KeywordPlanner:
    """A language model of a few rules: isolates the steps around it from what a real one makes of a question."""

    name = "keyword planner"
    fingerprint = hashlib.sha256(b"keyword planner").hexdigest()

    def plan(self, question, context):
        from rsvlm.language.plan import Plan

        found = re.search(r"how much .*?(\w+)\?|is there (?:any )?(\w+)\?|where is (\w+)", question.lower())
        if "poem" in question:
            return Plan("abstain")
        if question.lower().startswith("find "):
            return Plan("search", question[5:])
        if found is None:
            return Plan("change") if "change" in question else Plan("describe")
        task = "area" if found[1] else "presence" if found[2] else "locate"
        return Plan(task, found[1] or found[2] or found[3])

    def word(self, facts, hits, question):
        from rsvlm.language.wording import PlainWording

        return PlainWording().word(facts, hits, question)
