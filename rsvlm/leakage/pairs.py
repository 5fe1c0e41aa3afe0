"""Leakage between two lists of images: the same file, place or picture on both sides, named pair by pair."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import shapely
from tqdm import tqdm

from rsvlm.errors import EvaluationError
from rsvlm.leakage.likeness import TURNS, agreement, hashed, near_hashes, turned
from rsvlm.leakage.sightings import Listed, Seen, look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rsvlm.interfaces import Encoder

__all__ = ["Leak", "LeakReport", "Listed", "Reason", "find_leaks"]

Reason = Literal["same file", "same place", "same picture", "similar embedding"]
REASONS: tuple[Reason, ...] = get_args(Reason)
NEEDED = {
    "same file": "they cannot be opened",
    "same place": "they have neither coordinates nor the name of a place",
    "same picture": "they are unreadable, mostly missing or without detail",
    "similar embedding": "no encoder was given, or they are unreadable, mostly missing or without detail",
}
# Chosen on RSICD/AID training images alone: copies (JPEG at quality 40, half size, 2 % cropped off each side) are
# found, and what is flagged between different images shows the same ground.
HASH_DISTANCE = 12  # of 64 bits
AGREEMENT = 0.88  # correlation of aligned detail: pairs of the same ground had 0.94 and more, others 0.83 and less
# No two of 3,000 different training images are that alike to the shipped encoder. It tells kinds of scenes rather than
# single ones: at 0.97 it pairs different forests and deserts, and few copies reach 0.99. Other encoders may do better.
COSINE = 0.99
OVERLAP = 0.01  # of the smaller footprint; less is the rounding of neighbours' common edge
MOST = 20  # partners of one held-out image that are named for one reason
BATCH = 64


@dataclass(frozen=True, slots=True)
class Leak:
    """A held-out image that the training list has seen, and how that shows."""

    train: str
    held_out: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Every leak found, sorted by held-out image, and how far the check reached.

    `listed` counts the different images of each side, `checked` how many of them could be checked for a reason
    ("same place: train"); `unreadable` maps paths to what is wrong with them. A held-out image names at most 20
    partners for one reason; `unnamed` counts those beyond (for pictures: neighbours by hash that were not looked at).
    """

    pairs: tuple[Leak, ...]
    listed: dict[str, int]
    checked: dict[str, int]
    unreadable: dict[str, str]
    unnamed: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Named pairs for each reason."""
        return {reason: sum(leak.reason == reason for leak in self.pairs) for reason in REASONS}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the check could not reach, one sentence each."""
        lines = []
        for key, count in self.checked.items():
            reason, side = key.split(": ")
            if count < self.listed[side]:
                without = f"{self.listed[side] - count} of {self.listed[side]} {side} images"
                lines.append(f"{without} were not checked for {reason}: {NEEDED[reason]}")
        lines += [f"{count} more pairs for {reason} are not named" for reason, count in self.unnamed.items() if count]
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(replace(self, pairs=())) | {"pairs": [asdict(leak) for leak in self.pairs]}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> LeakReport:
        """The report `to_json` wrote; raises EvaluationError for anything else."""
        try:
            return cls(**{**plain, "pairs": tuple(Leak(**leak) for leak in plain["pairs"])})
        except (KeyError, TypeError) as error:
            raise EvaluationError(f"this is no leakage report: {error}; give one that to_json made") from error


@dataclass(frozen=True, slots=True)
class _Found:
    """One leak by position in the two lists; the strongest of one held-out image are named."""

    train: int
    held_out: int
    strength: float
    detail: str


