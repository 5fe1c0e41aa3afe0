"""What is asked of an archive, and the order in which its chips answer: content, nearness, ties, distance, pages."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import Geod

from retrieval.filters import all_of, not_among_sql
from retrieval.kinds import DEPTH
from retrieval.places import EARTH, SIDES
from rsvlm.answer import Hit
from rsvlm.encoder.calibration import calibration_of
from rsvlm.errors import QueryError
from rsvlm.findings import FINE_PIXEL_M, WHOLE
from rsvlm.scene import Scene, Window
from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from retrieval.index import VectorIndex
    from retrieval.store import ChipTable

    Found = tuple[NDArray[np.float32], NDArray[np.int64]]

DEEPER = 10  # times as far as the step before; steps do not depend on k, so that pages agree
REACH = 16  # times `near_km`: beyond, nearness would add a ten-millionth of its weight, and adds nothing
TAKEN = 64  # rows read at once while chips too near to a better one are passed over
CROWD = 12_800  # of them looked at, before those that can still be kept are picked out
EARTH_KM = 6371.0088  # mean radius
WGS84 = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Words, a scene, a vector and a place in one question.

    The content's vector is the weighted sum of the unit vectors of `text`, `image` and `vector`, brought to length 1.
    The score is its cosine with the chip, plus `near_weight` x exp(-distance / `near_km`), where the distance runs
    from `near`, (longitude, latitude) in degrees, to the middle of the chip; nothing from 16 x `near_km` on. Text
    cosines are mostly smaller than image cosines, so equal weights let an image say more; a text_weight of 2 to 3
    evens them out.
    """

    text: str | None = None
    image: Scene | None = None
    vector: NDArray[np.float32] | None = None
    text_weight: float = 1.0
    image_weight: float = 1.0
    vector_weight: float = 1.0
    near: tuple[float, float] | None = None
    near_km: float = 10.0
    near_weight: float = 0.1

    def __post_init__(self) -> None:
        weights = (self.text_weight, self.image_weight, self.vector_weight, self.near_km)
        if not all(math.isfinite(weight) and weight > 0 for weight in weights) or not 0 <= self.near_weight <= 10:
            raise QueryError(
                f"weights and near_km are over 0, and near_weight is from 0 to 10; got {weights}, {self.near_weight}"
            )
        if self.near is not None:
            require_place(self.near)
        if self.text is None and self.image is None and self.vector is None:
            raise QueryError("a query has a text, an image or a vector; for a place alone, search in its bbox")

    def parts(self) -> list[tuple[float, Any]]:
        """The contents that are there, with their weights."""
        every = (
            (self.text_weight, self.text),
            (self.image_weight, self.image),
            (self.vector_weight, self.vector),
        )
        return [(weight, content) for weight, content in every if content is not None]

    def bonus(self, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
        """What nearness adds to the scores of chips with these bounds (N, 4); 0 for chips without a place."""
        if self.near is None:
            return np.zeros(len(bounds))
        distance = kilometres(middles(bounds), np.asarray(self.near, np.float64))
        return np.where(distance < REACH * self.near_km, self.near_weight * np.exp(-distance / self.near_km), 0.0)


def require_place(place: tuple[float, float]) -> None:
    """Raise QueryError for what is no (longitude, latitude)."""
    good = len(place) == 2 and all(isinstance(v, int | float) and math.isfinite(v) for v in place)
    if not good or abs(place[0]) > 180 or abs(place[1]) > 90:
        raise QueryError(f"a place is longitude and latitude in degrees, within -180..180 and -90..90; got {place!r}")


def around(place: tuple[float, float], km: float) -> tuple[float, float, float, float]:
    """A box (west, south, east, north) that touches every chip with its middle within so many kilometres of a place."""
    lon, lat = place
    reach = math.degrees(km / EARTH_KM) + 1e-6
    south, north = max(lat - reach, -90), min(lat + reach, 90)
    slim = math.cos(math.radians(max(abs(south), abs(north))))
    if abs(lat) + reach >= 90 or reach >= 180 * slim:
        return -180, south, 180, north
    west, east = lon - reach / slim, lon + reach / slim
    return (west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north


def _holds(ascending: NDArray[np.int64], row: int) -> bool:
    place = int(np.searchsorted(ascending, row))
    return place < len(ascending) and int(ascending[place]) == row


def middles(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude (N, 2) of the middle of boxes (N, 4); west > east crosses the antimeridian."""
    west, south, east, north = bounds.T
    middle = (west + np.where(west > east, east + 360, east)) / 2
    return np.stack([np.where(middle > 180, middle - 360, middle), (south + north) / 2], axis=1)


def kilometres(places: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Great-circle distances from places (N, 2) in degrees to one, by the haversine formula on a sphere."""
    (lon, lat), (lon0, lat0) = np.radians(places).T, np.radians(place)
    half = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
    distances: NDArray[np.float64] = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return distances


@dataclass(frozen=True)
class Ranking:
    """All answers to one query in their order, found as far as they are asked for.

    The order is the same however many are asked for, so pages neither repeat a chip nor leave one out: the steps are
    fixed, and what a further step finds comes after what the steps before it settled.
    """

    table: ChipTable
    index: VectorIndex
    vector: NDArray[np.float32]  # (D,), unit length
    allowed: NDArray[np.int64] | None = None  # row addresses to search among
    query: Query | None = None  # where nearness counts
    first: Found | None = None  # what the first step finds, if a batch has found it already

    def in_order(self) -> Iterator[tuple[float, int]]:
        """Scores and row addresses, best first; equal scores by chip id, those that nearness adds to first."""
        if self.query is None or self.query.near is None:
            yield from self._by_content()
            return
        rows, bonus = self._around(self.query, self.query.near)
        near = np.sort(rows)
        everywhere = len(rows) == (len(self.table) if self.allowed is None else len(self.allowed))
        rest = () if everywhere else ((score, row) for score, row in self._by_content() if not _holds(near, row))
        yield from heapq.merge(self._nearby(rows, bonus), rest, key=lambda entry: -entry[0])

    def _by_content(self) -> Iterator[tuple[float, int]]:
        """Chips as they are like the query, as deep as they are asked for."""
        waiting: list[tuple[float, str, int]] = []
        seen: set[int] = set()
        for depth in (DEPTH * DEEPER**step for step in count()):
            scores, rows = self._step(depth)
            fresh = np.array([row not in seen for row in rows.tolist()], bool)
            seen.update(rows.tolist())
            for entry in self._keyed(scores[fresh], rows[fresh]):
                heapq.heappush(waiting, entry)
            ended = len(rows) < depth
            bound = -math.inf if ended else float(scores[-1])  # nothing unseen can have more
            while waiting and -waiting[0][0] >= bound:
                score, _, row = heapq.heappop(waiting)
                yield -score, row
            if ended:
                return

    def _step(self, depth: int) -> Found:
        if depth == DEPTH and self.first is not None:
            return self.first
        return self.index.search(self.vector[None], depth, self.allowed)[0]

    def _around(self, query: Query, place: tuple[float, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Row addresses of the chips that nearness adds something to, and what it adds."""
        rows, bounds = self.table.bounds(around(place, REACH * query.near_km))
        bonus = query.bonus(bounds)
        kept = bonus > 0
        if self.allowed is not None:
            kept &= np.isin(rows, self.allowed)
        return rows[kept], bonus[kept]

    def _nearby(self, rows: NDArray[np.int64], bonus: NDArray[np.float64]) -> Iterator[tuple[float, int]]:
        """These chips in their order, every one scored, for none can be told from its content alone."""
        total = (self.index.scores(self.vector, rows) + bonus).astype(np.float32)
        order = np.argsort(-total, kind="stable")
        falling, start = -total[order], 0
        while start < len(order):
            stop = int(np.searchsorted(falling, falling[min(start + TAKEN, len(order)) - 1], side="right"))
            part = order[start:stop]  # whole runs of equal scores
            yield from ((-score, row) for score, _, row in sorted(self._keyed(total[part], rows[part])))
            start = stop

    def _keyed(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[tuple[float, str, int]]:
        """Entries to sort by: chip ids are read only where scores are equal."""
        values, counts = np.unique(scores, return_counts=True)
        tied = np.flatnonzero(np.isin(scores, values[counts > 1]))
        names = {
            i: row["chip_id"] for i, row in zip(tied.tolist(), self.table.take(rows[tied], ["chip_id"]), strict=True)
        }
        for i, (score, row) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
            yield -score, names.get(i, ""), row

    def page(self, k: int, offset: int, *, min_score: float | None, apart_km: float | None) -> list[tuple[float, int]]:
        """Scores and row addresses of the answers from number `offset` (0 is the best) on, k at most."""
        entries = self.in_order() if apart_km is None else self._spread(apart_km)
        page = islice(entries, offset, offset + k)
        return [(score, row) for score, row in page if min_score is None or score >= min_score]

    def _spread(self, apart_km: float) -> Iterator[tuple[float, int]]:
        """Pass over chips whose middle is within `apart_km` of a better one's; without a place, those of its file.

        Where a crowd of chips is passed over, those that can still be kept are picked out and ranked among themselves.
        """
        kept, files, ranking = np.zeros((0, 2)), set[str](), self
        while True:
            entries, looked = islice(ranking.in_order(), CROWD), 0
            while block := deque(islice(entries, TAKEN)):
                looked += len(block)
                rows = np.array([row for _, row in block], np.int64)
                for (score, number), row in zip(block, self.table.take(rows, ("path", *SIDES)), strict=True):
                    if row["west"] is None:
                        if row["path"] not in files:
                            files.add(row["path"])
                            yield score, number
                        continue
                    middle = middles(np.array([[row[name] for name in SIDES]], np.float64))
                    if not len(kept) or kilometres(kept, middle[0]).min() >= apart_km:
                        kept = np.vstack([kept, middle])
                        yield score, number
            left = self._apart(kept, files, apart_km) if looked == CROWD else np.zeros(0, np.int64)
            if not len(left):
                return
            ranking = replace(self, allowed=left, first=None)

    def _apart(self, kept: NDArray[np.float64], files: set[str], apart_km: float) -> NDArray[np.int64]:
        """Row addresses of the chips that none of those kept stands in the way of, ascending."""
        rows, bounds = self.table.bounds(EARTH)
        places, free = middles(bounds), np.ones(len(rows), np.bool_)
        for place in kept:
            free &= kilometres(places, place) >= apart_km
        without = self.table.addresses(all_of("west IS NULL", not_among_sql("path", files)) or "")
        left = np.sort(np.concatenate([rows[free], without]))
        return left if self.allowed is None else left[np.isin(left, self.allowed)]


def likeness_threshold(query: object, encoder: object) -> float | None:
    """The score up to which a chip as a whole is not what a text says: the encoder's own for scenes.

    None for an encoder without one, and for queries with an image or a vector, whose cosines run higher. Nearness only
    adds to a score, so one that is not above the threshold with it is not above it without.
    """
    worded = isinstance(query, str) or (isinstance(query, Query) and query.image is None and query.vector is None)
    threshold = calibration_of(encoder).of("scene") if worded else None
    return None if threshold is None else threshold.value


def to_hit(
    rank: int, score: float, row: dict[str, Any], extra: tuple[str, ...] = (), threshold: float | None = None
) -> Hit:
    """A row of the table as a hit.

    Args:
        rank: The number it is cited by.
        score: As `Ranking` gives it.
        row: Values of the columns of a hit.
        extra: Columns that were added to the table.
        threshold: As from `likeness_threshold`; it says nothing of chips that are no whole scene in fine pixels, such
            as it was fitted on.
    """
    footprint = None if row["footprint"] is None else shapely.from_wkb(row["footprint"])
    window = Window(row["row"], row["col"], row["height"], row["width"])
    return Hit(
        rank=rank,
        chip_id=row["chip_id"],
        score=score,
        footprint=footprint,
        acquired=None if row["acquired"] is None else row["acquired"].isoformat(),
        sensor=row["sensor"],
        caption=row["caption"] or "",
        path=row["path"],
        window=window,
        metadata={name: row[name] for name in ("valid", "cloud", "bands", *extra)},
        threshold=threshold if threshold is not None and _whole_and_fine(footprint, window, row["sensor"]) else None,
    )


def _whole_and_fine(footprint: BaseGeometry | None, window: Window, sensor: str) -> bool:
    """Whether a chip is one scene in which places can be recognised, by the rule of `findings.kind_of`."""
    if max(window.height, window.width) > WHOLE:
        return False
    if footprint is not None:
        area, _ = WGS84.geometry_area_perimeter(footprint)
        return math.sqrt(abs(area) / (window.height * window.width)) < FINE_PIXEL_M
    known = SENSORS.get(sensor)
    return known is not None and known.units == "display" and known.kind != "sar"
