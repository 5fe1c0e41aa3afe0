"""Blended, near, spread and paged searches order chips as a slow search over every row would."""

import json
import shutil
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
import shapely
import typer
from fakes import DIM, TinyEncoder, write_raster
from test_retrieval_index import append, make_archive, rows_for, unit_vectors

from retrieval import Archive, Query
from retrieval.commands import _read_table
from retrieval.filters import where_sql
from retrieval.search import around, kilometres, likeness_threshold, middles, to_hit
from retrieval.store import ChipTable
from rsvlm.encoder.calibration import Calibration, Threshold
from rsvlm.errors import QueryError
from rsvlm.raster import read_scene

SENSOR = "sentinel-2-l2a"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """12,000 chips in a row of 12 degrees, 71 m apart."""
    return make_archive(tmp_path_factory.mktemp("large") / "archive", 12_000)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Chips of real files: four on the ground, one without a place."""
    base = tmp_path_factory.mktemp("real")
    for i in range(4):
        write_raster(base / f"s2_2020010{i + 1}.tif", seed=i, place=(500_000 + 5_000 * i, 5_500_000))
    write_raster(base / "nowhere.tif", seed=9, crs=None)
    archive = Archive.create(base / "archive", TinyEncoder(), chip=16, stride=16)
    archive.add(sorted(base.glob("*.tif")), sensor=SENSOR, progress=False)
    return archive


def all_rows(archive):
    return archive._generation.table.dataset.to_table().to_pylist()


def unit(vector):
    return np.asarray(vector, np.float64) / np.linalg.norm(vector)


def slow_order(archive, vector, query=None):
    """The obvious twin: every row scored in float64, sorted by score and chip id."""
    scored = []
    for row in all_rows(archive):
        score = float(unit(row["vector"]) @ vector)
        if query is not None and row["west"] is not None:
            place = np.array([[(row["west"] + row["east"]) / 2, (row["south"] + row["north"]) / 2]])
            distance = float(kilometres(place, np.array(query.near))[0])
            score += query.near_weight * np.exp(-distance / query.near_km)
        scored.append((score, row))
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]["chip_id"]))


def ids(hits):
    return [hit.chip_id for hit in hits]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_pages_make_up_the_whole_list_without_a_chip_twice(large, kind):
    large.build_index(kind, recall=0.9)
    query = unit_vectors(1, 21)[0]
    for where in (None, "cloud < 0.5"):
        whole = ids(large.search(query, 300, where=where))
        pages = [large.search(query, 50, offset=start, where=where) for start in range(0, 300, 50)]
        assert ids(chain.from_iterable(pages)) == whole
        assert len(set(whole)) == 300
    hits = large.search(query, 7, offset=120)
    assert [hit.rank for hit in hits] == list(range(121, 128))


def test_pages_through_equal_scores_are_stable(tmp_path):
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    append(archive.folder, np.repeat(unit_vectors(3), 200, axis=0), 0)
    archive.refresh()
    query = unit_vectors(3)[1]
    whole = ids(archive.search(query, 600))
    assert whole[:200] == [f"{i:08d}" for i in range(200, 400)]
    pages = [archive.search(query, 37, offset=start) for start in range(0, 600, 37)]
    assert ids(chain.from_iterable(pages)) == whole
    assert archive.search(query, 10, offset=600) == []


@pytest.mark.parametrize("offset", [-1, 1.5, True, 9_991])
def test_a_page_that_is_none_is_refused(real, offset):
    with pytest.raises(QueryError, match="offset"):
        real.search("x", 10, offset=offset)


def test_a_blend_of_text_and_image_is_the_weighted_sum_of_both(real):
    encoder, path = TinyEncoder(), real.search("x", 1)[0].path
    scene = read_scene(path, sensor=SENSOR)
    words, picture = encoder.encode_texts(["dark water"])[0], encoder.encode_scenes([scene])[0]
    for text_weight, image_weight in ((1, 1), (3, 1), (0.5, 2)):
        query = Query(text="dark water", image=scene, text_weight=text_weight, image_weight=image_weight)
        expected = slow_order(real, unit(text_weight * words.astype(float) + image_weight * picture))
        hits = real.search(query, 10)
        assert ids(hits) == [row["chip_id"] for _, row in expected[:10]]
        np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in expected[:10]], atol=1e-5)
    assert real.search(Query(text="dark water"), 5) == real.search("dark water", 5)
    with pytest.raises(QueryError, match="that are not all 0"):
        real.search(Query(text="x", vector=-encoder.encode_texts(["x"])[0]))


@pytest.mark.parametrize(("weight", "km"), [(0.1, 10.0), (2.0, 30.0), (0.0, 1.0), (10.0, 500.0)])
def test_nearness_ranks_as_scoring_every_chip_would(large, weight, km):
    large.build_index("flat")
    vector = unit_vectors(1, 5)[0]
    query = Query(vector=vector, near=(14.2, 50.1), near_weight=weight, near_km=km)
    expected = slow_order(large, unit(vector), query)
    hits = large.search(query, 20)
    assert ids(hits) == [row["chip_id"] for _, row in expected[:20]]
    np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in expected[:20]], atol=1e-5)
    assert ids(large.search(query, 10, offset=10)) == ids(hits)[10:]


def test_a_chip_without_a_place_gains_nothing_from_nearness(real):
    nowhere = {hit.chip_id: hit.score for hit in real.search("x", 30) if hit.footprint is None}
    near = {hit.chip_id: hit.score for hit in real.search(Query(text="x", near=(15.0, 49.65), near_weight=5.0), 30)}
    assert len(nowhere) == 6
    assert {chip: near[chip] for chip in nowhere} == pytest.approx(nowhere)
    assert all(score > nowhere_score for score in list(near.values())[:3] for nowhere_score in nowhere.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text": "x", "text_weight": 0},
        {"text": "x", "image_weight": float("nan")},
        {"text": "x", "near": (200, 0)},
        {"text": "x", "near": (0, 91)},
        {"text": "x", "near": (0, float("nan"))},
        {"text": "x", "near": (0, 0), "near_km": 0},
        {"text": "x", "near": (0, 0), "near_weight": -1},
    ],
)
def test_a_query_that_cannot_be_weighed_is_refused(options):
    with pytest.raises(QueryError):
        Query(**options)


@pytest.mark.parametrize("apart", [0.05, 1.0, 40.0, 500.0])
def test_spread_hits_are_those_a_greedy_walk_down_the_list_keeps(large, apart):
    large.build_index("flat")
    vector, kept, expected = unit_vectors(1, 6)[0], [], []
    for _, row in slow_order(large, unit(vector)):
        place = np.array([(row["west"] + row["east"]) / 2, (row["south"] + row["north"]) / 2])
        if len(expected) < 15 and (not kept or kilometres(np.array(kept), place).min() >= apart):
            kept.append(place)
            expected.append(row["chip_id"])
    hits = large.search(vector, 15, apart_km=apart)
    assert ids(hits) == expected
    assert ids(large.search(vector, 5, offset=5, apart_km=apart)) == expected[5:10]


def placed(path, vectors, places):
    """An archive of chips that are points at these longitudes and latitudes (N, 2)."""
    import lance

    archive = Archive.create(path, TinyEncoder(), chip=16, stride=16)
    table = ChipTable.open(archive.folder)
    rows = rows_for(vectors, table.schema)
    for name, values in zip(("west", "south", "east", "north"), (*places.T, *places.T), strict=True):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values))
    lance.write_dataset(rows, table.dataset.uri, mode="append")
    return Archive.open(archive.folder, TinyEncoder())


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """20,000 chips in one place that are like a query, and 50 elsewhere that are not."""
    vectors = np.concatenate([unit_vectors(20_000, 1, clusters=1), -unit_vectors(50, 2, clusters=1)])
    places = np.full((20_050, 2), (10.0, 50.0))
    places[20_000:, 0] = np.linspace(30, 31, 50)
    return placed(tmp_path_factory.mktemp("crowd") / "archive", vectors, places), unit_vectors(1, 1, clusters=1)[0]


@pytest.mark.parametrize("where", [None, "cloud < 0.5"])
def test_a_chip_on_the_spot_is_found_however_little_it_is_like_the_query(crowd, where):
    archive, vector = crowd
    hits = archive.search(Query(vector=vector, near=(30.0, 50.0), near_weight=5.0, near_km=1.0), 3, where=where)
    expected = slow_order(archive, unit(vector), Query(vector=vector, near=(30.0, 50.0), near_weight=5.0, near_km=1.0))
    kept = [row["chip_id"] for _, row in expected if where is None or row["cloud"] < 0.5]
    assert ids(hits) == kept[:3]
    assert hits[0].chip_id == f"{20_000:08d}"


def test_a_spread_search_looks_past_a_crowd_of_better_chips(crowd):
    archive, vector = crowd
    assert len(archive.search(vector, 10, apart_km=5.0)) == 10


@pytest.mark.parametrize("km", [0.5, 300.0, 4_000.0, 15_000.0, 30_000.0])
@pytest.mark.parametrize("place", [(0, 0), (179.9, -20), (-179.95, 65), (10, 89.5), (-60, -88), (120, 90)])
def test_all_chips_around_a_place_are_found_at_poles_and_the_date_line_too(globe, place, km):
    archive, places = globe
    table = archive._generation.table
    rows, bounds = table.bounds(around(place, km))
    inside = np.flatnonzero(kilometres(places, np.array(place, float)) < km)
    found = {row["chip_id"] for row in table.take(rows, ["chip_id"])}
    assert {f"{i:08d}" for i in inside} <= found
    if km < 1000 and abs(place[1]) < 80:
        assert len(found) < 0.1 * len(places)
    assert len(bounds) == len(rows)


@pytest.fixture(scope="module")
def globe(tmp_path_factory):
    """2,000 chips all over the Earth, a tenth of them at the poles and the date line."""
    random = np.random.default_rng(0)
    places = np.stack([random.uniform(-180, 180, 2000), np.degrees(np.arcsin(random.uniform(-1, 1, 2000)))], axis=1)
    places[:100, 0] = random.choice([-180, 180, -179.99, 179.99], 100)
    places[100:200, 1] = random.choice([-90, 90, -89.99, 89.99], 100)
    return placed(tmp_path_factory.mktemp("globe") / "archive", unit_vectors(2000), places), places


def test_a_file_without_a_place_is_told_once_in_a_spread_search(real):
    hits = real.search("x", 30, apart_km=2.0)
    assert sum(hit.footprint is None for hit in hits) == 1
    assert len({hit.path for hit in hits}) == len(hits) == 5
    with pytest.raises(QueryError, match="apart_km"):
        real.search("x", apart_km=-1)


def test_a_degree_of_latitude_is_111_kilometres_and_the_date_line_is_no_border():
    places = np.array([[0.0, 1.0], [180.0, 0.0], [-179.9, 0.0], [90.0, 0.0]])
    expected = [111.195, 20015.115, 20015.115 - 11.1195, 10007.557]
    np.testing.assert_allclose(kilometres(places, np.array([0.0, 0.0])), expected, atol=0.01)
    np.testing.assert_allclose(kilometres(np.array([[179.9, 0.0]]), np.array([-179.9, 0.0])), [22.239], atol=0.01)
    boxes = np.array([[10, 0, 12, 2], [179.0, -1, -177.0, 1], [177.0, 0, -179.0, 0]])
    assert middles(boxes).tolist() == [[11, 1], [-179, 0], [179, 0]]


def test_many_queries_at_once_find_what_each_finds_alone(large, real):
    large.build_index("flat")
    vectors = unit_vectors(25, 30)
    for where in (None, "cloud < 0.03", 'sensor == "rgb"'):
        for k in (3, 200):
            together = large.search_many(vectors, k, where=where)
            assert together[:4] == [large.search(vector, k, where=where) for vector in vectors[:4]]
            assert len(together) == 25
    texts = ["dark water", "town", "x"]
    assert real.search_many(texts, 4) == [real.search(text, 4) for text in texts]
    assert real.search_many([], 4) == []
    with pytest.raises(QueryError, match="1 to"):
        real.search_many(["x", " "])
    with pytest.raises(QueryError, match="finite numbers"):
        real.search_many(np.zeros((2, DIM)))


def test_columns_of_ones_own_are_filtered_by_and_told_with_hits(tmp_path):
    for i in range(3):
        write_raster(tmp_path / f"{i}.tif", seed=i)
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    archive.add(sorted(tmp_path.glob("*.tif")), sensor=SENSOR, progress=False)
    paths = [str(tmp_path / f"{i}.tif") for i in (0, 1)]
    given = {"path": paths, "crop": ["maize", "o'rye"], "slope": [1, 7], "tilled": [True, False]}
    assert archive.annotate(pa.table(given)) == ("crop", "slope", "tilled")
    assert archive.info()["columns"] == {"crop": "text", "slope": "number", "tilled": "flag"}
    counts = {
        'crop == "maize"': 6,
        'crop == "o\'rye" and slope >= 6.5': 6,
        "tilled == True or slope == 7": 12,
        "crop is None": 6,
        'crop in ("maize", "barley") and cloud is not None': 0,
    }
    assert {where: len(archive.search("x", 50, where=where)) for where in counts} == counts
    hit = archive.search("x", 1, where='crop == "maize"')[0]
    assert (hit.metadata["crop"], hit.metadata["slope"], hit.metadata["tilled"]) == ("maize", 1.0, True)
    assert archive.chip(hit.chip_id).metadata == hit.metadata
    write_raster(tmp_path / "3.tif", seed=3)
    assert archive.add(tmp_path / "3.tif", sensor=SENSOR, progress=False).added == 1
    assert len(archive.search("x", 50, where="crop is None")) == 12
    assert archive.annotate(pa.table({"path": paths[:1], "crop": ["wheat"]})) == ("crop",)
    assert len(archive.search("x", 50, where='crop == "maize"')) == 0
    assert len(archive.search("x", 50, where='crop == "wheat" and tilled == True')) == 6
    assert archive.verify() == []
    assert archive.remove(tmp_path / "0.tif") == 6
    assert len(archive.search("x", 50, where='crop == "wheat"')) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"path": ["a"]},
        {"crop": ["maize"]},
        {"path": ["a"], "vector": [1.0]},
        {"path": ["a"], "two words": [1.0]},
        {"path": ["a"], "is": [1.0]},
        {"path": ["a", "a"], "crop": ["x", "y"]},
        {"path": ["a"], "crop": [[1, 2]]},
        {"path": [1], "crop": ["x"]},
    ],
)
def test_columns_that_do_not_fit_are_refused_and_change_nothing(real, values):
    with pytest.raises(QueryError):
        real.annotate(pa.table(values))
    assert real.info()["columns"] == {}


def test_a_condition_on_a_column_of_ones_own_is_of_its_kind():
    added = {"crop": "text", "slope": "number", "tilled": "flag", "sown": "time"}
    assert where_sql('crop != "rye" and not tilled == True', added) == "((`crop` != 'rye') AND (NOT (`tilled` = true)))"
    assert where_sql("sown >= '2024-01-01'", added).startswith("(`sown` >= timestamp '2024-01-01")
    for wrong in ("crop == 1", "slope == 'x'", "tilled == 1", "sown == 3", "height2 == 1"):
        with pytest.raises(QueryError):
            where_sql(wrong, added)


def test_a_table_of_columns_is_read_with_paths_relative_to_it(tmp_path):
    (tmp_path / "crops.csv").write_text("path,crop\nscenes/a.tif,maize\n/b.tif,rye\n")
    table = _read_table(tmp_path / "crops.csv", "path")
    assert table.to_pydict() == {"path": [str(tmp_path / "scenes/a.tif"), "/b.tif"], "crop": ["maize", "rye"]}
    with pytest.raises(QueryError, match="cannot be read"):
        _read_table(tmp_path / "none.csv", "path")


def test_a_filter_after_removals_reads_the_right_rows(large):
    """Positions shift when rows are removed; addresses do not."""
    large.build_index("flat")
    gone = {hit.path for hit in large.search(unit_vectors(1, 40)[0], 30)}
    large.remove(sorted(gone))
    query = unit_vectors(1, 40)[0]
    kept = [pair for pair in slow_order(large, unit(query)) if pair[1]["cloud"] < 0.3]
    hits = large.search(query, 20, where="cloud < 0.3")
    assert ids(hits) == [row["chip_id"] for _, row in kept[:20]]
    assert {hit.path for hit in hits}.isdisjoint(gone)


def test_the_commands_build_tell_annotate_and_search(real, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from retrieval.commands import app, register

    root = typer.Typer()
    register(root)
    monkeypatch.setattr("retrieval.commands._encoder", lambda folder, device: TinyEncoder())
    folder, run = tmp_path / "archive", CliRunner()
    shutil.copytree(real.folder, folder)
    told = run.invoke(app, ["build", str(folder), "--kind", "hnsw"]).stdout
    assert "kind asked for: hnsw" in told
    assert "why: asked for; 30 vectors take" in told
    assert run.invoke(app, ["build", str(folder)]).exit_code == 0
    assert "why: exact: 30 vectors of 32 numbers take" in run.invoke(app, ["info", str(folder)]).stdout
    path = real.search("x", 1)[0].path
    (tmp_path / "crops.csv").write_text(f"path,crop\n{path},maize\n")
    assert run.invoke(app, ["annotate", str(folder), str(tmp_path / "crops.csv")]).exit_code == 0
    options = ["--image", path, "--sensor", SENSOR, "--near", "15,49.65", "--apart-km", "0.1", "--json", "-k", "2"]
    asked = ["search", str(folder), "dark water", "--where", 'crop == "maize"', "--offset", "1", *options]
    hits = json.loads(run.invoke(root, asked).stdout)
    assert [(hit["rank"], hit["crop"], hit["path"]) for hit in hits] == [(2, "maize", path), (3, "maize", path)]
    assert isinstance(run.invoke(root, ["search", str(folder), "x", "--near", "1"]).exception, QueryError)


class Calibrated(TinyEncoder):
    """The tiny encoder with a threshold for scenes."""

    calibration = Calibration((Threshold("scene", 0.2, "cosine", 9, 0.9, 0.8, 0.9, "by hand"),))


def test_only_searches_in_words_alone_have_a_threshold_and_only_of_a_calibrated_encoder(real):
    scene = read_scene(all_rows(real)[0]["path"], sensor=SENSOR)
    vector = np.ones(DIM, np.float32)
    for query in ("a lake", Query(text="a lake"), Query(text="a lake", near=(15, 50))):
        assert likeness_threshold(query, Calibrated()) == 0.2
        assert likeness_threshold(query, TinyEncoder()) is None
        assert likeness_threshold(query, None) is None
    for query in (scene, vector, Query(text="a lake", image=scene), Query(text="a lake", vector=vector)):
        assert likeness_threshold(query, Calibrated()) is None


@pytest.mark.parametrize(
    ("sensor", "metres", "side", "judged"),
    [
        ("rgb", None, 256, True),
        ("rgb", None, 1024, False),  # no single scene
        ("rgb", 0.5, 256, True),
        ("rgb", 10, 256, False),
        ("naip", 1, 256, True),
        ("sentinel-2-l2a", 10, 256, False),
        ("sentinel-2-l2a", None, 256, False),
        ("a sensor of their own", None, 256, False),
        ("a sensor of their own", 2, 256, True),
        ("rgb", 256, 1, False),  # an import that does not say its windows
    ],
)
def test_chips_that_are_no_whole_scene_in_fine_pixels_are_not_judged(sensor, metres, side, judged):
    footprint = None
    if metres is not None:
        half = metres * side / 111_195 / 2  # degrees; on the equator both ways alike but for half a percent
        footprint = shapely.to_wkb(shapely.box(15 - half, -half, 15 + half, half))
    row = {"chip_id": "c", "footprint": footprint, "acquired": None, "sensor": sensor, "caption": None, "path": "a.tif"}
    row |= {"row": 0, "col": 0, "height": side, "width": side, "valid": 1.0, "cloud": None, "bands": []}
    hit = to_hit(1, 0.1, row, threshold=0.2)
    assert hit.threshold == (0.2 if judged else None)
    assert hit.unlike is judged
    assert to_hit(1, 0.1, row).threshold is None
