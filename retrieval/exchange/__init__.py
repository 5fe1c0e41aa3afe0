"""Archives to and from other people's tools: stac-geoparquet out, vectors in."""

from retrieval.exchange.stac import StacReport, export_stac
from retrieval.exchange.vectors import ImportReport, import_vectors

__all__ = ["ImportReport", "StacReport", "export_stac", "import_vectors"]
