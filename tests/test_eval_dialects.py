"""Texts of other models: read by hand-worked cases, written and read back, and whatever else a model may say."""

import json
import time

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.dialects import DIALECTS, MAX_SHAPES, Parsed, parse, write
from rsvlm.errors import EvaluationError
from rsvlm.scene import Grid

SIZE = (200, 400)  # height, width
NAMES = tuple(DIALECTS)
ORIENTED = ("geochat", "geoground", "earthdial", "qwen", "falcon", "geojson")
STEPS = {"geoground": 1000, "qwen": 0, "falcon": 1000, "geojson": 0}  # per axis; 100 elsewhere, 0 is in pixels


def boxes(*rows, phrases=()):
    return Parsed(np.array(rows, float).reshape(-1, 4), phrases=phrases)


def random_boxes(chance, count, size=SIZE):
    height, width = size
    low = chance.uniform(0, 0.6, size=(count, 2))
    rows = np.concatenate([low, low + chance.uniform(0.05, 0.4, size=(count, 2))], axis=1)
    return rows * [width, height, width, height]


def random_rectangle(chance):
    """Corners of a turned rectangle well inside an image of SIZE, and half its diagonal."""
    sides = chance.uniform(12, 60, size=2)
    shape = shapely.affinity.rotate(shapely.box(-sides[0] / 2, -sides[1] / 2, *sides / 2), chance.uniform(1, 89))
    centre = chance.uniform([60, 60], [340, 140])
    return np.array(shape.exterior.coords)[:4] + centre, float(np.hypot(*sides)) / 2


def half_steps(name, size=SIZE, oriented=False):
    """The largest error of rounding x and y in pixels."""
    if name == "geojson":
        return np.array([1e-9, 1e-9])
    if name == "qwen":
        return np.array([0.5, 0.5]) + 1e-9
    scale = 100 if oriented and name == "geoground" else STEPS.get(name, 100)
    return np.array(size[::-1]) / scale / 2 + 1e-9


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("geochat", "<p>ship</p> {<10><20><30><40>|<0>}<delim>{<0><0><100><100>|<0>}", [[40, 40, 120, 80]]),
        ("geoground", "<box>[[100,200,300,400]]</box>", [[40, 40, 120, 80]]),
        ("earthdial", "[[10, 20, 30, 40, 0]]", [[40, 40, 120, 80]]),
        ("teochat", "It changed at [10, 20, 30, 40].", [[40, 40, 120, 80]]),
        ("qwen", '```json\n[{"bbox_2d": [40, 40, 120, 80], "label": "ship"}]\n```', [[40, 40, 120, 80]]),
        ("falcon", "ship<box><0><0><999><999></box>", [[0.2, 0.1, 399.8, 199.9]]),
        ("falcon", "ship<loc_0><loc_0><loc_999><loc_999>", [[0.2, 0.1, 399.8, 199.9]]),
        ("bigearthnet.txt", "[0.10 0.20, 0.30 0.40]", [[40, 40, 120, 80]]),
    ],
)
def test_boxes_by_hand(name, text, expected):
    found = parse(text, name, SIZE)
    assert np.allclose(found.boxes[:1], expected)
    assert (found.dropped, found.clipped) == (0, 0)


def test_every_dialect_declares_its_name_scale_and_sentence():
    assert all(dialect.name == name and dialect.scale and dialect.sentence for name, dialect in DIALECTS.items())


def test_phrases_belong_to_their_boxes():
    text = "<p> ship </p> {<0><0><10><10>|<0>}<delim>{<20><0><30><10>|<0>} and <p>car</p> {<40><0><50><10>|<0>}"
    assert parse(text, "geochat", SIZE).phrases == ("ship", "ship", "car")
    assert parse("car<loc_1><loc_1><loc_9><loc_9>, a ship<box><1><1><9><9></box>", "falcon", SIZE).phrases == (
        "car",
        "a ship",
    )
    assert parse("<ref>pier</ref><box>[[0,0,9,9],[20,20,30,30]]</box>", "geoground", SIZE).phrases == ("pier", "pier")


