"""The files of a table on object storage, one by one, for when the table itself cannot be read."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lance.file import LanceFileSession

from retrieval.faults import LANCE_ERRORS
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrieval.address import TableAddress


class StoredObjects:
    """A door to them. Everything raises ArchiveError where the storage does not answer, so that nothing is given up."""

    def __init__(self, address: TableAddress) -> None:
        self._uri = address.uri
        with self._answered():
            self._session = LanceFileSession(address.uri, storage_options=address.storage_options)

    def manifests(self) -> list[str]:
        """Manifests of all versions, the newest first."""
        with self._answered():
            return sorted(name for name in self._session.list("_versions") if name.endswith(".manifest"))

    def require_answer(self, names: Sequence[str]) -> None:
        """Make sure that every file is gone, or comes whole: then what is wrong is in the files."""
        with self._answered(), tempfile.TemporaryDirectory() as folder:
            for name in names:
                if self._session.contains(name):
                    self._session.download_file(name, str(Path(folder, "copy")))

    def set_aside(self, name: str) -> None:
        """Give a file another name, under which nobody looks for it."""
        with self._answered(), tempfile.TemporaryDirectory() as folder:
            copy = str(Path(folder, "copy"))
            self._session.download_file(name, copy)
            self._session.upload_file(copy, f"{name}.damaged")
            self._session.delete_file(name)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except LANCE_ERRORS as error:
            raise ArchiveError(
                f"the object storage of {self._uri} does not answer as it must ({str(error)[:200]}); see to its "
                "connection and keys, then repeat the command"
            ) from error
