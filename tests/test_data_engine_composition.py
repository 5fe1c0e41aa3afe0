"""What a class raster says, worked out by hand on rasters of a few pixels and compared with a slow twin."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from data_engine.annotated import ClassMap
from data_engine.composition import composition, read_composition
from rsvlm.errors import DatasetError

NAMES = {1: "forest", 2: "water", 3: "town"}
HALVES = np.repeat([[1, 1, 1, 2, 2, 2]], 6, axis=0)  # forest on the left half, water on the right
ALL = ("top left", "top centre", "top right", "middle left", "centre", "middle right")
ALL += ("bottom left", "bottom centre", "bottom right")


def test_two_halves_are_described_as_by_hand():
    known = composition(HALVES, NAMES)
    assert known.fractions == {"forest": 0.5, "water": 0.5}
    assert known.cells["forest"] == ("top left", "top centre", "middle left", "centre", "bottom left", "bottom centre")
    assert known.cells["water"] == (
        "top centre",
        "top right",
        "centre",
        "middle right",
        "bottom centre",
        "bottom right",
    )
    assert known.neighbours == (("forest", "water"),)
    assert (known.dominant, known.parts, known.counted) == ("forest", {"forest": 1, "water": 1}, 1.0)


def test_one_class_lies_in_all_cells_and_borders_on_nothing():
    known = composition(np.full((9, 9), 3), NAMES)
    assert (known.cells, known.neighbours, known.dominant) == ({"town": ALL}, (), "town")


def test_the_largest_class_comes_first_and_ties_go_by_name():
    codes = np.array([[2, 2, 2], [2, 1, 3]])
    assert list(composition(codes, NAMES).fractions.items()) == [("water", 4 / 6), ("forest", 1 / 6), ("town", 1 / 6)]


def test_ignored_pixels_count_nowhere():
    codes = np.array([[0, 0, 1, 1], [0, 0, 1, 2]])
    known = composition(codes, NAMES, [0], least_part=1)
    assert known.fractions == {"forest": 0.75, "water": 0.25}
    assert known.counted == 0.5
    assert known.parts == {"forest": 1, "water": 1}


def test_a_raster_without_counted_pixels_says_nothing():
    known = composition(np.zeros((4, 4), int), NAMES, (0,))
    assert (known.fractions, known.cells, known.neighbours, known.dominant, known.parts) == ({}, {}, (), "", {})
    assert known.counted == 0


def test_codes_with_one_name_are_one_class():
    codes = np.array([[1, 2], [1, 2]])
    known = composition(codes, {1: "forest", 2: "forest"}, least_part=1)
    assert (known.fractions, known.parts, known.neighbours) == ({"forest": 1.0}, {"forest": 1}, ())


def test_a_small_class_lies_where_more_than_half_of_it_is():
    codes = np.full((9, 9), 1)
    codes[0, :2] = 2  # two of 9 pixels of the cell, all of the class
    assert composition(codes, NAMES).cells["water"] == ("top left",)
    codes[8, 8], codes[8, 0] = 2, 2  # now half of it: no longer more
    assert composition(codes, NAMES).cells["water"] == ()


def test_a_class_lies_in_a_cell_of_which_it_covers_more_than_a_third():
    codes = np.full((9, 9), 1)
    codes[:, 0] = 2  # a third of each cell on the left: not more, and no cell holds half of it
    assert composition(codes, NAMES).cells["water"] == ()
    codes[:3, 1] = 2  # two thirds of the top left cell
    assert composition(codes, NAMES).cells["water"] == ("top left",)


def test_classes_that_hardly_touch_are_no_neighbours():
    codes = np.full((6, 6), 1)
    codes[0, 0] = 2  # touches along two pixel edges
    assert composition(codes, NAMES).neighbours == ()
    codes[0, :3] = 2  # four pixel edges, more than half of a side
    assert composition(codes, NAMES).neighbours == (("forest", "water"),)


def test_the_longest_border_comes_first_and_names_the_larger_class_first():
    codes = np.full((8, 8), 1)
    codes[:, 6:] = 2
    codes[6:, :5] = 3
    assert composition(codes, NAMES).neighbours == (("forest", "water"), ("forest", "town"))


def test_borders_over_ignored_pixels_do_not_count():
    codes = HALVES.copy()
    codes[:, 2:4] = 0
    assert composition(codes, NAMES, (0,)).neighbours == ()


def test_parts_touch_at_corners_and_small_ones_are_not_counted():
    codes = np.full((6, 6), 1)
    codes[:3, :3], codes[3:, 3:] = 2, 2  # two squares of nine pixels that meet at a corner
    assert composition(codes, NAMES).parts["water"] == 1
    codes[2, 2] = 1
    assert composition(codes, NAMES).parts["water"] == 1  # eight pixels are too few, nine are not
    assert composition(codes, NAMES, least_part=8).parts["water"] == 2
    assert composition(codes, NAMES, least_part=10).parts["water"] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 3)])
def test_rasters_smaller_than_the_grid_are_described(shape):
    known = composition(np.full(shape, 2), NAMES)
    assert known.fractions == {"water": 1.0}
    assert set(known.cells["water"]) <= set(ALL)
    assert known.cells["water"]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 2, 2)])
def test_what_is_no_raster_is_refused(shape):
    with pytest.raises(DatasetError, match="must be"):
        composition(np.ones(shape, int), NAMES)


def test_a_code_without_a_name_is_refused_by_name():
    with pytest.raises(DatasetError, match=r"holds 7, which is no code among 1, 2, 3"):
        composition(np.array([[1, 7]]), NAMES)


def slow_borders(codes, a, b):
    """Pixel edges between two classes, counted one by one."""
    height, width = codes.shape
    return sum(
        {int(codes[y, x]), int(codes[v, u])} == {a, b}
        for y in range(height)
        for x in range(width)
        for v, u in ((y + 1, x), (y, x + 1))
        if v < height and u < width
    )


@pytest.mark.parametrize("seed", range(12))
def test_shares_borders_and_cells_agree_with_counting_pixel_by_pixel(seed):
    chance = np.random.default_rng(seed)
    shape = tuple(chance.integers(3, 14, 2))
    codes = np.kron(chance.integers(0, 4, shape), np.ones((2, 3), int))[: shape[0] + 1, : 2 * shape[1]]
    known = composition(codes, NAMES, (0,))
    total = (codes > 0).sum()
    for code, name in NAMES.items():
        assert known.fractions.get(name, 0) == pytest.approx((codes == code).sum() / max(total, 1))
    long = {
        frozenset((NAMES[a], NAMES[b]))
        for a in NAMES
        for b in NAMES
        if a < b and slow_borders(codes, a, b) > min(codes.shape) / 2
    }
    assert {frozenset(pair) for pair in known.neighbours} == long
    height, width = codes.shape
    for code, name in NAMES.items():
        found = []
        for position, words in enumerate(ALL):
            row, column = divmod(position, 3)
            cell = [
                int(codes[y, x])
                for y in range(height)
                for x in range(width)
                if row * height // 3 <= y < (row + 1) * height // 3
                and column * width // 3 <= x < (column + 1) * width // 3
            ]
            there, counted = cell.count(code), len(cell) - cell.count(0)
            if there and (3 * there > counted or 2 * there > (codes == code).sum()):
                found.append(words)
        assert known.cells.get(name, ()) == tuple(found)


def test_a_class_map_is_read_from_its_band_with_its_codes(tmp_path):
    path = tmp_path / "chip.tif"
    layers = np.stack([np.zeros((6, 6)), HALVES]).astype(np.int16)
    profile = {"driver": "GTiff", "width": 6, "height": 6, "count": 2, "dtype": "int16"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=from_origin(0, 60, 10, 10), **profile) as file:
        file.write(layers)
    known = read_composition(ClassMap(path, {"1": "forest", "2": "water"}, band=2))
    assert known == composition(HALVES, NAMES)
