import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from data_engine.annotated import Annotated, Pair
from data_engine.recipes import change, words
from data_engine.recipes.change import EVENTS, Measured, hectares, make, measure, number, percent
from data_engine.sources import dsifn, ombria

CELLS = (
    *("top left", "top centre", "top right"),
    *("middle left", "centre", "middle right"),
    *("bottom left", "bottom centre", "bottom right"),
)


def write_pair(folder, mask, *, phrase="flood", crs=None, captions=()):
    """Two blank dates and a mask; with a CRS, pixels of 10 m."""
    paths = {name: folder / f"{name}.png" for name in ("before", "after", "mask")}
    blank = np.zeros((*mask.shape, 3), np.uint8)
    for name, pixels in (("before", blank), ("after", blank + 9), ("mask", mask.astype(np.uint8) * 255)):
        Image.fromarray(pixels).save(paths[name])
    if crs:
        paths["after"] = folder / "after.tif"
        height, width = mask.shape
        profile = {"count": 3, "height": height, "width": width, "dtype": "uint8", "crs": crs}
        with rasterio.open(paths["after"], "w", transform=from_origin(400000, 5000000, 10, 10), **profile) as file:
            file.write(np.ones((3, height, width), np.uint8))
    pair = Pair((paths["before"],), (paths["after"],), ("rgb",), paths["mask"], phrase, captions)
    return Annotated(paths["after"], "rgb", "place-1", "train", pair=pair)


def corner(side=90):
    mask = np.zeros((side, side), bool)
    mask[:30, :20] = True
    return mask


def slow_cells(mask):
    """Pixel by pixel."""
    height, width = mask.shape
    hits, pixels = Counter(), Counter()
    for row in range(height):
        for col in range(width):
            name = words.cell_words((col + 0.5) / width, (row + 0.5) / height)
            pixels[name] += 1
            hits[name] += bool(mask[row, col])
    return tuple(name for name in CELLS if pixels[name] and hits[name] / pixels[name] >= 0.01), hits


def slow_parts(mask):
    """Flood fill over eight neighbours; parts of 20 pixels and more."""
    left = {(int(row), int(col)) for row, col in np.argwhere(mask)}
    parts = 0
    while left:
        todo, size = [left.pop()], 0
        while todo:
            row, col = todo.pop()
            size += 1
            for near in [(row + i, col + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    todo.append(near)
        parts += size >= 20
    return parts


def random_mask(chance):
    height, width = (int(side) for side in chance.integers(9, 40, 2))
    mask = np.zeros((height, width), bool)
    for _ in range(chance.integers(1, 6)):
        row, col = chance.integers(0, height), chance.integers(0, width)
        mask[row : row + chance.integers(1, 9), col : col + chance.integers(1, 9)] = True
    return mask if chance.random() < 0.9 else ~mask


def test_cells_parts_share_and_position_are_those_of_a_slow_count():
    chance, places = np.random.default_rng(0), Counter()
    for _ in range(200):
        mask = random_mask(chance)
        measured = measure(mask, np.full(mask.shape[0], 250.0))
        cells, hits = slow_cells(mask)
        assert measured.cells == cells
        assert measured.parts == slow_parts(mask)
        assert measured.share == pytest.approx(hits.total() / mask.size)
        assert measured.hectares == pytest.approx(hits.total() * 0.025)
        place = measured.where.removeprefix("mostly ").removeprefix("at the ").removeprefix("in the ")
        most = hits.most_common(1)[0][1] / hits.total()
        if place in CELLS:
            assert hits[place] == hits.most_common(1)[0][1]
            assert most >= 0.5
            assert ("mostly" in measured.where) == (most < 1)
        elif measured.where in ("nearly everywhere", "in many places"):
            assert measured.share >= 0.9 or most < 0.5
        else:
            word = re.search(r"top|bottom|left|right|middle|down", measured.where)[0]
            line = {"middle": ("middle", "centre"), "down": ("centre",)}.get(word, (word,))
            named = [cell for cell in CELLS if set(line) & set(cell.split())]
            if "across" in measured.where:
                named = ["middle left", "centre", "middle right"]
            if "down" in measured.where:
                named = ["top centre", "centre", "bottom centre"]
            assert sum(hits[cell] for cell in named) >= 0.6 * hits.total()
        places[measured.where] += 1
    assert len(places) > 12


def test_a_mask_worked_by_hand():
    measured = measure(corner())
    assert measured == Measured(600 / 8100, None, ("top left",), 1, "at the top left")
    both = corner()
    both[60:64, 60:64] = True  # 16 pixels: no part, and 1.8 percent of its cell
    both[89, 0] = True  # a ninth of a percent of its cell
    assert measure(both) == Measured(617 / 8100, None, ("top left", "bottom right"), 1, "mostly at the top left")


def test_corners_that_touch_make_one_part():
    mask = np.zeros((30, 30), bool)
    mask[:5, :5] = mask[5:10, 5:10] = True
    assert measure(mask).parts == 1


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.004, "0.4 percent"), (0.1234, "12 percent"), (0.996, "more than 99 percent"), (1.0, "100 percent")],
)
def test_shares_in_words(share, words):
    assert percent(share) == words


