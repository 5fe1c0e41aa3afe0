"""Conditions on chips, read from a person's words and written as safe SQL for the table."""

from __future__ import annotations

import ast
import io
import math
import tokenize
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, NoReturn

from rsvlm.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Columns = Mapping[str, str]  # name -> kind

WORDS = ("sensor", "path", "caption")
PIXELS = ("row", "col", "height", "width")
NUMBERS = ("cloud", "valid", "west", "south", "east", "north", *PIXELS)
TIMES = ("acquired", "added")
COLUMNS = (*WORDS, *NUMBERS, *TIMES)
KIND_OF = {
    **dict.fromkeys(WORDS, "text"),
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(TIMES, "time"),
}
ASKED = {"number": "a number", "text": "a text in quotes", "time": 'a date like "2024-06-30"', "flag": "True or False"}
MAX_LENGTH = 2000
EXAMPLE = 'sensor == "sentinel-2-l2a" and cloud < 0.2'
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "IN",
    ast.NotIn: "NOT IN",
}


def where_sql(where: str, added: Mapping[str, str] | None = None) -> str:
    """Read a condition such as `sensor == "sentinel-2-l2a" and cloud < 0.2` as SQL; raises QueryError.

    Known are and, or, not, brackets, comparisons, `in (...)`, `is None`, the columns of COLUMNS, and columns that were
    `added` to the table, by name, each of kind "text", "number", "time" or "flag".
    """
    if len(where) > MAX_LENGTH:
        raise QueryError(f"the filter is {len(where)} characters long; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(_as_python(where), mode="eval")
        return _condition(tree.body, {**KIND_OF, **(added or {})})
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError) as error:
        if isinstance(error, QueryError):
            raise
        raise QueryError(f"the filter {where!r} cannot be read; write it like {EXAMPLE}") from error


def bbox_sql(bbox: tuple[float, float, float, float]) -> str:
    """Chips whose bounding box touches (west, south, east, north); west > east crosses the antimeridian."""
    if len(bbox) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in bbox):
        raise QueryError(f"a bounding box is four numbers west, south, east, north in degrees; got {bbox!r}")
    west, south, east, north = (float(v) for v in bbox)
    if not (abs(west) <= 180 and abs(east) <= 180 and -90 <= south <= north <= 90):
        raise QueryError(f"a bounding box lies within -180..180 and -90..90 with south <= north; got {bbox!r}")
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    longitudes = " OR ".join(_span_sql(low, high) for low, high in spans)
    return f"south <= {north!r} AND north >= {south!r} AND ({longitudes})"


def dates_sql(start: date | None, end: date | None) -> str:
    """Chips acquired from start to end, both included; a plain date means its whole day in UTC."""
    parts = []
    if start is not None:
        parts.append(f"acquired >= {timestamp_sql(start)}")
    if end is not None:
        parts.append(f"acquired <= {timestamp_sql(end, day_end=True)}")
    if start is not None and end is not None and _moment(start) > _moment(end, day_end=True):
        raise QueryError(f"the search starts at {start} but ends before it, at {end}")
    return " AND ".join(parts)


def all_of(*conditions: str) -> str | None:
    """The conditions that say something, joined; None where none does."""
    said = [f"({condition})" for condition in conditions if condition]
    return " AND ".join(said) or None


def not_among_sql(column: str, texts: Iterable[str]) -> str:
    """Rows whose column holds none of some texts; empty where there are none."""
    listed = ", ".join(text_sql(text) for text in sorted(texts))
    return f"{column} NOT IN ({listed})" if listed else ""


