"""An archive holds every content once, finds what a slow search would find, and refuses what does not fit."""

import os
import shutil
from datetime import date

import numpy as np
import pytest
from fakes import DIM, TinyEncoder, write_raster
from filelock import FileLock

from retrieval import Archive
from retrieval.commands import _opened_or_made
from retrieval.intake import Intake, plan_intake
from retrieval.placing import lonlat_bounds, outlines_of, placed_columns
from retrieval.store import Stored
from rsvlm.errors import ArchiveBusyError, ArchiveError, FingerprintError, QueryError
from rsvlm.raster import read_scene
from rsvlm.scene import Grid, Scene, Window
from rsvlm.sensors import SENSORS

SENSOR = "sentinel-2-l2a"
BLUE = (SENSORS[SENSOR].band("B02"),)
NO_GROUND = Scene(np.zeros((1, 4, 4), np.float32), np.zeros((4, 4), bool), BLUE, SENSORS[SENSOR], Grid(4, 4))


def add(archive, *paths, **options):
    return archive.add(paths, sensor=SENSOR, progress=False, **options)


def make_files(folder, count=4):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        place = (500_000 + 5_000 * i, 5_500_000)
        tags = {"CLOUD_COVER": str(20 * i)} if i else {}
        write_raster(folder / f"s2_2020010{i + 1}.tif", seed=i, place=place, **tags)
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_files(tmp_path / "scenes")