@pytest.mark.parametrize(
    ("area", "words"), [(0.42, "0.42 ha"), (3.44, "3.4 ha"), (120.4, "120 ha"), (12345.0, "12,345 ha")]
)
def test_areas_in_words(area, words):
    assert hectares(area) == words


@pytest.mark.parametrize(("parts", "words"), [(0, "0"), (12, "12"), (13, "about 15"), (21, "about 20")])
def test_many_parts_are_counted_about(parts, words):
    assert number(parts) == words


def test_every_type_is_answered_from_the_mask(tmp_path):
    samples = list(make(write_pair(tmp_path, corner()), source="demo", seed=0, count=40, unchanged=0))
    answers = {kind: {s.answer for s in samples if s.type == kind} for kind in ("change", "grid", "count", "area")}
    assert answers == {"change": {"yes"}, "grid": {"top left"}, "count": {"1"}, "area": {"7 percent"}}
    for sample in samples:
        if sample.type in ("caption", "open", "transition"):
            assert "7 percent of the scene" in sample.answer
            assert "at the top left" in sample.answer.lower()
        if sample.type == "transition":
            assert "land" in sample.answer.lower()
            assert "water" in sample.answer.lower()
    assert {sample.type for sample in samples} == {*answers, "caption", "open", "transition"}
    assert all(sample.mask == str(tmp_path / "mask.png") for sample in samples)


def test_hectares_are_told_where_the_image_lies_on_earth(tmp_path):
    item = write_pair(tmp_path, corner(), crs="EPSG:32633")
    samples = list(make(item, source="demo", seed=0, count=60))
    told = [s for s in samples if s.plan and s.plan.unit == "ha" and s.origin.recipe == "change/hectares@1"]
    assert told
    for sample in told:  # 600 pixels of 100 m2 on the map, 0.1 percent more or less on the ground
        assert float(sample.answer.removesuffix(" ha")) == pytest.approx(6.0, abs=0.1)
    assert any(re.search(r"\d ha\b", s.answer) for s in samples if s.type == "caption")
    flat = tmp_path / "flat"
    flat.mkdir()
    assert not any(
        re.search(r"\bha\b", s.answer) for s in make(write_pair(flat, corner()), source="demo", seed=0, count=60)
    )


def test_every_yes_has_its_no_of_one_date_shown_twice(tmp_path):
    samples = list(make(write_pair(tmp_path, corner()), source="demo", seed=0, count=40))
    answers = Counter(sample.answer for sample in samples if sample.type == "change")
    assert answers["yes"] == answers["no"] > 2
    for sample in samples:
        first, second = (image.files for image in sample.images)
        unchanged = sample.origin.recipe.endswith("-none@1")
        assert unchanged == (first == second == (str(tmp_path / "before.png"),))
        assert unchanged == (sample.mask == "")
        assert unchanged == (sample.answer in {"no", "none", "0", "0 percent", *words.templates("change")["unchanged"]})


def test_unnamed_change_is_also_absent_between_the_later_date_and_itself(tmp_path):
    item = write_pair(tmp_path, corner(), phrase="")
    samples = [s for s in make(item, source="demo", seed=0, count=60) if s.origin.recipe.endswith("-none@1")]
    assert {s.images[0].files[0] for s in samples} == {str(tmp_path / "before.png"), str(tmp_path / "after.png")}
    assert all(s.images[0] == s.images[1] for s in samples)
    assert not any(s.type == "transition" for s in samples)


def test_an_empty_mask_gives_a_no_about_both_dates(tmp_path):
    samples = list(make(write_pair(tmp_path, np.zeros((30, 30), bool)), source="demo", seed=0))
    assert [s.answer for s in samples if s.type == "change"] == ["no"]
    assert len(samples) == 2
    assert all([image.files[0][-10:] for image in s.images] == ["before.png", "/after.png"] for s in samples)


