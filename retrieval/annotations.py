"""Columns that users add to the table: what they may be called and hold."""

from __future__ import annotations

from keyword import iskeyword
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from rsvlm.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Collection


def plain_columns(values: pa.Table, on: str, *, taken: Collection[str]) -> pa.Table:
    """Columns as the table keeps them, with `on`; raises QueryError for what does not fit or has a taken name."""
    names = [name for name in values.column_names if name != on]
    wrong = [name for name in names if name in taken or not name.isidentifier() or iskeyword(name)]
    if on not in ("path", "chip_id") or on not in values.column_names or not names or wrong:
        raise QueryError(
            'columns to add meet by a column "path" or "chip_id" and have names of their own, letters, digits and '
            f"_; got {', '.join(values.column_names) or 'none'}, to meet by {on!r}"
        )
    if len(pc.unique(values[on])) != values.num_rows or values[on].null_count:
        raise QueryError(f"every {on} is named once in the columns to add; some are missing or come twice")
    return values.cast(pa.schema([_plain_field(field, on) for field in values.schema]))


def kind_of(kind: pa.DataType) -> str:
    """What filters call a kind of column: "text", "number", "time" or "flag"."""
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_timestamp(kind):
        return "time"
    return "number" if pa.types.is_floating(kind) or pa.types.is_integer(kind) else "text"


def _plain_field(field: pa.Field, on: str) -> pa.Field:
    """A field as the table keeps it; raises QueryError for kinds that no filter can compare."""
    kinds = {"flag": pa.bool_(), "time": pa.timestamp("us", tz="UTC"), "number": pa.float64(), "text": pa.string()}
    known = pa.types.is_string(field.type) or pa.types.is_large_string(field.type) or kind_of(field.type) != "text"
    if not known or (field.name == on and kind_of(field.type) != "text"):
        raise QueryError(f"a column holds texts, numbers, times or yes and no; {field.name} holds {field.type}")
    return pa.field(field.name, kinds[kind_of(field.type)])
