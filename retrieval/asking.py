"""What may be asked of an archive, and what a question becomes: a unit vector, a condition, a page of hits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retrieval.embed import PixelEncoder
from retrieval.filters import all_of, dates_sql, where_sql
from retrieval.schema import HIT_COLUMNS
from retrieval.search import Query, to_hit
from rsvlm.errors import ArchiveError, QueryError
from rsvlm.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray

    from retrieval.store import ChipTable
    from rsvlm.answer import Hit

MAX_K = 10_000
MAX_QUERY = 10_000  # characters


class ArchiveEncoder(PixelEncoder, Protocol):
    """What an archive needs of an encoder."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and preprocessing."""
        ...

    def encode_scenes(self, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """Embed N scenes: (N, D), unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts: (N, D), unit length."""
        ...


def encoder_for(purpose: str, encoder: ArchiveEncoder | None) -> ArchiveEncoder:
    """The encoder; raises ArchiveError, which names the purpose, where there is none."""
    if encoder is None:
        raise ArchiveError(f"{purpose} needs an encoder; open the archive with Archive.open(path, encoder)")
    return encoder


def query_vector(
    query: str | Scene | NDArray[np.float32] | Query, encoder: ArchiveEncoder | None, dim: int
) -> NDArray[np.float32]:
    """The unit vector (D,) of a question; raises QueryError for what has none."""
    if isinstance(query, Query):
        query = np.sum([weight * query_vector(part, encoder, dim) for weight, part in query.parts()], axis=0)
    elif isinstance(query, str):
        query = encoder_for("searching in words", encoder).encode_texts([_text(query)])[0]
    elif isinstance(query, Scene):
        if not query.valid.any():
            raise QueryError("the scene to search for has no valid pixel; give one that shows some ground")
        query = encoder_for("searching by example", encoder).encode_scenes([query])[0]
    elif not isinstance(query, np.ndarray) or query.dtype.kind not in "fiu":
        raise QueryError(f"a search takes a text, a scene or a vector of numbers; got {type(query).__name__}")
    vector = np.asarray(query, np.float64)
    if vector.shape != (dim,) or not np.isfinite(vector).all() or not vector.any():
        raise QueryError(f"a query vector has {dim} finite numbers that are not all 0; got shape {vector.shape}")
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def query_vectors(
    queries: Sequence[str] | NDArray[np.float32], encoder: ArchiveEncoder | None, dim: int
) -> NDArray[np.float32]:
    """Unit vectors (Q, D) of vectors as they are, or of texts through the encoder in one batch; raises QueryError."""
    if isinstance(queries, np.ndarray):
        encoded: Sequence[Any] = list(queries)
    elif all(isinstance(query, str) for query in queries):
        encoded = list(encoder_for("searching in words", encoder).encode_texts([_text(query) for query in queries]))
    else:
        raise QueryError("many queries are all texts, or one array of vectors (Q, D)")
    return np.stack([query_vector(query, encoder, dim) for query in encoded])


def condition_sql(
    table: ChipTable,
    where: str | None,
    bbox: tuple[float, float, float, float] | None = None,
    start: date | None = None,
    end: date | None = None,
) -> str | None:
    """SQL for what all filters of a search let through, None where they let through everything."""
    return all_of(
        where_sql(where, table.added_columns) if where is not None else "",
        table.inside_sql(bbox) if bbox is not None else "",
        dates_sql(start, end),
    )


def hits_of(
    table: ChipTable, pages: list[list[tuple[float, int]]], offset: int, thresholds: Sequence[float | None]
) -> list[list[Hit]]:
    """The hits of several pages, their rows read at once; each page is judged by its own threshold."""
    added = tuple(table.added_columns)
    rows = iter(table.take(np.array([row for page in pages for _, row in page], np.int64), (*HIT_COLUMNS, *added)))
    return [
        [to_hit(rank, score, next(rows), added, threshold) for rank, (score, _) in enumerate(page, start=offset + 1)]
        for page, threshold in zip(pages, thresholds, strict=True)
    ]


def require_page(k: int, offset: int = 0, apart_km: float | None = None) -> None:
    """Raise QueryError for a page that no search gives."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
        raise QueryError(f"k is a whole number from 1 to {MAX_K}; got {k!r}")
    if isinstance(offset, bool) or not isinstance(offset, int | np.integer) or not 0 <= offset <= MAX_K - k:
        raise QueryError(f"an offset is a whole number from 0 to {MAX_K} - k; got {offset!r}")
    if apart_km is not None and not 0 < apart_km < 20_100:
        raise QueryError(f"apart_km is a distance on Earth in kilometres, over 0; got {apart_km!r}")


def _text(query: str) -> str:
    if not query.strip() or len(query) > MAX_QUERY:
        raise QueryError(f"a text to search for has 1 to {MAX_QUERY} characters; got {len(query.strip())}")
    return query.encode("utf-8", "replace").decode()  # lone surrogates are no text
