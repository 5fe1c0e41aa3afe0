"""Manifests: plain JSON Lines, one object a line, paths relative to the file, every fault named by its line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvlm.errors import ConfigError

EVERYWHERE = frozenset({"sensor", "bands", "place"})  # keys any line with an image may have


@dataclass(frozen=True, slots=True)
class Line:
    """One object of a manifest with where it stands, so that whoever reads it can name its faults."""

    manifest: Path
    number: int  # from 1
    values: dict[str, Any]

    def fault(self, text: str) -> ConfigError:
        """An error that begins with the file and the line."""
        return ConfigError(f"{self.manifest}:{self.number} {text}")

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty; raises ConfigError."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or not (value.strip() or value == default):
            raise self.fault(f"needs {key!r} as a text; got {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty where the key is missing; raises ConfigError."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise self.fault(f"needs {key!r} as a list of texts; got {value!r}")
        return tuple(value)

    def file(self, key: str) -> Path:
        """A file that is there, relative to the manifest; raises ConfigError."""
        return self.path_of(self.text(key))

    def path_of(self, name: Any) -> Path:
        """The path a name in this line stands for; raises ConfigError where there is no such file."""
        path = self.manifest.parent / str(name)
        try:
            there = isinstance(name, str) and path.is_file()
        except OSError:  # a name longer than the file system allows
            there = False
        if not there:
            raise self.fault(f"names {str(name)[:200]!r}, which is no file; paths are relative to the manifest")
        return path


def read_lines(manifest: Path, *, required: frozenset[str], optional: frozenset[str] = frozenset()) -> list[Line]:
    """Every line of a manifest as an object of known keys; raises ConfigError naming the line and the keys."""
    try:
        texts = manifest.read_text(encoding="utf-8-sig").split("\n")  # a caption may hold the line ends of Unicode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{manifest} cannot be read as a manifest: {error}") from error
    lines = [
        _line(manifest, number, text, required, required | optional | EVERYWHERE)
        for number, text in enumerate(texts, 1)
        if text.strip()
    ]
    if not lines:
        raise ConfigError(f"{manifest} is empty; it needs one JSON object a line")
    return lines


def _line(manifest: Path, number: int, text: str, required: frozenset[str], known: frozenset[str]) -> Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{manifest}:{number} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{manifest}:{number} is not a JSON object; write one in braces a line")
    unknown, missing = sorted(set(values) - known), sorted(required - set(values))
    if unknown or missing:
        raise ConfigError(
            f"{manifest}:{number} needs {' and '.join(sorted(required)) or 'known keys'}; "
            f"missing: {', '.join(missing) or 'none'}, unknown keys: {', '.join(unknown) or 'none'}"
        )
    return Line(manifest, number, values)