def find_leaks(
    train: Sequence[Listed],
    held_out: Sequence[Listed],
    *,
    encoder: Encoder | None = None,
    hash_distance: int = HASH_DISTANCE,
    cosine: float = COSINE,
    progress: bool = True,
) -> LeakReport:
    """Name every pair of a training and a held-out image that show the same thing.

    Pictures are compared by perceptual hash (pHash, 64 bits) in all 8 rotations and mirrorings, then by the
    correlation of their aligned detail; vectors only with an `encoder`, within one sensor. An image that cannot be
    read is listed in the report. Reading is linear in the lists, comparing hashes and vectors is one block product.

    Raises:
        EvaluationError: `hash_distance` is not within 0 to 64 or `cosine` not within -1 to 1.
    """
    if not (0 <= hash_distance <= 64 and -1 <= cosine <= 1):
        raise EvaluationError(
            "a hash distance is 0 to 64 bits and a cosine -1 to 1; give both within these, "
            f"not {hash_distance} and {cosine}"
        )
    sides = look(train, encoder, progress, "train"), look(held_out, encoder, progress, "held-out")
    searches: dict[Reason, Callable[[], tuple[list[_Found], int]]] = {
        "same file": lambda: _same_file(*sides),
        "same place": lambda: _same_place(*sides),
        "same picture": lambda: _same_picture(*sides, hash_distance, progress),
        "similar embedding": lambda: _similar(*sides, cosine),
    }
    pairs: set[Leak] = set()
    unnamed: dict[str, int] = {}
    for reason, search in searches.items():
        found, unnamed[reason] = search()
        pairs |= {_leak(*sides, reason, each) for each in found}
    named = dict(zip(("train", "held-out"), sides, strict=True))
    return LeakReport(
        pairs=tuple(sorted(pairs, key=lambda leak: (leak.held_out, leak.train, leak.reason, leak.detail))),
        listed={side: len(seen) for side, seen in named.items()},
        checked={
            f"{r}: {side}": sum(_checkable(one, r) for one in seen) for r in REASONS for side, seen in named.items()
        },
        unreadable=dict(sorted((str(one.listed.path), one.failure) for one in (*sides[0], *sides[1]) if one.failure)),
        unnamed=unnamed,
    )


def _leak(train: list[Seen], held_out: list[Seen], reason: Reason, found: _Found) -> Leak:
    paths = train[found.train].listed.path, held_out[found.held_out].listed.path
    return Leak(str(paths[0]), str(paths[1]), reason, found.detail)


def _checkable(one: Seen, reason: Reason) -> bool:
    known: dict[Reason, bool] = {
        "same file": one.size is not None,
        "same place": bool(one.listed.place) or one.footprint is not None,
        "same picture": one.thumbnail is not None,
        "similar embedding": one.vector is not None,
    }
    return known[reason]


def _same_file(train: list[Seen], held_out: list[Seen]) -> tuple[list[_Found], int]:
    """Equal resolved paths, then equal bytes; only files of a size that both sides have are hashed."""
    shared = {one.size for one in train} & {one.size for one in held_out} - {None}
    by_path, by_bytes = defaultdict(list), defaultdict(list)
    for position, one in enumerate(train):
        by_path[one.listed.path.resolve()].append(position)
        by_bytes[_digest(one) if one.size in shared else ""].append(position)
    found, unnamed = [], 0
    for position, one in enumerate(held_out):
        same = by_path.get(one.listed.path.resolve(), [])
        equal = [p for p in by_bytes.get(_digest(one), []) if p not in same] if one.size in shared else []
        partners = [(p, "the same path") for p in same] + [(p, "equal bytes") for p in equal]
        found += [_Found(p, position, 1.0, detail) for p, detail in partners[:MOST]]
        unnamed += len(partners[MOST:])
    return found, unnamed


def _digest(one: Seen) -> str:
    with one.listed.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same_place(train: list[Seen], held_out: list[Seen]) -> tuple[list[_Found], int]:
    names: defaultdict[str, list[int]] = defaultdict(list)
    for position, one in enumerate(train):
        names[one.listed.place].append(position)
    found, unnamed = [], 0
    for position, one in enumerate(held_out):
        partners = names.get(one.listed.place, []) if one.listed.place else []
        found += [_Found(p, position, 1.0, f"both at {one.listed.place}") for p in partners[:MOST]]
        unnamed += len(partners[MOST:])
    overlapping, more = _overlapping(train, held_out)
    return found + overlapping, unnamed + more