def test_a_turn_by_90_degrees_by_hand():
    # a box of 40 x 20 pixels about (100, 100) stands upright afterwards: 20 wide, 40 high
    found = parse("{<40><45><60><55>|<90>}", "geochat", (200, 200))
    assert np.allclose(found.polygons[0], [[110, 80], [110, 120], [90, 120], [90, 80]])


def test_theta_turns_from_right_towards_down():
    # the right end of a flat box moves down by 30 degrees: (100 + 40 cos 30, 100 + 40 sin 30)
    found = parse("[[30, 49, 70, 51, 30]]", "earthdial", (200, 200))
    right = found.polygons[0][1:3].mean(axis=0)
    assert np.allclose(right, [100 + 40 * np.sqrt(3) / 2, 120])


def test_an_oriented_box_of_geoground_by_hand():
    found = parse("<obb>[[50,50,20,10,90]]</obb>", "geoground", (100, 100))
    assert np.allclose(sorted(found.polygons[0].tolist()), [[45, 40], [45, 60], [55, 40], [55, 60]])


def test_a_turn_is_made_in_pixels_not_in_percent():
    # 20 x 40 percent of 400 x 200 pixels is a square of 80: turned by 90 degrees it stays where it is
    found = parse("{<40><30><60><70>|<90>}", "geochat", SIZE)
    assert shapely.Polygon(found.polygons[0]).bounds == pytest.approx((160, 60, 240, 140))


def test_quads_and_polygons_by_hand():
    quad = parse('[{"quadrant bbox": [10, 0, 20, 10, 10, 20, 0, 10], "label": "x"}]', "qwen", SIZE)
    assert quad.polygons[0].tolist() == [[10, 0], [20, 10], [10, 20], [0, 10]]
    found = parse("<poly><0><0><499><0><499><499></poly>", "falcon", SIZE)
    assert np.allclose(found.polygons[0], [[0.2, 0.1], [199.8, 0.1], [199.8, 99.9]])


def test_pixels_of_a_resized_image_come_back_in_those_of_the_image():
    text = '{"bbox_2d": [20, 20, 60, 40], "label": "x"}'
    assert parse(text, "qwen", SIZE, resized=(100, 200)).boxes.tolist() == [[40, 40, 120, 80]]
    assert "[20, 20, 60, 40]" in write(boxes([40, 40, 120, 80]), "qwen", SIZE, resized=(100, 200))


def test_a_text_mask_by_hand():
    rows = ["0," * 15 + "1"] + [",".join("0" * 16)] * 15
    found = parse(f"<seg>{';'.join(rows)}</seg>", "geoground", (32, 64)).masks[0]
    assert found[:2, 60:].all()
    assert found.sum() == 8


def test_a_run_length_mask_by_hand():
    found = parse("<seg>0*1,1*2;0*3</seg>", "qwen", (2, 3)).masks[0]
    assert found.tolist() == [[False, True, True], [False, False, False]]