@pytest.fixture
def archive(tmp_path):
    with Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16) as made:
        yield made


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An archive to search in only: 4 files of 6 chips, and one without a place on Earth."""
    base = tmp_path_factory.mktemp("full")
    folder = make_files(base / "scenes")
    write_raster(folder / "nowhere.tif", seed=9, crs=None)
    archive = Archive.create(base / "archive", TinyEncoder(), chip=16, stride=16)
    report = add(archive, folder)
    assert (report.added, report.chips, report.failed) == (5, 30, ())
    return archive


def table_rows(archive):
    return Archive.open(archive.folder)._generation.table.dataset.to_table().to_pylist()


def slow_search(archive, vector, k, keep=lambda row: True):
    """The obvious twin: every row, in numpy, sorted by score and chip id."""
    scored = []
    for row in filter(keep, table_rows(archive)):
        stored = np.asarray(row["vector"], np.float64)
        scored.append((-float(stored @ vector / np.linalg.norm(stored) / np.linalg.norm(vector)), row["chip_id"]))
    return [(chip, -score) for score, chip in sorted(scored)[:k]]


def assert_same(hits, expected):
    assert [hit.chip_id for hit in hits] == [chip for chip, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_text_image_and_vector_queries_agree_with_a_slow_search(full):
    encoder, random = TinyEncoder(), np.random.default_rng(3)
    assert_same(full.search("dark water", 7), slow_search(full, encoder.encode_texts(["dark water"])[0], 7))
    path = full.search("x", 1)[0].path
    scene = read_scene(path, sensor=SENSOR, window=Window(16, 16, 16, 16))
    hits = full.search(scene, 5)
    assert_same(hits, slow_search(full, encoder.encode_scenes([scene])[0], 5))
    assert (hits[0].path, hits[0].window) == (path, Window(16, 16, 16, 16))
    vector = random.normal(size=DIM) * 40
    assert_same(full.search(vector, 30), slow_search(full, vector, 30))
    assert_same(full.search(vector, 10_000), slow_search(full, vector, 10_000))


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"where": "cloud < 0.5"}, lambda r: r["cloud"] is not None and r["cloud"] < 0.5),
        ({"where": "cloud is None and row == 16"}, lambda r: r["cloud"] is None and r["row"] == 16),
        ({"where": 'sensor == "naip"'}, lambda r: False),
        ({"start": date(2020, 1, 2), "end": date(2020, 1, 3)}, lambda r: r["acquired"] and 2 <= r["acquired"].day <= 3),
        ({"bbox": (15.06, 49.0, 15.08, 50.0)}, lambda r: r["west"] and r["west"] <= 15.08 and r["east"] >= 15.06),
        (
            {"where": "cloud > 0.1", "bbox": (15.06, 49.0, 15.3, 50.0)},
            lambda r: r["west"] and r["east"] >= 15.06 and r["cloud"] > 0.1,
        ),
    ],
)
def test_a_filter_inside_the_search_finds_what_filtering_first_would(full, options, keep):
    for k in (1, 4, 30):
        vector = np.random.default_rng(k).normal(size=DIM)
        assert_same(full.search(vector, k, **options), slow_search(full, vector, k, keep))


def test_a_box_selects_some_and_not_all(full):
    assert 0 < len(full.search("x", 100, bbox=(15.06, 49.0, 15.08, 50.0))) < 24


def test_a_least_score_cuts_the_list(full):
    hits = full.search("town", 30)
    kept = full.search("town", 30, min_score=hits[4].score)
    assert [hit.chip_id for hit in kept] == [hit.chip_id for hit in hits[:5]]


def test_ties_are_broken_by_chip_id_also_at_the_end_of_the_list(archive, tmp_path):
    import rasterio

    path = write_raster(tmp_path / "flat.tif", shape=(96, 96))
    with rasterio.open(path, "r+") as file:
        file.write(np.full((4, 96, 96), 1000, np.uint16))
    assert add(archive, path).chips == 36
    everything = [hit.chip_id for hit in archive.search("x", 36)]
    assert everything == sorted(everything)
    for k in (1, 3, 17, 35):
        assert [hit.chip_id for hit in archive.search("x", k)] == everything[:k]


def test_a_hit_tells_where_when_and_what(full):
    hit = next(h for h in full.search("x", 30) if h.path.endswith("s2_20200102.tif") and h.window.col == 32)
    assert hit.acquired == "2020-01-02T00:00:00+00:00"
    assert hit.sensor == SENSOR
    assert hit.metadata == {"valid": 1.0, "cloud": 0.2, "bands": ["B02", "B03", "B04", "B08"]}
    west, south, east, north = hit.footprint.bounds
    assert 15.07 < west < east < 15.08
    assert 49.6 < south < north < 49.7
    assert full.chip(hit.chip_id).window == hit.window
    assert full.search(full.vector(hit.chip_id), 1)[0].chip_id == hit.chip_id


def test_a_chip_without_a_place_is_found_but_lies_in_no_box(full):
    hits = full.search("x", 30, where="west is None")
    assert len(hits) == 6
    assert {hit.footprint for hit in hits} == {None}
    assert len(full.search("x", 30, bbox=(-180, -90, 180, 90))) == 24


@pytest.mark.parametrize("k", [0, -1, 10_001, 10**9, 2.5, True, None])
def test_a_k_that_is_none_is_refused(full, k):
    with pytest.raises(QueryError, match="k is a whole number"):
        full.search("x", k)


@pytest.mark.parametrize(
    "query",
    [
        *(np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf), np.ones(DIM + 1), np.ones((1, DIM))),
        *("", " ", "x" * 10_001, None, 3),
        NO_GROUND,
    ],
)
def test_a_query_that_points_nowhere_is_refused(full, query):
    with pytest.raises(QueryError):
        full.search(query)


def test_a_text_with_half_a_character_is_searched_for_all_the_same(full):
    assert full.search("dark \ud83d water", 3) == full.search("dark ? water", 3)


def test_an_empty_archive_finds_nothing(archive):
    assert archive.search("x") == []
    assert archive.search("x", where="cloud < 1") == []
    assert archive.info()["chips"] == 0
    assert archive.verify() == [] or "index" in archive.verify()[0]


def test_adding_twice_adds_nothing(archive, folder):
    assert (add(archive, folder).added, len(archive)) == (4, 24)
    encoder_calls = len(archive.encoder.batches)
    again = add(archive, folder)
    assert (again.added, again.unchanged, again.replaced, again.chips) == (0, 4, 0, 0)
    assert len(archive) == 24
    assert len(archive.encoder.batches) == encoder_calls


def test_the_same_bytes_at_another_path_add_nothing(archive, folder):
    shutil.copy(folder / "s2_20200101.tif", folder / "copy_20200101.tif")
    report = add(archive, folder)
    assert (report.added, report.unchanged, report.chips) == (4, 1, 24)
    shutil.copy(folder / "s2_20200102.tif", folder / "later.tif")
    assert add(archive, folder / "later.tif").unchanged == 1
    assert len({row["chip_id"] for row in table_rows(archive)}) == len(table_rows(archive)) == 24


def test_a_changed_file_replaces_its_chips(archive, folder):
    add(archive, folder)
    before = {row["chip_id"]: row["path"] for row in table_rows(archive)}
    changed = write_raster(folder / "s2_20200101.tif", seed=77, shape=(16, 16))
    report = add(archive, folder)
    assert (report.added, report.replaced, report.unchanged, report.chips) == (0, 1, 3, 1)
    after = {row["chip_id"]: row["path"] for row in table_rows(archive)}
    others = {chip: path for chip, path in before.items() if path != str(changed)}
    assert others.items() <= after.items()
    assert len(after) == 19
    assert archive.verify() == []


def test_files_that_swap_their_content_keep_both(archive, folder):
    add(archive, folder)
    a, b, spare = folder / "s2_20200101.tif", folder / "s2_20200102.tif", folder / "spare"
    before = {row["chip_id"]: row["path"] for row in table_rows(archive)}
    a.rename(spare), b.rename(a), spare.rename(b)
    assert add(archive, folder).replaced == 2
    after = {row["chip_id"]: row["path"] for row in table_rows(archive)}
    swapped = {str(a): str(b), str(b): str(a)}
    assert after == {chip: swapped.get(path, path) for chip, path in before.items()}


def test_a_file_that_became_a_copy_of_another_leaves_its_old_chips_behind(archive, folder):
    add(archive, folder)
    shutil.copy(folder / "s2_20200102.tif", folder / "s2_20200101.tif")
    assert add(archive, folder).replaced == 1
    assert len(archive) == 18


def test_a_moved_file_is_known_by_its_new_path(archive, folder):
    add(archive, folder)
    moved = (folder / "s2_20200101.tif").rename(folder / "moved_20200101.tif")
    assert add(archive, folder).added == 1
    assert len(archive) == 24
    assert sum(row["path"] == str(moved) for row in table_rows(archive)) == 6


def test_an_unreadable_file_is_listed_and_the_rest_is_added(archive, folder):
    (folder / "empty.tif").write_bytes(b"")
    (folder / ".hidden.tif").write_bytes(b"x")
    (folder / "a.tif.aux.xml").write_bytes(b"x")
    write_raster(folder / "blank.tif", shape=(16, 16))
    import rasterio

    with rasterio.open(folder / "blank.tif", "r+") as file:
        file.write(np.zeros((4, 16, 16), np.uint16))
    report = add(archive, folder, folder / "missing.tif")
    assert report.added == 4
    assert [os.path.basename(path) for path, _ in report.failed] == ["missing.tif", "blank.tif", "empty.tif"]
    assert report.skipped == 1


def test_a_file_that_can_no_longer_be_read_keeps_its_old_chips(archive, folder):
    add(archive, folder)
    (folder / "s2_20200101.tif").write_bytes(b"II*\0 nothing")
    assert len(add(archive, folder).failed) == 1
    assert len(archive) == 24


def test_removing_forgets_a_file_or_a_folder(archive, folder, tmp_path):
    sibling = write_raster(tmp_path / "scenes.tif", seed=50, shape=(16, 16))
    add(archive, folder, sibling)
    assert archive.remove(folder / "s2_20200101.tif") == 6
    assert {hit.path for hit in archive.search("x", 100)}.isdisjoint({str(folder / "s2_20200101.tif")})
    assert archive.remove(folder) == 18
    assert archive.remove(folder) == 0
    assert [hit.path for hit in archive.search("x", 100)] == [str(sibling)]


def test_another_encoder_is_refused_by_both_names(archive):
    with pytest.raises(FingerprintError, match=r"tiny-0 .* not with tiny-1"):
        Archive.open(archive.folder, TinyEncoder(1))


def test_without_an_encoder_an_archive_tells_about_itself_but_reads_no_words(full):
    closed = Archive.open(full.folder)
    assert closed.info()["chips"] == 30
    assert closed.info()["sensors"] == {SENSOR: 30}
    assert closed.verify() == []
    assert len(closed.search(np.ones(DIM), 3)) == 3
    with pytest.raises(ArchiveError, match="needs an encoder"):
        closed.search("x")
    with pytest.raises(ArchiveError, match="needs an encoder"):
        closed.add(full.folder)


def test_a_second_writer_is_told_to_wait(archive, folder, monkeypatch):
    monkeypatch.setattr("retrieval.folder.LOCK_SECONDS", 0.1)
    with FileLock(archive.folder / "write.lock"):
        with pytest.raises(ArchiveBusyError, match="another process is writing"):
            add(archive, folder)
        assert archive.search("x") == []
    assert add(archive, folder).added == 4


def test_a_reader_sees_one_version_until_it_refreshes(archive, folder):
    reader = Archive.open(archive.folder, TinyEncoder())
    add(archive, folder / "s2_20200101.tif")
    assert reader.search("x", 100) == []
    reader.refresh()
    first = reader.search("x", 100)
    archive.remove(folder)
    assert reader.search("x", 100) == first
    reader.refresh()
    assert reader.search("x", 100) == []


def test_a_folder_that_is_no_archive_is_refused(tmp_path, folder):
    for wrong in (tmp_path / "none", folder, folder / "s2_20200101.tif"):
        with pytest.raises(ArchiveError, match="is no archive"):
            Archive.open(wrong)
    with pytest.raises(ArchiveError, match="no archive can be made"):
        Archive.create(folder, TinyEncoder())
    with pytest.raises(ArchiveError, match="stride"):
        Archive.create(tmp_path / "new", TinyEncoder(), chip=16, stride=17)
    with pytest.raises(ArchiveError, match="chip <= 4096"):
        Archive.create(tmp_path / "new", TinyEncoder(), chip=100_000, stride=100_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]


def test_the_command_refuses_other_chips_than_the_archive_has(archive, tmp_path):
    for chip, stride in ((16, 16), (None, None), (16, None)):
        assert _opened_or_made(archive.folder, TinyEncoder(), chip, stride).config == archive.config
    for chip, stride, option in ((32, None, "--chip 16"), (None, 8, "--stride 16")):
        with pytest.raises(ArchiveError, match=f"{option}, which cannot change"):
            _opened_or_made(archive.folder, TinyEncoder(), chip, stride)
    made = _opened_or_made(tmp_path / "new", TinyEncoder(), None, None).config
    assert (made.chip, made.stride) == (256, 256)


def test_an_archive_is_not_made_twice(archive):
    with pytest.raises(ArchiveError, match="already"):
        Archive.create(archive.folder, TinyEncoder())


def test_a_plan_keeps_every_content_once(tmp_path):
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.touch()
    a, b, c, d = paths
    stored = [
        Stored(str(a), "1", "rgb", 2, 2),
        Stored(str(b), "2", "rgb", 1, 2),
        Stored(str(tmp_path / "gone"), "4", "rgb", 1, 1),
    ]
    plan = plan_intake({a: "1", b: "2", c: "1", d: "4"}, stored, None)
    assert plan == [
        Intake(a, "1", "leave"),
        Intake(b, "2", "replace"),  # only half of it is there
        Intake(c, "1", "leave"),
        Intake(d, "4", "add"),  # its old place is gone
    ]
    assert plan_intake({a: "1"}, stored, "naip") == [Intake(a, "1", "replace")]


@pytest.mark.parametrize(("west", "south"), [(12.0, 9.0), (179.5, 9.0), (179.5, -89.0), (179.5, 89.6)])
def test_chips_lie_where_their_own_grids_would_place_them(west, south):
    from affine import Affine
    from pyproj import CRS

    from rsvlm.errors import GeoreferenceError
    from rsvlm.scene import Grid

    grid = Grid(100, 90, Affine(0.01, 0, west, 0, -0.01, south + 1), CRS.from_epsg(4326))
    windows = (Window(0, 0, 100, 90), Window(3, 40, 16, 20), Window(84, 80, 16, 10), Window(50, 60, 1, 1))
    for window, outline in zip(windows, outlines_of(grid, windows), strict=True):
        try:
            own = grid.window(window).footprint
        except GeoreferenceError:  # north of the pole
            assert outline is None
        else:
            assert own.symmetric_difference(outline).area < 1e-9
            np.testing.assert_allclose(lonlat_bounds(outline), lonlat_bounds(own), atol=1e-9)


def test_chips_without_a_place_have_none_in_the_table():
    from rsvlm.scene import Grid

    columns = placed_columns(Grid(9, 9), [Window(0, 0, 3, 3), Window(3, 3, 3, 3)])
    assert columns["footprint"].to_pylist() == columns["west"] == columns["north"] == [None, None]
    assert placed_columns(Grid(9, 9), [])["west"] == []


def test_bounds_across_the_antimeridian_run_from_west_to_east():
    from affine import Affine
    from pyproj import CRS

    from rsvlm.scene import Grid

    crossing = Grid(10, 10, Affine(0.1, 0, 179.5, 0, -0.1, 10), CRS.from_epsg(4326)).footprint
    np.testing.assert_allclose(lonlat_bounds(crossing), (179.5, 9, -179.5, 10))
    plain = Grid(10, 10, Affine(0.1, 0, 17, 0, -0.1, 10), CRS.from_epsg(4326)).footprint
    np.testing.assert_allclose(lonlat_bounds(plain), (17, 9, 18, 10))
