"""Conditions become SQL that means what was said, and nothing else gets through."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.filters import all_of, bbox_sql, dates_sql, text_sql, where_sql
from rsvlm.errors import QueryError

lance = pytest.importorskip("lance")
ROWS = [
    {"path": "/a'b.tif", "sensor": "naip", "cloud": None, "valid": 1.0, "acquired": datetime(2020, 1, 1, tzinfo=UTC)},
    {"path": "/c.tif", "sensor": "rgb", "cloud": 0.1, "valid": 0.5, "acquired": datetime(2021, 6, 30, 12, tzinfo=UTC)},
    {"path": "/d.tif", "sensor": "hls", "cloud": 0.9, "valid": 0.2, "acquired": None},
]
BOXES = [(10.0, 11.0), (179.5, -179.5), (-180.0, -170.0), (-5.0, 5.0)]  # west, east; the second crosses 180
for _row, _box in zip(ROWS, BOXES, strict=False):
    _row |= {"west": _box[0], "south": 0.0, "east": _box[1], "north": 1.0}
for _number, _row in enumerate(ROWS):
    _row["row"] = 16 * _number
SCHEMA = pa.Table.from_pylist(ROWS).schema
SCHEMA = SCHEMA.set(4, pa.field("acquired", pa.timestamp("us", tz="UTC")))
SCHEMA = SCHEMA.set(SCHEMA.get_field_index("row"), pa.field("row", pa.int32()))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return lance.write_dataset(pa.Table.from_pylist(ROWS, schema=SCHEMA), str(tmp_path_factory.mktemp("t") / "t.lance"))


def found(table, condition):
    return [
        ROWS.index(next(r for r in ROWS if r["path"] == p))
        for p in table.to_table(filter=condition)["path"].to_pylist()
    ]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ('sensor == "rgb" and cloud < 0.2', [1]),
        ("sensor = 'rgb' AND cloud < 0.2", [1]),
        ("sensor != 'rgb'", [0, 2]),
        ("not (cloud < 0.2)", [2]),
        ("cloud is None", [0]),
        ("cloud IS NOT NULL", [1, 2]),
        ("0.2 < valid <= 1", [0, 1]),
        ("0.1 >= cloud", [1]),
        ('sensor in ("naip", "hls") or cloud == 0.1', [0, 1, 2]),
        ('path == "/a\'b.tif"', [0]),
        ('acquired >= "2021-01-01"', [1]),
        ("row == 16", [1]),
        ("row in (0, 32) and row < 1e12 and row > -0.5", [0, 2]),
        ("west > -1 and east < 20 and east > -1", [0]),
    ],
)
def test_a_condition_selects_the_rows_it_names(table, where, rows):
    assert found(table, where_sql(where)) == rows


@pytest.mark.parametrize(
    "where",
    [
        "", "cloud", "cloud <", "clouds < 1", "cloud < 'a'", "sensor < 3", "__import__('os').system('x')",
        "cloud < valid", "cloud < 1; DROP TABLE x", "cloud < (1", "sensor.upper() == 'A'", "cloud < 1e999",
        "cloud < True", "1 < 2", "acquired > 'soon'", "sensor in 'abc'", "sensor in ()", "path == 'a\0b'",
        "(" * 1500 + ")" * 1500, "x" * 3000, "sensor == 'a' 'b' or", "lambda: 1", "cloud < 1 -- x", "path == '\ud800'",
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_read_is_refused(where):
    with pytest.raises(QueryError):
        where_sql(where)


def test_an_unknown_column_is_answered_with_the_known_ones():
    with pytest.raises(QueryError, match=r"no column 'clouds'; a filter may use sensor, path, .*cloud"):
        where_sql("clouds < 0.2")


@given(st.text(max_size=40))
def test_quotes_in_a_text_stay_inside_its_literal(text):
    try:
        literal = text_sql(text)
    except QueryError:
        return
    assert literal[1:-1].replace("''", "").count("'") == 0
    assert literal[1:-1].replace("''", "'") == text


def touches(box, west, east):
    """The slow twin: step through the degrees of both."""
    spans = lambda w, e: [(w, e)] if w <= e else [(w, 180.0), (-180.0, e)]  # noqa: E731
    return any(a <= d and c <= b for a, b in spans(*box) for c, d in spans(west, east))


@pytest.mark.parametrize(
    "query", [(0, 20), (179, 180), (-180, -179.9), (170, -175), (11.5, 170), (-180, 180), (-174, -173)]
)
def test_a_box_finds_what_touches_it_also_across_the_antimeridian(table, query):
    west, east = query
    expected = [i for i, box in enumerate(BOXES[: len(ROWS)]) if touches(box, west, east)]
    assert found(table, bbox_sql((west, -1, east, 2))) == expected
    assert found(table, bbox_sql((west, 5, east, 6))) == []


@pytest.mark.parametrize(
    "bbox", [(0, 1, 2), (0, 2, 1, 1), (-181, 0, 0, 1), (0, 0, float("nan"), 1), (0, -91, 1, 1), "abcd"]
)
def test_a_box_that_is_none_is_refused(bbox):
    with pytest.raises(QueryError, match="bounding box"):
        bbox_sql(bbox)


def test_an_end_date_includes_its_whole_day(table):
    assert found(table, dates_sql(date(2021, 6, 30), date(2021, 6, 30))) == [1]
    assert found(table, dates_sql(None, datetime(2021, 6, 30, 11))) == [0]
    with pytest.raises(QueryError, match="ends before"):
        dates_sql(date(2022, 1, 1), date(2021, 1, 1))


def test_no_condition_at_all_is_none():
    assert all_of("", dates_sql(None, None)) is None
    assert all_of("a OR b", "", "c") == "(a OR b) AND (c)"
