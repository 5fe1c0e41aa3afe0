"""Where an archive's table lies: in its folder, or on object storage under a URI that Lance knows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lance

from rsvlm.errors import ArchiveError

POINTER = "table.json"  # names the table of an archive that is not in its folder
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # pathlib makes s3:/bucket of s3://bucket
SECRET = re.compile(r"secret|token|password|credential|sas_|^sig\b|(access|account|customer|master)_key", re.I)


@dataclass(frozen=True, slots=True)
class TableAddress:
    """What Lance must know to find a table; secrets come from the environment alone."""

    uri: str  # a path on this machine, or as s3://bucket/path
    storage_options: dict[str, str] | None = None

    @classmethod
    def on_storage(cls, uri: str, storage_options: Mapping[str, str] | None = None) -> TableAddress:
        """An address on object storage; raises ArchiveError for what is none, and for secrets in it."""
        options = dict(storage_options or {})
        if not all(isinstance(part, str) for option in options.items() for part in option):
            raise ArchiveError(
                f"storage options are names with texts, as aws_region and eu-west-1; got {sorted(options)}"
            )
        try:
            parts = urlsplit(uri)
        except ValueError:
            parts = urlsplit("")
        if not parts.scheme or not parts.netloc or parts.scheme.startswith("file"):
            raise ArchiveError(
                f"a table on object storage has a URI as s3://bucket/path; got {uri!r}; on this machine the table lies "
                "in the archive's folder, and no URI is given"
            )
        names = [*sorted(options), *(part.split("=")[0] for part in parts.query.split("&"))]
        secrets = [*filter(SECRET.search, names), *(["the password"] if parts.password else [])]
        if secrets:
            raise ArchiveError(
                f"secrets are not kept with an archive; leave {secrets[0]} out and set it in the environment, as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return cls(uri.rstrip("/"), options)

    @property
    def is_remote(self) -> bool:
        """Whether the table lies on object storage, whose own checks stand in for sums of its files."""
        return self.storage_options is not None

    def dataset(self) -> lance.LanceDataset:
        """The newest version of the table; raises what Lance raises, see `store.LANCE_ERRORS`."""
        return lance.dataset(self.uri, storage_options=self.storage_options)

    def save(self, folder: Path) -> None:
        """Write into an archive's folder, beside which there is no table."""
        plain = {"uri": self.uri, "storage_options": self.storage_options}
        (folder / POINTER).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def remote_address(folder: Path) -> TableAddress | None:
    """The address on object storage that `save` wrote, None where the table is in the folder; raises ArchiveError."""
    try:
        plain: dict[str, Any] = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        if sorted(plain) != ["storage_options", "uri"]:
            raise ValueError(f"it must hold uri and storage_options, and holds {', '.join(sorted(plain))}")
        return TableAddress.on_storage(plain["uri"], plain["storage_options"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{folder / POINTER}, which says where the table is, cannot be used ({error}); mend it, or run "
            "`rsvlm index attach` with a new folder and the table's URI"
        ) from error


def archive_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of an archive, absolute; raises ArchiveError for a URI."""
    text = os.fspath(path)
    if SCHEME.match(text):
        uri = text if "://" in text else text.replace(":/", "://", 1)
        if uri.startswith("file:"):
            raise ArchiveError(f"a folder is given as a plain path; got {uri}")
        raise ArchiveError(
            f"an archive is a folder on this machine, and {uri} is none; give a folder, and the URI as its table: "
            f"`rsvlm index add FOLDER PATH... --table {uri}`, or `rsvlm index attach FOLDER {uri}` if it is there"
        )
    return Path(os.path.abspath(text))
