"""A large archive to search in: embeddings of real chips, jittered, in the project's table; texts as queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoders import encoder_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval.store import ChipTable

NEIGHBOURS = 10
SHARES = {"1 %": 0.01, "50 %": 0.5}  # of the chips that pass a filter on the column `cloud`
BLOCK = 65_536
CHIP = 16  # side of the chips of the archive; none of them was cut, but some are added
JITTER = "embeddings of {chips:,} real chips, each jittered by as much as real neighbours differ"
NO_CHIPS = "clustered random directions, for want of the project's imagery"


@dataclass(frozen=True)
class Corpus:
    """Vectors, queries and the right answers, kept in a folder."""

    folder: Path
    rows: int
    about: str
    asked: str

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All of them (N, D), mapped; unit length, of float16 precision as the table keeps them."""
        found: NDArray[np.float32] = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return found

    @property
    def clouds(self) -> NDArray[np.float64]:
        """The column that filters look at (N,): even between 0 and 1."""
        return np.random.default_rng(7).random(self.rows)

    def queries(self) -> NDArray[np.float32]:
        """Texts to measure with (Q, D)."""
        return self._read("queries")

    def tuning(self) -> NDArray[np.float32]:
        """Other texts, to tune with."""
        return self._read("tuning")

    def truth(self, what: str) -> NDArray[np.int64]:
        """Positions (Q, 10) of the true neighbours: of "queries", "tuning", or of queries within a share."""
        found: NDArray[np.int64] = np.load(self.folder / f"truth {what}.npy")
        return found

    def table(self) -> ChipTable:
        """The archive's table of these vectors."""
        from retrieval.store import ChipTable

        return ChipTable.open(self.folder / "archive")

    def _read(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.load(self.folder / f"{name}.npy")
        return found


def corpus(work: Path, data: Path, *, rows: int, queries: int, chips: int, seed: int, threads: int) -> Corpus:
    """The corpus of a folder, made where it is not there yet."""
    folder = work / f"corpus-{rows}-{chips}-{queries}-{seed}"
    about = folder / "about.json"
    if not about.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = _make(folder, data, rows=rows, queries=queries, chips=chips, seed=seed, threads=threads)
        about.write_text(json.dumps({"about": made.about, "asked": made.asked}), encoding="utf-8")
    return Corpus(folder, rows, **json.loads(about.read_text(encoding="utf-8")))


def _make(folder: Path, data: Path, *, rows: int, queries: int, chips: int, seed: int, threads: int) -> Corpus:
    from retrieval.kinds import TUNING_TEXTS

    encoder = encoder_for(threads=threads)
    base, about = base_vectors(data, encoder, chips, seed)
    stored = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (rows, base.shape[1]))
    for first, block in jittered(base, rows, seed):
        stored[first : first + len(block)] = block
    stored.flush()
    texts, asked = some_texts(data, queries, seed)
    np.save(folder / "queries.npy", encoder.encode_texts(texts))
    np.save(folder / "tuning.npy", encoder.encode_texts(TUNING_TEXTS))
    found = Corpus(folder, rows, about, asked)
    _write_table(found, encoder)
    _write_truth(found)
    return found


def base_vectors(data: Path, encoder: Any, chips: int, seed: int) -> tuple[NDArray[np.float32], str]:
    """Unit vectors of real chips, of all kinds of scene alike, or of clusters."""
    images = sorted((data / "rsicd_aid" / "images").glob("*/*.webp"))
    if not images:
        random = np.random.default_rng(seed)
        centres = random.normal(size=(64, encoder.dim))
        spread = centres[random.integers(0, 64, chips)] + 0.7 * random.normal(size=(chips, encoder.dim))
        return _unit(spread.astype(np.float32)), NO_CHIPS
    from rsvlm.raster import read_scene

    chosen = [images[place] for place in np.linspace(0, len(images) - 1, min(chips, len(images))).astype(int)]
    parts = [encoder.encode_scenes([read_scene(path, sensor="rgb") for path in chosen[i : i + 64]])
             for i in range(0, len(chosen), 64)]  # fmt: skip
    return np.concatenate(parts), JITTER.format(chips=len(chosen))