def _overlapping(train: list[Seen], held_out: list[Seen]) -> tuple[list[_Found], int]:
    known = [
        np.array([i for i, one in enumerate(side) if one.footprint is not None], int) for side in (train, held_out)
    ]
    ground = np.array([train[i].footprint for i in known[0]], object)
    tree = shapely.STRtree(ground)
    found, unnamed = [], 0
    for start in range(0, len(known[1]), BATCH):
        outlines = np.array([held_out[i].footprint for i in known[1][start : start + BATCH]], object)
        rows, columns = tree.query(outlines, predicate="intersects")
        shared = shapely.area(shapely.intersection(outlines[rows], ground[columns]))
        share = shared / shapely.area(outlines[rows])
        of_smaller = np.maximum(share, shared / shapely.area(ground[columns]))
        kept = of_smaller > OVERLAP
        rows, columns, share, of_smaller = rows[kept], columns[kept], share[kept], of_smaller[kept]
        named = _strongest(rows, columns, of_smaller)
        unnamed += len(rows) - len(named)
        for i in named:
            detail = f"{100 * min(share[i], 1):.3g} % of the held-out footprint"
            where = int(known[0][columns[i]]), int(known[1][start + rows[i]])
            found.append(_Found(*where, float(of_smaller[i]), detail))
    return found, unnamed


def _strongest(
    rows: NDArray[np.int64], columns: NDArray[np.int64], strength: NDArray[Any], most: int = MOST
) -> NDArray[np.int64]:
    """Which entries to keep so that every row has at most `most`: the strongest, then the first columns."""
    order = np.lexsort((columns, -strength.astype(np.float64), rows))
    first = np.searchsorted(rows[order], rows[order], side="left")
    kept: NDArray[np.int64] = order[np.arange(len(order)) - first < most]
    return kept


def _same_picture(train: list[Seen], held_out: list[Seen], most_bits: int, progress: bool) -> tuple[list[_Found], int]:
    """Near hashes in any orientation, of which those stay whose detail agrees."""
    own = [(i, one.thumbnail) for i, one in enumerate(train) if one.thumbnail is not None]
    other = [(i, turned(one.thumbnail)) for i, one in enumerate(held_out) if one.thumbnail is not None]
    columns = np.array([hashed(picture) for _, picture in own], np.uint64)
    rows = np.array([[hashed(view) for view in views] for _, views in other], np.uint64).reshape(-1, len(TURNS))
    best: dict[tuple[int, int], _Found] = {}
    unnamed = 0
    with tqdm(total=len(rows), desc="comparing pictures", disable=not progress) as bar:
        for row, column, turn, distance in near_hashes(rows, columns, most_bits):
            looked_at = _strongest(row, column, -distance, 4 * MOST)  # several orientations may be near
            unnamed += len(row) - len(looked_at)
            for r, c, t, bits in zip(*(each[looked_at] for each in (row, column, turn, distance)), strict=True):
                (i, picture), (j, views) = own[c], other[r]
                alike = agreement(picture, views[t])
                if alike >= AGREEMENT and ((i, j) not in best or alike > best[i, j].strength):
                    how = f", {TURNS[t]}" if t else ""
                    best[i, j] = _Found(i, j, alike, f"hash distance {bits} of 64{how}")
            bar.update(0 if not len(row) else int(row[-1]) + 1 - bar.n)
        bar.update(len(rows) - bar.n)
    return list(best.values()), unnamed


def _similar(train: list[Seen], held_out: list[Seen], cosine: float) -> tuple[list[_Found], int]:
    """Unit vectors of one sensor at least `cosine` alike, in blocks of held-out images."""
    found, unnamed = [], 0
    for sensor in sorted({one.sensor for one in held_out if one.vector is not None}):
        own, vectors = _vectors(train, sensor)
        other, queries = _vectors(held_out, sensor)
        for start in range(0, len(other) if own else 0, BATCH):
            likeness = queries[start : start + BATCH] @ vectors.T
            rows, columns = np.nonzero(likeness >= cosine)
            strength = likeness[rows, columns]
            named = _strongest(rows, columns, strength)
            unnamed += len(rows) - len(named)
            for i in named:
                detail = f"cosine {strength[i]:.3f}"
                found.append(_Found(own[columns[i]], other[start + rows[i]], float(strength[i]), detail))
    return found, unnamed


def _vectors(seen: list[Seen], sensor: str) -> tuple[list[int], NDArray[np.float32]]:
    """Positions of the images of a sensor that have a vector, and the vectors (N, D)."""
    known = [(i, one.vector) for i, one in enumerate(seen) if one.vector is not None and one.sensor == sensor]
    return [i for i, _ in known], np.array([vector for _, vector in known], np.float32)
