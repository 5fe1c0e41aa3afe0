"""Columns of an archive that is made up but for its vectors, filters on them, and a file of it all to import."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.indexes import TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from retrieval.schema import ArchiveConfig

ALL = "all"
CHIP = 128  # pixels
SCENE = 100  # chips of one path
HALF = 0.005  # degrees, half a side of a footprint
SENSORS = ("rgb", "naip", "sentinel-2-l2a", "sentinel-1-grd")
SHARES = (0.4, 0.1, 0.3, 0.2)  # of the chips, by sensor
FIRST_YEAR, YEARS = 2016, 10
BOX = (0.0, 40.0, 30.0, 60.0)  # west, south, east, north
SAID = "random and independent of the vectors: date, sensor, cloud share, place"
PARQUET = "vectors.parquet"


@dataclass(frozen=True, slots=True)
class Columns:
    """What is known of N chips beside their vectors."""

    cloud: NDArray[np.float64]  # (N,), even between 0 and 1
    acquired: NDArray[np.datetime64]  # (N,), even over YEARS years
    sensor: NDArray[np.int64]  # (N,), places in SENSORS
    bounds: NDArray[np.float64]  # (N, 4), west, south, east, north in degrees, between 59 south and 59 north

    @classmethod
    def drawn(cls, rows: int, seed: int) -> Columns:
        """The same for the same seed."""
        random = np.random.default_rng(seed)
        start, stop = (np.datetime64(f"{year}-01-01", "us") for year in (FIRST_YEAR, FIRST_YEAR + YEARS))
        moments = start + random.integers(0, (stop - start).astype(np.int64), rows).astype("timedelta64[us]")
        middles = np.stack([random.uniform(-179, 179, rows), random.uniform(-59, 59, rows)], axis=1)
        sensors = random.choice(len(SENSORS), rows, p=SHARES)
        return cls(random.random(rows), moments, sensors, np.concatenate([middles - HALF, middles + HALF], axis=1))

    def touching(self, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
        """Which chips touch a box that does not cross the antimeridian."""
        west, south, east, north = self.bounds.T
        touching: NDArray[np.bool_] = (west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1])
        return touching


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter twice: as options of `Archive.search`, and as a plain rule on the columns to check it by."""

    options: Mapping[str, Any]
    passes: Callable[[Columns], NDArray[np.bool_]]


def _in_2020(columns: Columns) -> NDArray[np.bool_]:
    return np.asarray(columns.acquired.astype("datetime64[Y]") == np.datetime64("2020"))


def _sentinel_2_in_box(columns: Columns) -> NDArray[np.bool_]:
    return np.asarray((columns.sensor == SENSORS.index("sentinel-2-l2a")) & columns.touching(BOX))


FILTERS = {
    ALL: Filter({}, lambda columns: np.ones(len(columns.cloud), np.bool_)),
    "50 %": Filter({"where": "cloud < 0.5"}, lambda columns: columns.cloud < 0.5),
    "1 %": Filter({"where": "cloud < 0.01"}, lambda columns: columns.cloud < 0.01),
    "0.1 %": Filter({"where": "cloud < 0.001"}, lambda columns: columns.cloud < 0.001),
    "one year of ten": Filter({"start": date(2020, 1, 1), "end": date(2020, 12, 31)}, _in_2020),
    "one sensor in a box": Filter({"where": 'sensor == "sentinel-2-l2a"', "bbox": BOX}, _sentinel_2_in_box),
}


def prepare(
    folder: Path,
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    columns: Columns,
    queries: NDArray[np.float32],
    config: ArchiveConfig,
) -> None:
    """Write unit vectors, which come in blocks, for an import; and the queries, and the right answers beside them."""
    import pyarrow.parquet as pq

    masks = {name: each.passes(columns) for name, each in FILTERS.items()}
    best = {name: (np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)) for name in masks}
    schema = rows_of(columns, np.zeros((0, config.dim), np.float32), 0).schema.with_metadata(
        {"encoder": config.fingerprint}
    )
    with pq.ParquetWriter(folder / PARQUET, schema) as writer:
        for first, block in blocks:
            writer.write_table(rows_of(columns, block, first).cast(schema))
            scores = queries @ block.T
            for name, mask in masks.items():
                chosen = np.flatnonzero(mask[first : first + len(block)])
                best[name] = _best(best[name], scores[:, chosen], first + chosen)
    np.save(folder / "queries.npy", queries)
    for name, (_, places) in best.items():
        np.save(folder / f"truth {name}.npy", places)


def _best(
    known: tuple[NDArray[np.float32], NDArray[np.int64]], scores: NDArray[np.float32], places: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The TOP best (Q, 10) of those known and of these scores (Q, n) at places (n,), best first."""
    every = np.concatenate([known[0], scores], axis=1)
    named = np.concatenate([known[1], np.broadcast_to(places, scores.shape)], axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :TOP]
    return np.take_along_axis(every, order, axis=1), np.take_along_axis(named, order, axis=1)


def rows_of(columns: Columns, block: NDArray[np.float32], first: int) -> Any:
    """Rows from number `first` on, with these vectors (n, D), as somebody else would write them."""
    import pyarrow as pa
    import shapely

    part, numbers = slice(first, first + len(block)), np.arange(first, first + len(block))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(block).reshape(-1)), block.shape[1])
    return pa.table(
        {
            "id": pa.array([f"{number:012}" for number in numbers], pa.string()),
            "embedding": lists,
            "geometry": pa.array(shapely.to_wkb(shapely.box(*columns.bounds[part].T)), pa.binary()),
            "datetime": pa.array(columns.acquired[part], pa.timestamp("us")),
            "sensor": pa.array([SENSORS[place] for place in columns.sensor[part]], pa.string()),
            "cloud": pa.array(columns.cloud[part]),
            "path": pa.array([f"scenes/{number // SCENE:06}.tif" for number in numbers], pa.string()),
            "row": pa.array((numbers % SCENE * CHIP).astype(np.int32)),
            "col": pa.array(np.zeros(len(block), np.int32)),
            "height": pa.array(np.full(len(block), CHIP, np.int32)),
            "width": pa.array(np.full(len(block), CHIP, np.int32)),
        }
    )