def test_too_little_change_is_neither_yes_nor_no(tmp_path):
    mask = np.zeros((100, 100), bool)
    mask[0, :19] = True
    assert list(make(write_pair(tmp_path, mask), source="demo", seed=0)) == []


def test_own_captions_are_given_on_as_they_are(tmp_path):
    item = write_pair(tmp_path, corner(), captions=("a road was built .", "a new road", "a new road"))
    bare = replace(item, pair=replace(item.pair, mask=None))
    samples = list(make(bare, source="demo", seed=0))
    assert [(s.type, s.text, s.answer) for s in samples[:2]] == [
        ("caption", "", "a road was built ."),
        ("caption", "", "a new road"),
    ]
    assert [s.origin.recipe for s in samples] == ["change/own@1", "change/own@1", "change/own-open@1"]
    assert samples[2].answer in item.pair.captions
    assert samples[2].text


def test_an_image_without_a_pair_gives_nothing(tmp_path):
    assert list(make(replace(write_pair(tmp_path, corner()), pair=None), source="demo", seed=0)) == []


def test_images_come_by_date_and_then_by_sensor(tmp_path):
    item = write_pair(tmp_path, corner())
    pair = replace(item.pair, before=item.pair.before * 2, after=item.pair.after * 2, sensors=("ombria-s1", "rgb"))
    sample = next(make(replace(item, pair=replace(pair, captions=("a",))), source="demo", seed=0))
    names = [(image.files[0].rsplit("/", 1)[1], image.sensor) for image in sample.images]
    assert names == [
        ("before.png", "ombria-s1"),
        ("before.png", "rgb"),
        ("after.png", "ombria-s1"),
        ("after.png", "rgb"),
    ]


@pytest.mark.parametrize("phrase", [*EVENTS, "", "something new"])
def test_a_plan_looks_for_a_phrase_of_its_question(tmp_path, phrase):
    samples = list(make(write_pair(tmp_path, corner(), phrase=phrase), source="demo", seed=0, count=80))
    asked = [sample for sample in samples if sample.plan]
    assert all(s.plan.task == "change" and s.plan.target in s.text.lower() for s in asked)
    assert any(s.plan.target for s in asked) == (phrase in EVENTS)
    assert all((s.plan is None) == (s.text == "") for s in samples)
    assert any(s.plan.unit == "percent" for s in asked)
    assert not any("{" in s.text + s.answer for s in samples)
    plurals = re.compile(r"\b(cells|ones|hectares|ninths|parts of the scene) was\b")
    assert not any(plurals.search(s.text) for s in samples)


def test_the_same_seed_makes_the_same_and_another_seed_another(tmp_path):
    item = write_pair(tmp_path, corner())
    first = list(make(item, source="demo", seed=0))
    assert first == list(make(item, source="demo", seed=0))
    assert first != list(make(item, source="demo", seed=1))
    assert {s.origin.seed for s in first} == {0}


def test_every_list_of_patterns_is_long_without_repeats_and_all_are_used():
    table = words.templates("change")
    assert all(len(set(patterns)) == len(patterns) >= 20 for patterns in table.values())
    measured = Measured(0.25, 3.0, ("centre",), 4, "in the centre")
    item = Annotated("after.png", "rgb", "place-1", "train")
    pair = Pair(("before.png",), ("after.png",), ("rgb",), "mask.png", "flood")
    said = set()
    for seed in range(400):
        maker = change._Maker(item, pair, EVENTS["flood"], random.Random(seed), "demo", seed)
        for sample in maker.something(measured, 8, 1.0):
            said |= {sample.text.lower(), sample.answer.lower()}
    for pattern in (one for patterns in table.values() for one in patterns):
        form = re.sub(r"\\{\w+\\}", ".+", re.escape(pattern.lower()))
        assert any(re.fullmatch(form, text) for text in said), pattern


def test_real_floods_and_pairs_are_told_as_their_masks_say(data_dir):
    items = [item for item in ombria.read(data_dir / "ombria") if item.pair][::100]
    items += list(dsifn.read(data_dir / "dsifn_change"))[::3]
    answers = Counter()
    for item in items:
        mask = np.asarray(Image.open(item.pair.mask)) > 0
        cells, _ = slow_cells(mask)
        for sample in make(item, source="real", seed=0):
            if sample.type == "change":
                answers[sample.answer] += 1
            elif sample.type == "grid" and sample.mask:
                assert sample.answer == ", ".join(cells)
            elif sample.type == "area" and sample.mask:
                assert float(sample.answer.split()[-2]) == pytest.approx(100 * mask.mean(), abs=0.51)
    assert answers["yes"] == answers["no"] >= len(items)
