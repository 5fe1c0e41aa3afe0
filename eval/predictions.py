"""predictions.jsonl: what a model said to each line of a manifest, appended as it comes, read back to be scored."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvlm.errors import EvaluationError

FILE = "predictions.jsonl"
Prediction = dict[str, Any]  # what it holds is each task's to say


@dataclass(frozen=True, slots=True)
class Predicted:
    """One line: the prediction for line `number` of the manifest, or why there is none."""

    number: int
    prediction: Prediction
    seconds: float
    error: str = ""

    def to_text(self) -> str:
        """One line of predictions.jsonl."""
        said = {"error": self.error} if self.error else {"prediction": self.prediction}
        return json.dumps({"line": self.number, **said, "seconds": round(self.seconds, 4)}) + "\n"


def read_predictions(path: Path, numbers: Sequence[int]) -> dict[int, Predicted]:
    """Predictions by line of the manifest.

    Raises EvaluationError, with the line of the file, for what is not JSON, holds NaN, names a line that the manifest
    does not have or one that was there before.
    """
    known, found = set(numbers), dict[int, Predicted]()
    for at, row in _rows(path):
        number = row.get("line")
        if type(number) is not int or number not in known:
            raise EvaluationError(f"{path}:{at} is for line {number!r}, which is not among the lines to be scored")
        if number in found:
            raise EvaluationError(f"{path}:{at} is for line {number} again; keep one prediction a line")
        prediction, error = row.get("prediction"), row.get("error", "")
        if not isinstance(prediction, dict) and not error:
            raise EvaluationError(f"{path}:{at} needs a prediction in braces; got {prediction!r}")
        seconds = row.get("seconds", 0.0)
        if not isinstance(seconds, int | float):
            raise EvaluationError(f"{path}:{at} needs seconds as a number; got {seconds!r}")
        found[number] = Predicted(number, prediction or {}, float(seconds), str(error))
    return found


def append(path: Path, lines: Iterable[Predicted]) -> None:
    """Add lines at the end, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(line.to_text() for line in lines)
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Cut off what an interruption left after the last whole line."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise EvaluationError(f"{path.parent} holds no {path.name}; give the folder an evaluation wrote into")
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")  # an answer may hold the line ends of Unicode
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not text in UTF-8: {error}") from error
    for at, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{path}:{at} is not a prediction: {error}") from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}:{at} is not a JSON object; write one in braces a line")
        yield at, row


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a score")


def numbers_of(prediction: Prediction, key: str) -> list[float]:
    """A list of finite numbers of a prediction, empty where it is missing; raises EvaluationError."""
    values = prediction.get(key, [])
    if not isinstance(values, list) or not all(isinstance(v, int | float) and abs(v) < math.inf for v in values):
        raise EvaluationError(f"a prediction needs {key!r} as a list of finite numbers; got {str(values)[:80]}")
    return [float(v) for v in values]


def text_of(prediction: Prediction, key: str) -> str:
    """A text of a prediction; raises EvaluationError."""
    value = prediction.get(key)
    if not isinstance(value, str):
        raise EvaluationError(f"a prediction needs {key!r} as a text; got {str(value)[:80]}")
    return value
