"""What leaves an archive is valid STAC, and what others made comes in checked, once, and with its origin."""

import json
import shutil
from datetime import UTC, datetime

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from fakes import DIM, TinyEncoder, write_raster
from test_retrieval_object_storage import storage as storage

from retrieval import Archive
from retrieval.exchange import ImportReport, StacReport, export_stac, import_vectors
from retrieval.exchange.vectors import provenance
from retrieval.store import ChipTable
from rsvlm.errors import ArchiveError, ExportError, FingerprintError, QueryError

SENSOR = "sentinel-2-l2a"
MERCATOR = {"id": {"authority": "EPSG", "code": 3857}}
STAC = ("datetime", "created", "assets", "eo:cloud_cover")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Two dated files of 6 chips, one that crosses the antimeridian, one without a date, one without a place."""
    base = tmp_path_factory.mktemp("full")
    folder = base / "sc enes"
    folder.mkdir()
    write_raster(folder / "a_20200101.tif", seed=0)
    write_raster(folder / "b_20200102.tif", seed=1, place=(505_000, 5_500_000), CLOUD_COVER="25")
    write_raster(folder / "fiji_20200103.tif", seed=2, place=(817_500, 8_007_200), crs="EPSG:32760")
    write_raster(folder / "undated.tif", seed=3)
    write_raster(folder / "nowhere_20200104.tif", seed=4, crs=None)
    archive = Archive.create(base / "archive", TinyEncoder(), chip=16, stride=16)
    assert archive.add(folder, sensor=SENSOR, progress=False).chips == 30
    return archive


@pytest.fixture
def empty(tmp_path):
    return Archive.create(tmp_path / "empty", TinyEncoder(), chip=16, stride=16)


def rows_of(archive, *dropped):
    table = ChipTable.open(archive.folder).dataset.to_table().drop_columns(["added", *dropped])
    return sorted(table.to_pylist(), key=lambda row: row["chip_id"])


def vectors_for(seed=0, count=5):
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32) * 3


def foreign(file, count=5, *, metadata=None, seed=0, **columns):
    """A file of vectors as somebody else writes one; a column given as None is left out."""
    boxes = [shapely.box(10 + i, 50, 10.5 + i, 50.5).wkb for i in range(count)]
    values = {
        "embedding": list(vectors_for(seed, count)),
        "geometry": boxes,
        "encoder": ["tiny-0"] * count,
        "sensor": ["sentinel-1"] * count,
        "id": [f"x{i}" for i in range(count)],
    }
    values = {name: value for name, value in {**values, **columns}.items() if value is not None}
    table = pa.table(values)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})}), file)
    return file


def test_every_placed_and_dated_chip_becomes_a_valid_stac_item(full, tmp_path):
    pystac = pytest.importorskip("pystac")
    arrow = pytest.importorskip("stac_geoparquet.arrow")
    pytest.importorskip("jsonschema")
    validator = pystac.validation.JsonSchemaSTACValidator()
    assert export_stac(full, tmp_path / "out.parquet") == StacReport(items=18, left_out=12)
    rows = {row["chip_id"]: row for row in rows_of(full)}
    crossing = count = 0
    for plain in arrow.stac_table_to_items(pq.read_table(tmp_path / "out.parquet").drop_columns(["vector"])):
        item = json.loads(json.dumps(plain))
        validator.validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")  # its schema comes with pystac
        row, facts = rows.pop(item["id"]), item["properties"]
        assert item["stac_version"] == "1.1.0"
        assert datetime.fromisoformat(facts["datetime"]) == row["acquired"]
        assert item["bbox"] == [row["west"], row["south"], row["east"], row["north"]]
        assert shapely.geometry.shape(item["geometry"]).equals(shapely.from_wkb(row["footprint"]))
        assert item["assets"]["image"]["href"] == "file://" + row["path"].replace(" ", "%20")
        assert facts["rsvlm:sensor"] == SENSOR
        assert facts["rsvlm:window"] == [row[name] for name in ("row", "col", "height", "width")]
        assert facts.get("eo:cloud_cover") == (None if row["cloud"] is None else 100 * row["cloud"])
        assert bool(item["stac_extensions"]) == (row["cloud"] is not None)
        crossing += row["west"] > row["east"]
        count += 1
    assert (count, len(rows)) == (18, 12)
    assert 0 < crossing < 6
    with pytest.raises(pystac.STACValidationError):
        validator.validate_core({**item, "bbox": [0]}, pystac.STACObjectType.ITEM, "1.1.0")


def test_geopandas_reads_the_export_in_degrees_with_the_vectors(full, tmp_path):
    export_stac(full, tmp_path / "out.parquet", where="cloud == 0.25")
    frame = geopandas.read_parquet(tmp_path / "out.parquet")
    assert len(frame) == 6
    assert frame.crs.to_string() == "OGC:CRS84"
    assert 15 < frame.geometry.iloc[0].bounds[0] < 16
    assert all(name in frame.columns for name in STAC)
    for chip, vector in zip(frame["id"], frame["vector"], strict=True):
        np.testing.assert_allclose(vector, full.vector(chip), atol=1e-6)
    notes = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"rsvlm"])
    assert (notes["encoder"], notes["fingerprint"]) == ("tiny-0", full.config.fingerprint)


def test_an_export_of_nothing_is_a_file_of_no_items(empty, full, tmp_path):
    assert export_stac(empty, tmp_path / "out.parquet") == StacReport()
    assert export_stac(full, tmp_path / "out.parquet", where='sensor == "naip"') == StacReport()
    assert len(geopandas.read_parquet(tmp_path / "out.parquet")) == 0


@pytest.mark.parametrize("name", ["out.tif", "archive.parquet/", "no/out.parquet", "archive/chips.lance/a.parquet"])
def test_an_export_to_a_place_that_is_none_is_refused(full, tmp_path, name):
    (tmp_path / "archive.parquet").mkdir()
    base = full.folder.parent if name.startswith("archive/") else tmp_path
    with pytest.raises(ExportError):
        export_stac(full, base / name)
    with pytest.raises(QueryError):
        export_stac(full, tmp_path / "out.parquet", where="no such column")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "archive.parquet"]


def test_what_was_exported_comes_back_row_for_row(full, empty, tmp_path):
    export_stac(full, tmp_path / "out.parquet")
    assert import_vectors(empty, tmp_path / "out.parquet") == ImportReport(imported=18)
    kept = {row["chip_id"]: row for row in rows_of(full, "content_hash", "file_chips")}
    rows = rows_of(empty, "content_hash", "file_chips")
    for row in rows:
        old = kept[row["chip_id"]]
        vectors = row.pop("vector"), old.pop("vector")
        np.testing.assert_allclose(*vectors, atol=1e-3)
        assert row.pop("cloud") == pytest.approx(old.pop("cloud"))
        assert row == old
    assert len(rows) == 18
    assert empty.verify() == []
    ours = [hit.chip_id for hit in empty.search("x", 18)]
    assert set(ours) == {row["chip_id"] for row in rows}
    assert import_vectors(full, tmp_path / "out.parquet") == ImportReport(already=18)


def test_a_table_on_object_storage_takes_vectors_in_and_gives_them_out(full, storage, tmp_path):
    uri, options = "s3://bucket/exchange/chips", storage.options
    remote = Archive.create(tmp_path / "remote", TinyEncoder(), chip=16, stride=16, table=uri, storage_options=options)
    export_stac(full, tmp_path / "out.parquet")
    assert import_vectors(remote, tmp_path / "out.parquet") == ImportReport(imported=18)
    assert import_vectors(remote, tmp_path / "out.parquet").unchanged
    assert remote.verify() == []
    assert len(remote.search("x", 18)) == 18
    assert export_stac(remote, tmp_path / "again.parquet") == StacReport(items=18)
    storage.refused.append("exchange/chips/data/")
    try:
        with pytest.raises(ArchiveError, match="on object storage cannot be read"):
            export_stac(remote, tmp_path / "third.parquet")
    finally:
        storage.refused.clear()


def test_vectors_of_others_are_found_where_they_lie(empty, tmp_path):
    dates = [datetime(2024, 6, day, tzinfo=UTC) for day in range(1, 6)]
    path = foreign(tmp_path / "theirs.parquet", datetime=dates, cloud=[0.1] * 5, metadata={"licence": "CC-BY-4.0"})
    assert import_vectors(empty, path) == ImportReport(imported=5)
    stored = vectors_for()
    (hit,) = empty.search(stored[2], 1)
    assert (hit.chip_id, hit.sensor, hit.path) == ("x2", "sentinel-1", str(path))
    assert hit.acquired == "2024-06-03T00:00:00+00:00"
    assert hit.footprint.bounds == (12, 50, 12.5, 50.5)
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert [h.chip_id for h in empty.search(stored[2], 5, bbox=(13.6, 50, 20, 51))] == ["x4"]
    assert empty.verify() == []
    (note,) = provenance(empty)
    assert (note.file, note.rows, note.encoder) == (str(path), 5, "tiny-0")
    assert note.metadata["licence"] == "CC-BY-4.0"
    assert {row["content_hash"] for row in rows_of(empty)} == {note.sha256}


def test_the_same_file_again_changes_nothing_and_a_new_one_replaces_it(empty, tmp_path):
    path = foreign(tmp_path / "theirs.parquet")
    import_vectors(empty, path)
    before = rows_of(empty)
    assert import_vectors(empty, path) == ImportReport(unchanged=True)
    assert rows_of(empty) == before
    foreign(path, count=3, seed=7)
    assert import_vectors(empty, path) == ImportReport(imported=3, replaced=5)
    assert [row["chip_id"] for row in rows_of(empty)] == ["x0", "x1", "x2"]
    assert empty.search(vectors_for(7, 3)[1], 1)[0].chip_id == "x1"
    shutil.copy(path, tmp_path / "copy.parquet")
    assert import_vectors(empty, tmp_path / "copy.parquet").unchanged
    other = foreign(tmp_path / "other.parquet", count=4, seed=8)
    assert import_vectors(empty, other) == ImportReport(imported=1, already=3)
    assert empty.verify() == []
    assert empty.remove(other) == 1


def test_rows_without_a_sound_vector_or_place_are_passed_over_and_counted(empty, tmp_path):
    vectors = [*vectors_for(0, 8)]
    vectors[0], vectors[1], vectors[2] = np.zeros(DIM), np.full(DIM, np.nan), None
    vectors[3] = np.full(DIM, 1e308)
    circle = shapely.Point(0, 0).buffer(1, quad_segs=5000).wkb
    bowtie = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]).wkb
    good = shapely.box(1, 1, 2, 2).wkb
    places = [good, good, good, good, circle, bowtie, shapely.box(500, 0, 501, 1).wkb, None]
    vectors = [None if v is None else np.asarray(v, np.float64) for v in vectors]
    path = foreign(tmp_path / "t.parquet", count=8, embedding=vectors, geometry=places)
    assert import_vectors(empty, path) == ImportReport(imported=1, skipped=7)
    (row,) = rows_of(empty)
    assert (row["chip_id"], row["footprint"], row["west"]) == ("x7", None, None)
    assert import_vectors(empty, foreign(tmp_path / "u.parquet", geometry=[b"no wkb"] * 5)).skipped == 5


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"embedding": list(np.ones((5, DIM + 1)))}, ArchiveError, f"{DIM} numbers.*{DIM + 1}"),
        ({"embedding": ["a"] * 5}, ArchiveError, "lists of"),
        ({"embedding": None}, ArchiveError, "no column 'vector'"),
        ({"geometry": None}, ArchiveError, "no column 'geometry'"),
        ({"geometry": ["POINT (0 0)"] * 5}, ArchiveError, "as WKB"),
        ({"sensor": None}, ArchiveError, "--sensor"),
        ({"sensor": ["a", None, "b", "c", "d"]}, ArchiveError, "1 rows"),
        ({"encoder": ["clay"] * 5}, FingerprintError, "encoder clay.*tiny-0"),
        ({"encoder": ["tiny-0", "tiny-0", "tiny-0", "tiny-0", "clay"]}, FingerprintError, "clay"),
        ({"encoder": None}, FingerprintError, "--encoder-name tiny-0"),
        ({"encoder": None, "metadata": {"encoder": "clay"}}, FingerprintError, "clay"),
        ({"metadata": {"rsvlm": json.dumps({"fingerprint": "0" * 64})}}, FingerprintError, "0000"),
        ({"id": ["x"] * 5}, ArchiveError, "'x' twice"),
        ({"id": ["", "a", "b", "c", "d"]}, ArchiveError, "every id"),
        ({"datetime": ["last summer"] * 5}, ArchiveError, "date"),
        (
            {"metadata": {"geo": json.dumps({"columns": {"geometry": {"crs": MERCATOR}}})}},
            ArchiveError,
            "EPSG:3857",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_archive_is_refused_in_one_sentence(empty, tmp_path, changes, error, words):
    path = foreign(tmp_path / "theirs.parquet", **changes)
    with pytest.raises(error, match=words) as caught:
        import_vectors(empty, path)
    assert "\n" not in str(caught.value)
    assert len(Archive.open(empty.folder)) == 0
    assert provenance(empty) == []


def test_what_is_no_parquet_file_is_refused(empty, tmp_path):
    whole = foreign(tmp_path / "theirs.parquet")
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    for name in ("cut.parquet", "empty.parquet", "missing.parquet", "."):
        with pytest.raises(ArchiveError):
            import_vectors(empty, tmp_path / name)
    assert len(Archive.open(empty.folder)) == 0


def test_an_encoder_or_sensor_may_be_said_instead(empty, tmp_path):
    path = foreign(tmp_path / "theirs.parquet", encoder=None, sensor=None, id=None)
    assert import_vectors(empty, path, encoder="tiny-0", sensor="naip").imported == 5
    with pytest.raises(FingerprintError, match="clay"):
        import_vectors(empty, foreign(tmp_path / "b.parquet", encoder=None), encoder="clay")
    assert {row["sensor"] for row in rows_of(empty)} == {"naip"}
    assert all(len(row["chip_id"]) == 64 for row in rows_of(empty))


def test_paths_dates_and_windows_of_others_are_kept(empty, tmp_path):
    days = ["2024-06-30", "2024-06-30T12:00:00+02:00", None, "2024-06-30T10:00:00Z", "2024-06-30T10:00:00"]
    columns = {"path": ["file:///data/a%20b.tif", "s3://bucket/c.tif", "d.tif", None, "d.tif"], "datetime": days}
    sides = {name: np.arange(5) + 1 for name in ("row", "col", "height", "width")}
    import_vectors(empty, foreign(tmp_path / "t.parquet", **columns, **sides))
    rows = rows_of(empty)
    assert [row["path"] for row in rows] == [
        "/data/a b.tif",
        "s3://bucket/c.tif",
        "d.tif",
        str(tmp_path / "t.parquet"),
        "d.tif",
    ]
    assert [row["file_chips"] for row in rows] == [1, 1, 2, 1, 2]
    assert [row["acquired"] and row["acquired"].hour for row in rows] == [0, 10, None, 10, 10]
    assert [row["width"] for row in rows] == [1, 2, 3, 4, 5]
    assert empty.verify() == []
