"""Conditions on chips, read from a person's words and written as safe SQL for the table."""

from __future__ import annotations

import ast
import io
import math
import tokenize
from datetime import UTC, date, datetime, time
from typing import NoReturn

from rsvlm.errors import QueryError

WORDS = ("sensor", "path", "caption")
PIXELS = ("row", "col", "height", "width")
NUMBERS = ("cloud", "valid", "west", "south", "east", "north", *PIXELS)
TIMES = ("acquired", "added")
COLUMNS = (*WORDS, *NUMBERS, *TIMES)
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


def where_sql(where: str) -> str:
    """Read a condition such as `sensor == "sentinel-2-l2a" and cloud < 0.2` as SQL; raises QueryError.

    Known are and, or, not, brackets, comparisons, `in (...)`, `is None` and the columns of COLUMNS.
    """
    if len(where) > MAX_LENGTH:
        raise QueryError(f"the filter is {len(where)} characters long; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(_as_python(where), mode="eval")
        return _condition(tree.body)
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


def _refuse(node: ast.AST) -> NoReturn:
    raise QueryError(
        f"the filter part {ast.unparse(node)!r} is not understood; compare a column ({', '.join(COLUMNS)}) "
        f"with a value, like {EXAMPLE}"
    )


def _condition(node: ast.expr) -> str:
    if isinstance(node, ast.BoolOp):
        joint = " AND " if isinstance(node.op, ast.And) else " OR "
        return "(" + joint.join(_condition(value) for value in node.values) + ")"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"(NOT {_condition(node.operand)})"
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [_comparison(sides[i], operator, sides[i + 1]) for i, operator in enumerate(node.ops)]
        return "(" + " AND ".join(parts) + ")"
    _refuse(node)


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> str:
    if not isinstance(left, ast.Name) and isinstance(right, ast.Name):
        mirrored = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
        return _comparison(right, mirrored.get(type(operator), type(operator))(), left)
    if not isinstance(left, ast.Name):
        _refuse(left)
    if left.id not in COLUMNS:
        raise QueryError(f"chips have no column {left.id!r}; a filter may use {', '.join(COLUMNS)}")
    if isinstance(right, ast.Constant) and right.value is None:
        if isinstance(operator, ast.Is | ast.Eq):
            return f"{left.id} IS NULL"
        if isinstance(operator, ast.IsNot | ast.NotEq):
            return f"{left.id} IS NOT NULL"
    if type(operator) not in COMPARISONS:
        _refuse(ast.Compare(left, [operator], [right]))
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
            raise QueryError(f'after `in` come values in brackets, like {left.id} in ("a", "b")')
        values = "(" + ", ".join(_value(left.id, element) for element in right.elts) + ")"
    else:
        values = _value(left.id, right)
    column = f"CAST({left.id} AS DOUBLE)" if left.id in PIXELS else left.id  # whole numbers take no fractions
    return f"{column} {COMPARISONS[type(operator)]} {values}"


def _value(column: str, node: ast.expr) -> str:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        _refuse(node)
    if column in NUMBERS and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return repr(float(value))
    if column in WORDS and isinstance(value, str):
        return text_sql(value)
    if column in TIMES and isinstance(value, str):
        try:
            return timestamp_sql(datetime.fromisoformat(value))
        except ValueError as error:
            raise QueryError(f'{column} is compared with a date like "2024-06-30"; got {value!r}') from error
    kind = "a number" if column in NUMBERS else "a text in quotes" if column in WORDS else 'a date like "2024-06-30"'
    raise QueryError(f"{column} is compared with {kind}; got {value!r}")
