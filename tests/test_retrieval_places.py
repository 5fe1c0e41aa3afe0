"""A box among many chips is found through Lance's R-tree, and what is found is what a scan finds."""

import lance
import numpy as np
import pyarrow as pa
import pytest
from fakes import TinyEncoder
from test_retrieval_index import append, rows_for, unit_vectors

from retrieval import Archive, places
from retrieval.filters import bbox_sql
from retrieval.schema import schema_for
from retrieval.store import ChipTable
from rsvlm.errors import ArchiveError

BOXES = [
    (10, 40, 30, 60),
    (10.5, 40.25, 10.5, 40.25),  # a point
    (-180, -90, 180, 90),
    (170, -60, -170, 60),  # across the antimeridian
    (-180, -5, -180, 5),
    (-20, 89, 20, 90),
    (0, 0, 90, 0),  # a line
]


def placed_rows(count, schema, seed, start=0):
    """Rows with boxes all over the Earth: some across the antimeridian, some points, some nowhere."""
    random = np.random.default_rng(seed)
    west, south = random.uniform(-180, 180, count), random.uniform(-90, 89, count)
    size = random.choice([0, 0.02, 2], count)
    east, north = west + size, np.minimum(south + size, 90)
    east = np.where(east > 180, east - 360, east)
    west[:3], south[:3], east[:3], north[:3] = 10.5, 40.25, 10.5, 40.25
    nowhere = random.random(count) < 0.1
    rows = rows_for(unit_vectors(count, seed), schema, start)
    for name, side in zip(places.SIDES, (west, south, east, north), strict=True):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(side, mask=nowhere))
    return rows


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """3,000 chips, enough here for an R-tree."""
    monkeypatch.setattr(places, "INDEXED_ROWS", 1000)
    made = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    with made._writing() as table:
        table.replace(placed_rows(3000, table.schema, 0))
    return made


def same_as_a_scan(table):
    """What each box finds, once it is what the plain columns tell."""
    found = []
    for box in BOXES:
        rows, _ = table.bounds(box)
        scanned = table.dataset.to_table(columns=[], filter=bbox_sql(box), with_row_id=True)["_rowid"].to_numpy()
        assert sorted(rows.tolist()) == sorted(scanned.tolist())
        found.append(len(rows))
    return found


def newest(archive):
    return ChipTable.open(archive.folder)


def test_a_large_table_has_an_r_tree_that_finds_what_a_scan_finds(archive):
    table = newest(archive)
    assert len(places.indexes_of(table.dataset)) == 1
    plan = table.dataset.scanner(columns=[], filter=table.inside_sql(BOXES[0]), with_row_id=True).explain_plan()
    assert "ScalarIndexQuery" in plan
    counts = same_as_a_scan(table)
    assert min(counts[:4]) > 0
    assert counts[2] == table.dataset.count_rows(filter="west IS NOT NULL")


def test_searches_in_a_box_go_through_it(archive):
    query = unit_vectors(1, 7)[0]
    hits = archive.search(query, 50, bbox=BOXES[0])
    outside = archive.search(query, 3000)
    inside = {row["chip_id"] for row in newest(archive).dataset.to_table(filter=bbox_sql(BOXES[0])).to_pylist()}
    assert [hit.chip_id for hit in hits] == [hit.chip_id for hit in outside if hit.chip_id in inside][:50]


def test_it_keeps_up_with_what_is_added_removed_and_replaced(archive):
    with archive._writing() as table:
        table.replace(placed_rows(500, table.schema, 1, 3000))
        assert table.remove("cloud < 0.2") > 0
    same_as_a_scan(newest(archive))
    with archive._writing() as table:
        table.replace(placed_rows(1000, table.schema, 2, 100))  # the same files, elsewhere
    table = newest(archive)
    same_as_a_scan(table)
    (index,) = places.indexes_of(table.dataset)
    assert index.num_rows_indexed >= places.FRESH_SHARE * len(table)
    for part in range(40):  # fragments enough to be joined
        with archive._writing() as table:
            table.replace(placed_rows(5, table.schema, 3 + part, 5000 + 5 * part))
    same_as_a_scan(newest(archive))


def test_rows_without_a_geometry_are_found_by_their_columns(archive):
    table = newest(archive)
    rows = placed_rows(200, table.schema, 9, 9000)
    lance.write_dataset(rows, table.dataset.uri, mode="append")
    assert newest(archive).dataset.count_rows(filter=f"{places.COLUMN} IS NULL") >= 200
    same_as_a_scan(newest(archive))


def test_a_small_table_and_one_of_before_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "INDEXED_ROWS", 100)
    made = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    with made._writing() as table:
        table.replace(placed_rows(50, table.schema, 0))
    assert places.indexes_of(newest(made).dataset) == []
    lance.write_dataset(schema_for(made.config).empty_table(), newest(made).dataset.uri, mode="overwrite")
    made = Archive.open(made.folder, TinyEncoder())
    with made._writing() as table:
        assert places.COLUMN not in table.dataset.schema.names
        table.replace(placed_rows(500, table.schema, 0))
    table = newest(made)
    assert places.indexes_of(table.dataset) == []
    assert (same_as_a_scan(table)[2] > 0, table.added_columns, made.verify()) == (True, {}, [])


def test_the_geometries_are_no_column_of_ones_own(archive):
    assert archive.info()["columns"] == {}
    append(archive.folder, unit_vectors(3), 7000)
    archive.refresh()
    assert archive.search(unit_vectors(1)[0], 1)[0].metadata.keys() == {"valid", "cloud", "bands"}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 0x20
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.unlink()])
def test_a_damaged_r_tree_is_told_and_left_out_by_repair(archive, damage):
    files = sorted(path for path in (archive.folder / "chips.lance" / "_indices").rglob("*") if path.is_file())
    damage(max(files, key=lambda path: path.stat().st_size))
    for use in (lambda a: a.search("x", bbox=BOXES[0]), lambda a: a.search("x")):
        with pytest.raises(ArchiveError, match="rsvlm index repair"):
            use(Archive.open(archive.folder, TinyEncoder()))
    assert "_indices" in archive.verify()[0]
    report = archive.repair()
    assert (report.lost, len(archive), archive.verify()) == ((), 3000, [])
    assert "index of places" in report.actions[0]
    same_as_a_scan(newest(archive))
    with archive._writing() as table:
        table.replace(placed_rows(5, table.schema, 11, 8000))
    assert len(places.indexes_of(newest(archive).dataset)) == 1