@pytest.mark.parametrize(
    ("text", "kept", "dropped", "clipped"),
    [
        ("[30, 40, 10, 20]", 1, 0, 1),  # swapped
        ("[-10, 20, 30, 40]", 1, 0, 1),  # starts outside
        ("[10, 20, 130, 40]", 1, 0, 1),  # ends outside
        ("[110, 20, 130, 40]", 0, 1, 0),  # wholly outside
        ("[10, 20, 10, 40]", 0, 1, 0),  # without area
        ("[10, 20, 30]", 0, 1, 0),
        ("[10, 20, 30, nan]", 0, 1, 0),
        ("[10, 20, 30, 1e999]", 0, 1, 0),
        (f"[10, 20, 30, {'9' * 5000}]", 0, 1, 0),
        ("[10, 20, 30, forty]", 0, 1, 0),
        ("[10, 20, 30, 40", 0, 1, 0),
        ("[1e30, 20, 30, 40]", 0, 1, 0),
        ("There is nothing like that.", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_what_a_model_gets_wrong_is_clipped_or_dropped_and_counted(text, kept, dropped, clipped):
    found = parse(text, "teochat", SIZE)
    assert (len(found.boxes), found.dropped, found.clipped) == (kept, dropped, clipped)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("geochat", "{<1><2><3>|<0>}"),
        ("geochat", "{<1><2><3><4>|<0>"),
        ("geoground", "<box>[[1,2,3,4]]"),
        ("geoground", "<box></box>"),
        ("geoground", "<obb>[[50,50,-5,5,0]]</obb>"),
        ("geoground", "<seg>0,1;1,0</seg>"),
        ("geoground", "<seg>" + ";".join(["2," * 15 + "1"] * 16) + "</seg>"),
        ("qwen", '{"bbox_2d": "10, 20, 30, 40"}'),
        ("qwen", '{"bbox_2d": [10, 20, 30, null]}'),
        ("qwen", '{"bbox_2d": [10, 20, 30, 1' + "0" * 400 + "]}"),
        ("qwen", '{"bbox_2d": [10, 20, 30, NaN]}'),
        ("qwen", '{"point": [10, 20]}'),
        ("qwen", "<seg>0*1,1*2;0*2</seg>"),
        ("qwen", "<seg>1*9999</seg>"),
        ("qwen", "<seg>0*0</seg>"),
        ("qwen", "<seg></seg>"),
        ("falcon", "<box><1><2><3></box>"),
        ("falcon", "<quad><1><2><3><4></quad>"),
        ("falcon", "<poly><1><2><3><4></poly>"),
        ("falcon", "<poly><0><0><9><9><9><0><0><9><5><20></poly>"),  # crosses itself
        ("falcon", "<box><1><2><x><4></box>"),
        ("falcon", "<loc_1><loc_2><loc_3>"),
        ("geojson", "no JSON"),
        ("geojson", '{"features": [{"properties": {"polygon_pixels": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]}}]}'),
        ("geojson", '{"features": [null]}'),
        ("geojson", "[" * 100_000),
    ],
)
def test_one_broken_shape_is_dropped_once(name, text):
    found = parse(text, name, SIZE)
    assert (len(found.boxes), len(found.polygons), len(found.masks), found.dropped) == (0, 0, 0, 1)


def test_good_boxes_survive_beside_broken_ones():
    found = parse('[{"bbox_2d": [1, 2, 30, 40], "label": "a"}, {"bbox_2d": [5, 6, 70, 80], "la', "qwen", SIZE)
    assert found.boxes.tolist() == [[1, 2, 30, 40]]
    assert (found.phrases, found.dropped) == (("a",), 1)


def test_location_tokens_cut_short_lose_only_the_last_box():
    found = parse("car<loc_1><loc_1><loc_9><loc_9><loc_20><loc_20>", "falcon", SIZE)
    assert (len(found.boxes), found.dropped) == (1, 1)
    assert parse("<poly></poly>", "falcon", SIZE).dropped == 1


def test_an_oriented_box_is_cut_at_the_edge_of_the_image():
    found = parse("<obb>[[0,50,20,20,45]]</obb>", "geoground", (100, 100))
    assert found.clipped == 1
    assert shapely.Polygon(found.polygons[0]).bounds == pytest.approx((0, 50 - 200**0.5, 200**0.5, 50 + 200**0.5))


def test_corners_in_the_wrong_order_are_put_right():
    found = parse('{"quadrant bbox": [0, 0, 10, 10, 10, 0, 0, 10]}', "qwen", SIZE)
    assert (shapely.Polygon(found.polygons[0]).area, found.clipped) == (100, 1)


def test_endless_answers_are_cut_with_a_count():
    found = parse("[1, 2, 3, 4] " * (MAX_SHAPES + 7), "teochat", SIZE)
    assert (len(found.boxes), found.dropped) == (MAX_SHAPES, 7)


def test_an_unknown_dialect_or_an_image_without_pixels_is_refused():
    with pytest.raises(EvaluationError, match="no dialect 'klingon'"):
        parse("[1,2,3,4]", "klingon", SIZE)
    with pytest.raises(EvaluationError, match="no dialect 'klingon'"):
        write(boxes(), "klingon", SIZE)
    with pytest.raises(EvaluationError, match="at least 1 pixel"):
        parse("[1,2,3,4]", "teochat", (0, 10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", ["[", "{", "<", "<p>", "{<", "<box>", "<seg>0*", "<loc_1>", "[1,", "<seg>1*1</seg>"])
def test_a_megabyte_of_noise_takes_less_than_a_second(name, piece):
    start = time.thread_time()
    parse(piece * (1_000_000 // len(piece)), name, SIZE)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [SIZE, (37, 911)])
def test_boxes_written_and_read_back_are_the_same_within_the_scale(name, size):
    chance = np.random.default_rng(0)
    for _ in range(10):
        given_boxes = random_boxes(chance, 3, size)
        found = parse(write(boxes(*given_boxes), name, size), name, size)
        assert (found.dropped, found.clipped, len(found.polygons)) == (0, 0, 0)
        assert (np.abs(found.boxes - given_boxes) <= np.tile(half_steps(name, size), 2)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_box_smaller_than_a_step_is_written_one_step_wide(name):
    for row in ([100.2, 50.1, 100.3, 50.2], [399.9, 199.9, 400, 200], [0, 0, 0.01, 0.01]):
        found = parse(write(boxes(row), name, SIZE), name, SIZE)
        assert (len(found.boxes), found.dropped) == (1, 0)


@pytest.mark.parametrize("name", ORIENTED)
def test_turned_boxes_written_and_read_back_are_the_same_within_the_scale(name):
    chance = np.random.default_rng(1)
    for _ in range(20):
        corners, radius = random_rectangle(chance)
        found = parse(write(Parsed(np.empty((0, 4)), (corners,)), name, SIZE), name, SIZE)
        rounding = 0 if name in ("qwen", "falcon", "geojson") else np.deg2rad(0.5) * radius
        sides = 2 if name == "geoground" else 1  # a centre and two half sides are rounded
        allowed = sides * np.hypot(*half_steps(name, oriented=True)) + rounding
        back, given_shape = shapely.Polygon(found.polygons[0]), shapely.Polygon(corners)
        assert back.hausdorff_distance(given_shape) <= allowed
        assert (found.dropped, found.clipped) == (0, 0)


@pytest.mark.parametrize("name", ["teochat", "bigearthnet.txt"])
def test_dialects_without_turned_boxes_write_the_upright_bounds(name):
    text = write(Parsed(np.empty((0, 4)), (np.array([[100, 20], [140, 60], [100, 100], [60, 60.0]]),)), name, SIZE)
    assert np.allclose(parse(text, name, SIZE).boxes, [[60, 20, 140, 100]])


@pytest.mark.parametrize("name", ["geochat", "earthdial", "teochat", "falcon", "bigearthnet.txt", "geojson"])
def test_dialects_without_masks_write_their_upright_bounds_and_no_empty_ones(name):
    mask = np.zeros(SIZE, bool)
    mask[20:100, 60:140] = True
    text = write(Parsed(np.empty((0, 4)), masks=(mask, np.zeros(SIZE, bool))), name, SIZE)
    assert np.allclose(parse(text, name, SIZE).boxes, [[60, 20, 140, 100]], atol=0.5)


def test_masks_written_and_read_back_are_the_same_within_their_cells():
    chance = np.random.default_rng(2)
    cells = chance.random((32, 32)) < 0.4
    mask = np.repeat(np.repeat(cells, 4, axis=0), 6, axis=1)
    wrapped = Parsed(np.empty((0, 4)), masks=(mask,))
    assert (parse(write(wrapped, "geoground", mask.shape), "geoground", mask.shape).masks[0] == mask).all()
    rough = chance.random((37, 53)) < 0.5
    wrapped = Parsed(np.empty((0, 4)), masks=(rough, np.zeros((37, 53), bool)))
    found = parse(write(wrapped, "qwen", (37, 53)), "qwen", (37, 53)).masks
    assert (found[0] == rough).all()
    assert not found[1].any()


@pytest.mark.parametrize("name", ["geochat", "geoground", "qwen", "falcon", "geojson"])
def test_phrases_written_and_read_back_are_the_same(name):
    phrases = ("ship", "storage tank", "storage tank")
    given_boxes = boxes(*random_boxes(np.random.default_rng(3), 3), phrases=phrases)
    assert parse(write(given_boxes, name, SIZE), name, SIZE).phrases == phrases
    hostile = boxes([10, 10, 50, 50], phrases=("a <box> {of} [1,2]",))
    assert len(parse(write(hostile, name, SIZE), name, SIZE).boxes) == 1


def test_geojson_carries_pixels_without_a_place_and_degrees_with_one():
    parsed = Parsed(np.array([[10.0, 20, 30, 40]]), phrases=("ship",), scores=(0.75,))
    plain = json.loads(write(parsed, "geojson", SIZE))["features"][0]
    assert plain["geometry"] is None
    assert (plain["properties"]["label"], plain["properties"]["score"]) == ("ship", 0.75)
    grid = Grid(*SIZE, Affine(10, 0, 500_000, 0, -10, 5_000_000), pyproj.CRS.from_epsg(32633))
    text = write(parsed, "geojson", SIZE, grid=grid)
    placed = json.loads(text)["features"][0]
    lon, lat = placed["geometry"]["coordinates"][0][0]
    assert 15 <= lon < 15.01  # 100 to 300 m east of zone 33's central meridian, 15 degrees
    assert 45 < lat < 45.2
    assert placed["properties"]["area_m2"] == pytest.approx(40_000, rel=0.01)
    assert parse(text, "geojson", SIZE).scores == (0.75,)


def test_what_was_read_goes_into_the_grounding_metrics():
    found = parse("{<10><20><30><40>|<0>}{<40><45><60><55>|<45>}", "geochat", SIZE)
    assert len(found.shapes) == 2
    assert found.shapes.boxes[0].tolist() == [40, 40, 120, 80]
    assert len(parse("", "geochat", SIZE).shapes) == 0


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=300), name=st.sampled_from(NAMES))
def test_no_text_raises(text, name):
    parse(text, name, SIZE)


SAMPLE = Parsed(
    np.array([[10.0, 20, 30, 40], [0, 0, 400, 200]]),
    (
        np.array([[100, 20], [140, 60], [100, 100], [60, 60.0]]),
        np.array([[1, 1], [90, 9], [40, 60], [20, 80], [5, 9.0]]),
    ),
    (np.eye(8, dtype=bool),),
    ("a", "b", "c", "d", "e"),
)
PIECES = (
    "<",
    ">",
    "[",
    "]",
    "{",
    "}",
    ",",
    "-",
    ";",
    "*",
    "nan",
    "1e9",
    "null",
    "99999999999",
    "<box>",
    "</seg>",
    "\x00",
)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=6),
)
def test_no_mutated_answer_raises_and_all_that_is_read_lies_in_the_image(name, edits):
    text = write(SAMPLE, name, SIZE)
    for place, cut, piece in edits:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + cut :]
    found = parse(text, name, SIZE)
    points = np.concatenate([found.boxes.reshape(-1, 2), *found.polygons, np.empty((0, 2))])
    assert np.isfinite(points).all()
    assert ((points >= -1e-9) & (points <= np.array([400, 200]) + 1e-9)).all()
    assert all(mask.shape == SIZE for mask in found.masks)
    assert len(found.phrases) == len(found.scores) == len(found.boxes) + len(found.polygons) + len(found.masks)
    assert len(found.shapes) == len(found.boxes) + len(found.polygons)
