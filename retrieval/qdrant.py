"""Qdrant as a server of an archive's vectors."""

from __future__ import annotations

import hashlib
import re
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.servers import GENERATION, TIMES, Conditions, Found
from rsvlm.errors import ArchiveError, QueryError, RsvlmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from retrieval.archive import Archive
    from retrieval.servers import Point

TIMEOUT_SECONDS = 60
MAX_K = 10_000


class QdrantServer:
    """A Qdrant collection, named after the encoder as well, so that vectors of two encoders never mix."""

    def __init__(self, client: Any, collection: str) -> None:
        self._client = client
        self.collection = collection

    @classmethod
    def open(cls, location: str, archive: Archive, *, collection: str = "", key: str | None = None) -> QdrantServer:
        """Connect, and make the collection of this archive's encoder where there is none.

        Args:
            location: "http://host:6333", a folder for Qdrant's local mode, or ":memory:".
            archive: Says the encoder and the length of vectors.
            collection: First part of the collection's name, the archive's by default; a collection mirrors one archive.
            key: Of the server's API.

        Returns:
            The server.

        Raises:
            ArchiveError: It does not answer, or the collection holds vectors of another length. QueryError for a
                location without its scheme.
        """
        from qdrant_client import QdrantClient, models

        remote = location.startswith(("http://", "https://"))
        if not remote and re.fullmatch(r"[^/]+:\d+/?", location):
            raise QueryError(f"a server is given as http://HOST:PORT; got {location!r}")
        where = (
            {"url": location, "api_key": key, "timeout": TIMEOUT_SECONDS, "check_compatibility": False}
            if remote
            else {"path": location}
        )
        with _answering(location):
            client = QdrantClient(":memory:") if location == ":memory:" else QdrantClient(**where)
            server = cls(client, f"{collection or archive.folder.name}-{archive.config.fingerprint[:12]}")
            if not client.collection_exists(server.collection):
                shape = models.VectorParams(size=archive.config.dim, distance=models.Distance.COSINE)
                client.create_collection(server.collection, vectors_config=shape)
            held = client.get_collection(server.collection).config.params.vectors
            if remote:
                server._make_indexes()
        size = getattr(held, "size", None)
        if size != archive.config.dim:
            raise ArchiveError(
                f"collection {server.collection} at {location} holds vectors of {size} numbers, the archive's have "
                f"{archive.config.dim}; give another --collection"
            )
        return server

    def upsert(self, points: Sequence[Point]) -> None:
        """Put points there under ids made of the chips' own, and wait until they are kept."""
        from qdrant_client import models

        structs = [
            models.PointStruct(id=point_id(point.chip_id), vector=point.vector.tolist(), payload=dict(point.payload))
            for point in points
        ]
        with _answering(self.collection):
            self._client.upsert(self.collection, points=structs, wait=True)

    def search(self, vector: NDArray[np.float32], k: int = 10, *, where: Conditions | None = None) -> list[Found]:
        """The k nearest to a vector (D,), best first; ties go by chip id."""
        if not 1 <= k <= MAX_K:
            raise QueryError(f"k is a whole number from 1 to {MAX_K}; got {k!r}")
        query = np.asarray(vector, np.float32)
        if query.ndim != 1 or not np.isfinite(query).all() or not query.any():
            raise QueryError(f"a query vector has finite numbers that are not all 0; got shape {query.shape}")
        with _answering(self.collection):
            found = self._client.query_points(
                self.collection, query=query.tolist(), limit=k, query_filter=_filter(where), with_payload=True
            )
        hits = [Found(point.payload["chip_id"], float(point.score), point.payload) for point in found.points]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chip_id))

    def count(self) -> int:
        """How many points there are, exactly."""
        with _answering(self.collection):
            return int(self._client.count(self.collection, exact=True).count)

    def keep_generation(self, generation: str) -> None:
        """Forget the points of every other generation."""
        from qdrant_client import models

        current = models.FieldCondition(key=GENERATION, match=models.MatchValue(value=generation))
        others = models.FilterSelector(filter=models.Filter(must_not=[current]))
        with _answering(self.collection):
            self._client.delete(self.collection, points_selector=others, wait=True)

    def _make_indexes(self) -> None:
        """Indexes on what filters use; a server without them reads every payload."""
        from qdrant_client import models

        kinds = {
            **dict.fromkeys(("sensor", "path"), models.PayloadSchemaType.KEYWORD),
            **dict.fromkeys(("cloud", "west", "south", "east", "north"), models.PayloadSchemaType.FLOAT),
            "acquired": models.PayloadSchemaType.DATETIME,
            GENERATION: models.PayloadSchemaType.KEYWORD,
        }
        for key, kind in kinds.items():
            self._client.create_payload_index(self.collection, field_name=key, field_schema=kind)


def point_id(chip_id: str) -> str:
    """The same UUID for the same chip, always: a server takes no sha256 as an id."""
    return str(uuid.UUID(bytes=hashlib.sha256(chip_id.encode()).digest()[:16]))


def _filter(where: Conditions | None) -> Any:
    from qdrant_client import models

    if where is None:
        return None
    must: list[Any] = [
        models.FieldCondition(key=key, match=models.MatchValue(value=text)) for key, text in sorted(where.equal.items())
    ]
    for key, (least, greatest) in sorted(where.within.items()):
        kind: Any = models.DatetimeRange if key in TIMES else models.Range
        must.append(models.FieldCondition(key=key, range=kind(gte=least, lte=greatest)))
    return models.Filter(must=must)


@contextmanager
def _answering(place: str) -> Iterator[None]:
    """Raises ArchiveError where the server does not do what it is asked."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RsvlmError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArchiveError(
            f"the Qdrant server at {place} did not do what it was asked ({lines[0][:150]}); see that it runs, then "
            "repeat the command, which goes on where it stopped"
        ) from error