def text_sql(text: str) -> str:
    """A text as an SQL literal; raises QueryError where it holds characters a table cannot."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise QueryError(f"{text!r} holds characters that no stored text can hold")
    return "'" + text.replace("'", "''") + "'"


def timestamp_sql(moment: date, *, day_end: bool = False) -> str:
    """A date or time as an SQL literal in UTC; a time without a zone counts as UTC."""
    return f"timestamp '{_moment(moment, day_end=day_end).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'"


def _moment(moment: date, *, day_end: bool = False) -> datetime:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.max if day_end else time.min)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _span_sql(west: float, east: float) -> str:
    apart = f"west <= east AND west <= {east!r} AND east >= {west!r}"
    return f"({apart}) OR (west > east AND (west <= {east!r} OR east >= {west!r}))"


def _as_python(where: str) -> str:
    """SQL's `=`, `AND`, `OR`, `NOT`, `IN`, `IS NULL` as Python spells them; texts in quotes stay as they are."""
    spelling = {"AND": "and", "OR": "or", "NOT": "not", "IN": "in", "IS": "is", "NULL": "None", "null": "None"}
    pairs = []
    for token in tokenize.generate_tokens(io.StringIO(where.strip()).readline):
        text = token.string
        if token.type == tokenize.NAME:
            text = spelling.get(text, text)
        elif token.type == tokenize.OP and text == "=":
            text = "=="
        pairs.append((token.type, text))
    return tokenize.untokenize(pairs).strip()


def _refuse(node: ast.AST, columns: Columns) -> NoReturn:
    raise QueryError(
        f"the filter part {ast.unparse(node)!r} is not understood; compare a column ({', '.join(columns)}) "
        f"with a value, like {EXAMPLE}"
    )


def _condition(node: ast.expr, columns: Columns) -> str:
    if isinstance(node, ast.BoolOp):
        joint = " AND " if isinstance(node.op, ast.And) else " OR "
        return "(" + joint.join(_condition(value, columns) for value in node.values) + ")"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"(NOT {_condition(node.operand, columns)})"
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [_comparison(sides[i], operator, sides[i + 1], columns) for i, operator in enumerate(node.ops)]
        return "(" + " AND ".join(parts) + ")"
    _refuse(node, columns)


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr, columns: Columns) -> str:
    if not isinstance(left, ast.Name) and isinstance(right, ast.Name):
        mirrored = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
        return _comparison(right, mirrored.get(type(operator), type(operator))(), left, columns)
    if not isinstance(left, ast.Name):
        _refuse(left, columns)
    if left.id not in columns:
        raise QueryError(f"chips have no column {left.id!r}; a filter may use {', '.join(columns)}")
    name = left.id if left.id in COLUMNS else f"`{left.id}`"
    if isinstance(right, ast.Constant) and right.value is None:
        if isinstance(operator, ast.Is | ast.Eq):
            return f"{name} IS NULL"
        if isinstance(operator, ast.IsNot | ast.NotEq):
            return f"{name} IS NOT NULL"
    if type(operator) not in COMPARISONS:
        _refuse(ast.Compare(left, [operator], [right]), columns)
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
            raise QueryError(f'after `in` come values in brackets, like {left.id} in ("a", "b")')
        values = "(" + ", ".join(_value(left.id, element, columns) for element in right.elts) + ")"
    else:
        values = _value(left.id, right, columns)
    whole = columns[left.id] == "number" and left.id not in NUMBERS[: -len(PIXELS)]
    column = f"CAST({name} AS DOUBLE)" if whole else name  # whole numbers take no fractions
    return f"{column} {COMPARISONS[type(operator)]} {values}"


def _value(column: str, node: ast.expr, columns: Columns) -> str:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        _refuse(node, columns)
    kind = columns[column]
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return repr(float(value))
    if kind == "text" and isinstance(value, str):
        return text_sql(value)
    if kind == "flag" and isinstance(value, bool):
        return str(value).lower()
    if kind == "time" and isinstance(value, str):
        try:
            return timestamp_sql(datetime.fromisoformat(value))
        except ValueError as error:
            raise QueryError(f'{column} is compared with a date like "2024-06-30"; got {value!r}') from error
    raise QueryError(f"{column} is compared with {ASKED[kind]}; got {value!r}")
