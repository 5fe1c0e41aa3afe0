"""The archive: batched embedding, the table, FAISS, search."""

from retrieval.adding import AddReport
from retrieval.archive import Archive
from retrieval.search import Query

__all__ = ["AddReport", "Archive", "Query"]
