"""What can go wrong with a table on its disk or its object storage, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval.address import POINTER
from rsvlm.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

LANCE_ERRORS = (ValueError, OSError, RuntimeError)  # what Lance raises for files it cannot read; no common root
REFUSALS = ("Permission denied", "Too many open files", "Cannot allocate memory")  # no damage, whatever Lance calls it


def not_written(error: Exception) -> ArchiveError:
    """The error for a commit that failed."""
    return ArchiveError(
        f"the archive could not be written ({str(error)[:200]}); what was committed before is unchanged; "
        "make room or mend the folder, or see to the object storage, then repeat the command"
    )


def withheld(folder: Path, error: Exception) -> ArchiveError | None:
    """The error for a table that is whole but cannot be read here and now, None where it may be damaged."""
    said = str(error)
    if "upgrade Lance" in said:
        return ArchiveError(
            f"the table of {folder} was written by a newer Lance; run `pip install -U pylance`, then repeat the command"
        )
    if isinstance(error, PermissionError) or any(reason in said for reason in REFUSALS):
        return ArchiveError(
            f"the table of {folder} may not be read ({said[:120]}); see to that, then repeat the command"
        )
    return None


def damaged(folder: Path, error: Exception) -> ArchiveError:
    """The error for a table that cannot be read."""
    if (found := withheld(folder, error)) is not None:
        return found
    if (folder / POINTER).exists():
        return ArchiveError(
            f"the table of {folder} on object storage cannot be read ({str(error)[:200]}); see to its connection and "
            f"keys, and if they are well, run `rsvlm index repair {folder}`"
        )
    return ArchiveError(f"the table of {folder} is damaged ({str(error)[:120]}); run `rsvlm index repair {folder}`")