def jittered(base: NDArray[np.float32], rows: int, seed: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks of unit vectors: real ones, moved by draws of the Gaussian that differences of near neighbours follow."""
    random = np.random.default_rng(seed)
    likeness = base @ base.T
    np.fill_diagonal(likeness, -2)
    near = np.argpartition(-likeness, min(NEIGHBOURS, len(base) - 1), axis=1)[:, :NEIGHBOURS]
    moves = (base[near] - base[:, None]).reshape(-1, base.shape[1])
    values, directions = np.linalg.eigh(moves.T @ moves / len(moves))
    shape = (directions * np.sqrt(np.maximum(values, 0))).T.astype(np.float32) / np.sqrt(2)
    for first in range(0, rows, BLOCK):
        count = min(BLOCK, rows - first)
        noise = random.standard_normal((count, base.shape[1]), np.float32)
        moved = base[random.integers(0, len(base), count)] + noise @ shape
        yield first, _unit(_unit(moved).astype(np.float16).astype(np.float32))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def some_texts(data: Path, count: int, seed: int) -> tuple[list[str], str]:
    """Captions people wrote, each once, in a shuffled order; sentences from a few words where there are none."""
    captions = data / "rsicd_aid" / "captions.jsonl"
    if captions.is_file():
        lines = captions.read_text(encoding="utf-8").splitlines()
        found, what = sorted({text for line in lines for text in json.loads(line)["captions"]}), "captions people wrote"
    else:
        parts = ("a", "two", "many"), ("ships", "fields", "houses"), ("by a river", "near a road", "on the coast")
        found, what = [" ".join(words) for words in product(*parts)], "made sentences"
    order = np.random.default_rng(seed).permutation(len(found))
    chosen = [found[place] for place in order[:count]]
    return chosen, f"{len(chosen)} {what}, as texts"


def _write_table(found: Corpus, encoder: Any) -> None:
    """The table as an add would leave it, but for its places: a few files of one sensor, clouds drawn evenly."""
    from retrieval.schema import ArchiveConfig
    from retrieval.store import ChipTable
    from retrieval.sums import note_files

    folder = found.folder / "archive"
    folder.mkdir()
    table = ChipTable.create(folder, ArchiveConfig(encoder.name, encoder.fingerprint, encoder.dim, CHIP, CHIP))
    for first in range(0, found.rows, 4 * BLOCK):
        part = slice(first, min(first + 4 * BLOCK, found.rows))
        table.replace(table_rows(table, found.vectors[part], found.clouds[part], first, f"{first}.tif"))
    note_files(folder, folder / "chips.lance")


def table_rows(
    table: ChipTable, vectors: NDArray[np.float32], clouds: NDArray[np.float64], first: int, path: str
) -> Any:
    """Rows of chips that were never cut, numbered from `first` on."""
    import pyarrow as pa

    count, schema = len(vectors), table.schema
    flat = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1))
    columns: dict[str, Any] = {
        "chip_id": pa.array([f"{first + place:064d}" for place in range(count)]),
        "vector": pa.FixedSizeListArray.from_arrays(flat, table.config.dim),
        "cloud": pa.array(clouds),
        "row": pa.array(np.arange(first, first + count, dtype=np.int32)),
    }
    same: dict[str, Any] = {
        **{"sensor": "rgb", "bands": ["red", "green", "blue"], "valid": 1.0, "path": path, "col": 0},
        **{"height": CHIP, "width": CHIP, "content_hash": f"{path}-{first}", "file_chips": count},
        "added": datetime.now(UTC),
    }
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.repeat(pa.scalar(same.get(field.name), field.type), count)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _write_truth(found: Corpus) -> None:
    """Exact answers by plain products: of all rows, and of those a filter leaves."""
    from retrieval.kinds import true_neighbours

    def blocks(chosen: NDArray[np.int64] | None) -> Iterator[NDArray[np.float32]]:
        for first in range(0, found.rows, BLOCK):
            stop = min(first + BLOCK, found.rows)
            if chosen is None:
                yield np.asarray(found.vectors[first:stop])
            else:
                inside = chosen[(chosen >= first) & (chosen < stop)]
                yield np.asarray(found.vectors[first:stop])[inside - first]

    for name, asked in (("queries", found.queries()), ("tuning", found.tuning())):
        np.save(found.folder / f"truth {name}.npy", true_neighbours(asked, blocks(None)))
    for name, share in SHARES.items():
        chosen = np.flatnonzero(found.clouds < share)
        np.save(found.folder / f"truth {name}.npy", chosen[true_neighbours(found.queries(), blocks(chosen))])


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true neighbours (Q, 10) that are among those found (Q, k)."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))
