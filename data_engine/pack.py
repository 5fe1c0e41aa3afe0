"""Packs: shards of samples with a manifest written last, and a torch dataset that streams them."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import IterableDataset, get_worker_info

from data_engine.sample import Sample
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

PACK_FORMAT = 1
MANIFEST = "pack.json"
ROWS = 512  # samples in a row group: what is read and shuffled at once
SCHEMA = pa.schema([("kind", pa.string()), ("source", pa.string()), ("type", pa.string()), ("json", pa.string())])


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished file of samples of one source and split."""

    file: str  # relative to the pack
    source: str
    split: str
    counts: dict[str, int]  # samples by kind
    sha256: str


def write_shard(folder: Path, name: str, samples: Sequence[Sample]) -> list[Shard]:
    """Write samples of one source, one file a split; each appears whole or not at all."""
    found = []
    for split in sorted({sample.origin.split for sample in samples}):
        part = [sample for sample in samples if sample.origin.split == split]
        path = folder / split / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"kind": s.kind, "source": s.origin.source, "type": s.type, "json": json.dumps(s.to_json())} for s in part
        ]
        beside = path.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), beside, compression="zstd", row_group_size=ROWS)
        os.replace(beside, path)
        counts = dict(sorted(Counter(sample.kind for sample in part).items()))
        found.append(Shard(f"{split}/{path.name}", part[0].origin.source, split, counts, sha256_of(path)))
    return found


def write_manifest(folder: Path, shards: Iterable[Shard], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write pack.json: its presence says that the pack is whole. Returns what it holds."""
    listed = sorted(shards, key=lambda shard: shard.file)
    totals: dict[str, Counter[str]] = {}
    for shard in listed:
        totals.setdefault(f"{shard.split} {shard.source}", Counter()).update(shard.counts)
    manifest = {
        "format": PACK_FORMAT,
        "samples": sum(sum(shard.counts.values()) for shard in listed),
        "counts": {name: dict(sorted(counts.items())) for name, counts in sorted(totals.items())},
        **about,
        "shards": [{name: getattr(shard, name) for name in Shard.__slots__} for shard in listed],
    }
    beside = folder / f"{MANIFEST}.part"
    beside.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a pack holds; raises DatasetError where it is unfinished, foreign or newer than this software."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} holds no {MANIFEST}: it is no pack, or its build did not end; build it"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder / MANIFEST} is damaged ({error}); build the pack again") from error
    if version != PACK_FORMAT:
        raise DatasetError(f"{folder} has pack format {version}, this software reads {PACK_FORMAT}; update or rebuild")
    plain: dict[str, Any] = manifest
    return plain


def verify(folder: Path) -> list[str]:
    """Shards that are missing or whose bytes are not those that were written."""
    problems = []
    for shard in read_manifest(folder)["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            problems.append(f"{shard['file']} is missing")
        elif sha256_of(path) != shard["sha256"]:
            problems.append(f"{shard['file']} is damaged")
    return problems


def read_shard(path: Path) -> Iterator[Sample]:
    """Samples of one shard in their order; raises DatasetError where it is damaged."""
    for group in range(_groups(path)):
        yield from (Sample.from_json(json.loads(text)) for text in _read_group(path, group, frozenset()))


class PackDataset(IterableDataset[Sample]):
    """Streams a pack's samples, shuffled by a seed, the sources mixed by weight.

    One pass yields as many samples as the pack has; a source that runs out starts again in another order, one with a
    small weight may not come to its end. Workers share the row groups out. The order depends on seed, epoch and the
    number of workers alone. Paths in samples are relative to the pack.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "train",
        kinds: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        """Raises DatasetError where the pack has nothing of that split and kinds, or a weight names no source."""
        self.folder, self.kinds, self.seed, self.epoch = Path(folder), frozenset(kinds), seed, epoch
        shards = [shard for shard in read_manifest(self.folder)["shards"] if shard["split"] == split]
        self.sizes: Counter[str] = Counter()
        self.files: dict[str, list[Path]] = {}
        for shard in shards:
            size = sum(n for kind, n in shard["counts"].items() if not self.kinds or kind in self.kinds)
            if size:
                self.sizes[shard["source"]] += size
                self.files.setdefault(shard["source"], []).append(self.folder / shard["file"])
        if not self.files:
            raise DatasetError(f"{folder} holds no samples of split {split!r} and kinds {sorted(self.kinds) or 'any'}")
        unknown = sorted(set(weights or {}) - set(self.files))
        if unknown or any(weight < 0 for weight in (weights or {}).values()):
            raise DatasetError(f"weights are 0 or more for {', '.join(sorted(self.files))}; got {dict(weights or {})}")
        share = {source: float(size) for source, size in self.sizes.items()} | dict(weights or {})
        self.weights = {source: weight for source, weight in sorted(share.items()) if weight > 0}

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        chance = random.Random(f"{self.seed}-{self.epoch}-{number}-{workers}")
        streams = {source: self._endless(source, number, workers) for source in self.weights}
        sources, weights = list(self.weights), list(self.weights.values())
        for _ in range(len(range(number, len(self), workers))):
            yield next(streams[chance.choices(sources, weights)[0]])

    def _endless(self, source: str, number: int, workers: int) -> Iterator[Sample]:
        """This worker's share of a source, each round in a new order that all workers agree on."""
        groups = [(path, group) for path in self.files[source] for group in range(_groups(path))]
        for turn in count():
            chance = random.Random(f"{self.seed}-{self.epoch}-{source}-{turn}")
            place = 0  # of the row in the round, over all kinds
            for path, group in chance.sample(groups, len(groups)):
                texts = _read_group(path, group, self.kinds)
                chance.shuffle(texts)
                first = (number - place) % workers
                place += len(texts)
                yield from (Sample.from_json(json.loads(text)) for text in texts[first::workers])


def _groups(path: Path) -> int:
    with _opened(path) as file:
        number: int = file.num_row_groups
        return number


def _read_group(path: Path, group: int, kinds: frozenset[str]) -> list[str]:
    """Samples of a row group as JSON, of some kinds or of all."""
    with _opened(path) as file:
        table = file.read_row_group(group, columns=["kind", "json"])
    rows = zip(table.column("kind").to_pylist(), table.column("json").to_pylist(), strict=True)
    return [text for kind, text in rows if not kinds or kind in kinds]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} is damaged or missing ({error}); build the pack again") from error


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
