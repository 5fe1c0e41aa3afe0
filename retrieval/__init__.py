"""The archive: batched embedding, the table, FAISS, search."""

from typing import TYPE_CHECKING

from rsvlm.lazy import lazily

if TYPE_CHECKING:
    from retrieval.adding import AddReport
    from retrieval.archive import Archive
    from retrieval.search import Query

__all__ = ["AddReport", "Archive", "Query"]
__getattr__ = lazily(
    __name__, {"AddReport": "retrieval.adding", "Archive": "retrieval.archive", "Query": "retrieval.search"}
)
