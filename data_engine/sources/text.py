"""Caption sentences without images, for what only reads text: LEVIR-CC, UCM and Sydney training parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_engine.layout import field_of, one_of, read_json_lines, words
from rsvlm.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGES = "levir_cc_train_sentences.jsonl"
CAPTIONS = "ucm_sydney_train_sentences.txt"


def read_sentences(folder: Path) -> Iterator[tuple[str, bool | None]]:
    """Yield each sentence, and of those about two dates whether they tell of a change; None for the others.

    Either file may be missing, not both. Raises DatasetError for missing files, fields and text in UTF-8.
    """
    one_of(folder, CHANGES, CAPTIONS)
    try:
        if (folder / CHANGES).exists():
            yield from _changes(folder / CHANGES)
        if (folder / CAPTIONS).exists():
            for line in (folder / CAPTIONS).read_text(encoding="utf-8-sig").splitlines():
                if sentence := " ".join(line.split()):
                    yield sentence, None
    except UnicodeDecodeError as error:
        raise DatasetError(f"a file of {folder} is not text in UTF-8 ({error}); fetch it again") from error


def _changes(path: Path) -> Iterator[tuple[str, bool]]:
    for position, row in enumerate(read_json_lines(path), 1):
        changed = field_of(row, "changed", path, position)
        if not isinstance(changed, bool):
            raise DatasetError(f"record {position} of {path} needs true or false in 'changed', got {changed!r:.80}")
        yield words(row, "caption", path, position), changed
