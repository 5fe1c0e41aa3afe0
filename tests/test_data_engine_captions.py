"""Captions: many wordings, always the same for a seed, and every number and class in them is true of the image."""

import random
import re
import tomllib
from collections import defaultdict
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_engine.annotated import Annotated, ClassMap, Pair, Target
from data_engine.composition import read_composition
from data_engine.recipes import words
from data_engine.recipes.captions import GROUPS, caption, make
from data_engine.recipes.ground_fields import amount
from data_engine.recipes.named_fields import MONTHS, Seen, latitude_of, season
from data_engine.sources import bigearthnet_mini, hls_worldcover, nwpu_vhr10, ombria, rsicd
from data_engine.sources.bigearthnet import nomenclature
from rsvlm.errors import DatasetError
from rsvlm.raster import read_scene
from rsvlm.sensors import SENSORS

PATTERNS = words.templates("captions")
GROUND = {"tree cover": 0.62, "cropland": 0.29, "permanent water": 0.07, "snow and ice": 0.02}
BOX = (0.0, 0.0, 4.0, 4.0)


def item(name="a.tif", sensor="hls", **said):
    return Annotated(Path("folder") / name, sensor, said.pop("place", "p1"), "train", **said)


def texts(annotated, group, count=400, seed=0):
    return [sample.text for sample in make(annotated, source="s", seed=seed, count=count, groups=(group,))]


def classes_in(text, names):
    """The classes a text speaks of, in order: the longest words that mean one go first."""
    meaning = {word: name for name in names for word in words.names_for(name)}
    found = re.findall("|".join(sorted(map(re.escape, meaning), key=len, reverse=True)), text.lower())
    return [meaning[word] for word in found]


def numbers_in(text):
    return [int(number) for number in re.findall(r"(\d+)(?:%| percent)", text)]


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_at_least_twenty_patterns_none_twice(group):
    assert len(PATTERNS[group]) == len(set(PATTERNS[group])) >= 20


def test_every_pattern_is_of_a_group_and_without_dashes_that_are_none():
    assert set(PATTERNS) == set(GROUPS)
    assert not re.search("[\u2013\u2014]", "".join(sum(PATTERNS.values(), ())))


def test_percentages_and_classes_of_fractions_are_those_of_the_image():
    made = texts(item(fractions=GROUND), "fractions")
    assert len(made) > 200
    with_numbers = [text for text in made if numbers_in(text)]
    assert len(with_numbers) > 50
    for text in made:
        told = classes_in(text, GROUND)
        assert told
        assert "snow and ice" not in told, text
    for text in with_numbers:
        numbers, told = numbers_in(text), classes_in(text, GROUND)
        assert [round(100 * GROUND[name]) for name in told[: len(numbers)]] == numbers, text


def test_what_is_mostly_some_or_little_has_such_a_share():
    sizes = {r"mostly|mainly|chiefly|largely|dominated by": 0.62, r"\bsome\b": 0.29, r"a little|a bit of": 0.07}
    seen = set()
    for text in texts(item(fractions=GROUND), "fractions"):
        for size, share in sizes.items():
            found = re.search(size, text, re.IGNORECASE)
            if found:
                assert GROUND[classes_in(text[found.end() :], GROUND)[0]] == share, text
                seen.add(size)
    assert seen == set(sizes)


def test_everywhere_is_said_only_above_95_percent():
    everywhere = re.compile("everywhere|whole scene|throughout|edge to edge|entire|fill|nothing much")
    assert any(everywhere.search(text) for text in texts(item(fractions={"grassland": 0.96}), "fractions"))
    assert not any(
        everywhere.search(text) for text in texts(item(fractions={"grassland": 0.95, "water": 0.05}), "fractions")
    )


def test_half_is_no_majority():
    made = texts(item(fractions={"grassland": 0.5, "cropland": 0.5}), "fractions")
    assert made
    assert not any(re.search("more than half|mostly|more ground|largest land cover, followed", t, re.I) for t in made)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.04, "less than a tenth"),
        (0.1, "about a tenth"),
        (0.2, "more than a tenth"),
        (0.25, "about a quarter"),
        (0.34, "about a third"),
        (0.42, "more than a quarter"),
        (0.5, "about half"),
        (0.6, "more than half"),
        (0.66, "about two thirds"),
        (0.75, "about three quarters"),
        (0.85, "more than three quarters"),
        (0.97, "nearly all"),
        (1.0, "nearly all"),
    ],
)
def test_shares_in_words_as_by_hand(share, said):
    assert amount(share) == said


def test_shares_in_words_are_true_of_every_share():
    exact = {"a tenth": 0.1, "a quarter": 0.25, "a third": 1 / 3, "half": 0.5, "two thirds": 2 / 3, "quarters": 0.75}
    for share in np.linspace(0.001, 1, 1000):
        said = amount(float(share))
        value = next((value for name, value in exact.items() if said.endswith(name)), 0.9)
        if said.startswith("about"):
            assert abs(share - value) <= 0.03
        else:
            assert (share < value) if said.startswith("less") else (share > value), (share, said)


@pytest.fixture
def mapped(tmp_path):
    """A raster with forest on the left third, water at the top right and fields elsewhere."""
    codes = np.full((90, 90), 40, np.int16)
    codes[:, :30] = 10
    codes[:30, 60:] = 80
    path = tmp_path / "chip.tif"
    with rasterio.open(path, "w", driver="GTiff", width=90, height=90, count=1, dtype="int16") as file:
        file.write(codes, 1)
    return Annotated(path, "hls", "p", "train", class_map=ClassMap(path, hls_worldcover.WORLDCOVER, ignore=(0,)))


def test_positions_name_the_place_where_the_class_is(mapped):
    made = texts(mapped, "positions")
    assert len(made) > 100
    left, corner = re.compile("left|down the left"), re.compile("(top|upper) right")
    for text in made:
        told = classes_in(text, hls_worldcover.WORLDCOVER.values())
        assert set(told) <= {"tree cover", "permanent water"}, text  # the fields' shape has no short name
        assert bool(left.search(text)) == ("tree cover" in told), text
        assert bool(corner.search(text)) == ("permanent water" in told), text


def test_adjacency_names_only_classes_with_a_common_border(mapped):
    made = texts(mapped, "adjacency")
    assert len(made) > 50
    for text in made:
        told = set(classes_in(text, hls_worldcover.WORLDCOVER.values()))
        assert "cropland" in told, text
        assert told <= {"cropland", "tree cover", "permanent water"}, text


def test_without_fractions_the_class_raster_gives_the_shares(mapped):
    numbers = {number for text in texts(mapped, "fractions") for number in numbers_in(text)}
    assert numbers == {33, 11, 56}


def test_a_class_raster_of_which_little_counts_says_nothing(mapped):
    half_known = replace(mapped, class_map=replace(mapped.class_map, ignore=(40,)))
    assert [sample.text for sample in make(half_known, source="s", seed=0)] == []


COUNTS = {"ship": 2, "harbor": 1, "storage tank": 11, "bridge": 0}


def test_counts_of_objects_are_those_of_the_boxes_and_over_ten_are_many():
    targets = tuple(Target(name, boxes=(BOX,) * number) for name, number in COUNTS.items())
    made = texts(item(sensor="rgb", targets=targets, labels=("ship",)), "objects")
    assert len(made) > 200
    counted = {
        "ship": r"\b(two|2) ",
        "harbor": r"\b(a|one|a single) ",
        "storage tank": "(many|a lot of|lots of|numerous) ",
    }
    for text in made:
        rest = text.lower()
        for name, number in counted.items():
            options = sorted((words.plural(each) for each in words.names_for(name)), key=len, reverse=True)
            options = options if name != "harbor" else sorted(words.names_for(name), key=len, reverse=True)
            rest = re.sub(f"{number}({'|'.join(options)})", name, rest)
        absent = [each for each in words.names_for("bridge") if each in rest]
        assert bool(re.search(r"\b(no|any)\b", rest)) == bool(absent), text
        assert not re.search(r"\b(one|two|three|eleven|many|lots|\d+)\b", rest), (text, rest)


def test_objects_with_masks_only_are_not_counted():
    assert texts(item(targets=(Target("ship", mask=Path("m.png")),)), "objects") == []


def test_referring_expressions_are_no_objects():
    assert texts(item(targets=(Target("the left ship", "referring", (BOX,)),)), "objects") == []


def test_openstreetmap_tags_are_said_as_words():
    made = texts(item(labels=("landuse=forest", "building=yes", "leisure=ice_rink")), "tags")
    assert len(made) > 60
    assert not any("=" in text or "_" in text for text in made)
    assert any("ice rink" in text for text in made)
    assert any("woodland" in text for text in made)


def test_labels_are_told_completely():
    known = ("Mixed forest", "Pastures", "Inland waters")
    made = texts(item(labels=known, sensor="sentinel-2-l2a"), "labels")
    assert len(made) > 100
    for text in made:
        assert set(classes_in(text, known)) == set(known), text
        assert not re.search("(one|two|four|five) classes", text)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.8])
def test_floods_are_told_as_large_as_they_are(share):
    made = texts(item(sensor="ombria-s1", fractions={"flood": share}), "flood")
    assert len(made) > 20
    for text in made:
        low = text.lower()
        assert (re.search(r"\bno\b|without|not |free of", low) is not None) == (share == 0), text
        assert (re.search("little|small|hardly", low) is not None) == (share == 0.01), text
        if share >= 0.03:
            assert set(numbers_in(text)) <= {round(100 * share)}, text


def test_months_and_seasons_are_those_of_the_date_and_the_hemisphere():
    for place, meant in (("bigearthnet-T33UUU-1-2", "mid summer"), ("tile-34HBH", "mid winter")):
        made = texts(item(place=place, acquired="2017-07-13T10:00:00Z", labels=("Pastures",)), "season_place")
        assert len(made) > 60
        part, name = meant.split()
        others = {"spring", "summer", "autumn", "winter"} - {name}
        for text in made:
            assert not any(other in text.lower() for other in others), text
            assert not re.search("early|late", text), text
            assert set(re.findall("|".join(MONTHS), text)) <= {"July"}, text
            assert set(re.findall(r"\b\d{4}\b", text)) <= {"2017"}, text
        assert any(re.search(f"{part}[ -]{name}", text, re.I) for text in made)


def test_the_tropics_have_no_seasons_and_an_unknown_place_has_none():
    for place in ("x-T31NBA", "somewhere"):
        made = texts(item(place=place, acquired="2020-01-05"), "season_place")
        assert made
        assert not re.search("spring|summer|autumn|winter", " ".join(made))
        assert ("tropics" in " ".join(made)) == (place != "somewhere")


def test_no_date_no_season():
    assert texts(item(place="x-T33UUU", labels=("Pastures",), acquired="unknown"), "season_place") == []


@pytest.mark.parametrize(
    ("month", "latitude", "expected"),
    [(3, 50, ("spring", "early")), (12, 50, ("winter", "early")), (2, 50, ("winter", "late")),
     (3, -40, ("autumn", "early")), (1, -40, ("summer", "mid")), (8, -40, ("winter", "late"))],
)  # fmt: skip
def test_seasons_as_by_hand(month, latitude, expected):
    assert season(month, latitude) == expected


@pytest.mark.parametrize(
    ("place", "latitude"),
    [("T33UUU", 52.0), ("x-T31NBA", 4.0), ("34HBH", -28.0 - 8.0), ("T61UUU", None), ("T33OUU", None), ("p12", None)],
)
def test_latitudes_of_tiles_as_by_hand(place, latitude):
    assert latitude_of(Seen(item(place=place), None)) == latitude


def test_people_s_captions_stay_as_they_are_and_come_once():
    own = ("many planes .", "many planes .", "an airport .")
    made = list(make(item(captions=own, scene="airport"), source="rsicd", seed=0, count=3))
    assert [(s.text, s.origin.recipe) for s in made[:2]] == [
        ("many planes .", "captions/own@1"),
        ("an airport .", "captions/own@1"),
    ]
    assert {sample.origin.recipe for sample in made[2:]} == {"captions/scene@1"}
    assert len(made) == 5


def test_samples_carry_their_image_and_origin():
    (sample,) = make(item(fractions=GROUND), source="hls_worldcover", seed=4, count=1, groups=("fractions",))
    origin = sample.origin
    assert (sample.kind, sample.images[0].files, sample.images[0].sensor) == ("caption", ("folder/a.tif",), "hls")
    assert (origin.source, origin.place, origin.split, origin.recipe, origin.seed) == (
        "hls_worldcover", "p1", "train", "captions/fractions@1", 4,
    )  # fmt: skip


def test_a_pair_of_dates_gets_no_captions_of_one_image():
    pair = Pair((Path("a"),), (Path("b"),), ("rgb",), captions=("a house was built",))
    assert list(make(item(pair=pair, labels=("house",)), source="s", seed=0)) == []


def test_an_unknown_group_is_refused():
    with pytest.raises(DatasetError, match="no captions colours"):
        list(make(item(), source="s", seed=0, groups=("colours",)))


def test_the_same_seed_words_the_same_and_another_otherwise():
    one, again = (texts(item(fractions=GROUND), "fractions", 5) for _ in range(2))
    assert one == again
    assert one != texts(item(fractions=GROUND), "fractions", 5, seed=1)
    assert one != texts(item("b.tif", fractions=GROUND), "fractions", 5)


def test_no_caption_of_an_image_comes_twice():
    made = [s.text for s in make(item(fractions=GROUND, labels=("cropland",)), source="s", seed=0, count=60)]
    assert len(made) == len(set(made)) == 60


def test_the_manifests_captions_are_own_ones_else_made_of_fractions_else_none():
    assert caption(item(captions=("b", "b")), 5, 0) == ["b", "b"]
    assert caption(item(labels=("forest",)), 5, 0) == []
    assert caption(item(fractions={"cropland": 0.02}), 5, 0) == []
    assert len(set(caption(item(fractions=GROUND), 8, 0))) == 8
    assert len(caption(item(fractions={"flood": 0.0}, sensor="ombria-s2"), 8, 0)) == 8


def test_every_sensor_has_words():
    assert set(SENSORS) <= set(words.TABLE["sensors"])


CLASSES = {*hls_worldcover.WORLDCOVER.values(), *(name for name, _ in nomenclature().values())}
CLASSES |= {group for _, group in nomenclature().values() if group}
DIOR = (
    "airplane, airport, baseball field, basketball court, bridge, chimney, dam, expressway service area, "
    "expressway toll station, golf field, ground track field, harbor, overpass, ship, stadium, storage tank, "
    "tennis court, train station, vehicle, windmill"
)
DOTA = (
    "plane, baseball diamond, bridge, ground track field, small vehicle, large vehicle, ship, tennis court, "
    "basketball court, storage tank, soccer ball field, roundabout, harbor, swimming pool, helicopter, "
    "container crane, airport, helipad"
)
CLASSES |= {*DIOR.split(", "), *DOTA.split(", ")}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_known_class_has_synonyms(name):
    assert len(words.names_for(name)) >= 2


def test_synonyms_differ_and_keys_are_lower_case():
    text = resources.files("data_engine").joinpath("recipes/synonyms.toml").read_text(encoding="utf-8")
    for name, synonyms in tomllib.loads(text)["classes"].items():
        assert name == name.lower()
        assert len({name, *synonyms}) == len(synonyms) + 1
        assert all(each == each.strip() and each for each in synonyms)


@pytest.mark.parametrize(
    ("noun", "article", "more"),
    [
        ("ship", "a ship", "ships"),
        ("island", "an island", "islands"),
        ("university campus", "a university campus", "university campuses"),
        ("water", "water", "water"),
        ("crop fields", "crop fields", "crop fields"),
        ("field of crops", "a field of crops", "fields of crops"),
        ("bus", "a bus", "buses"),
        ("aircraft", "an aircraft", "aircraft"),
        ("factory", "a factory", "factories"),
        ("grass", "grass", "grass"),
        ("sports ground", "a sports ground", "sports grounds"),
        ("snow and ice", "snow and ice", "snow and ice"),
        ("church", "a church", "churches"),
    ],
)
def test_articles_and_plurals_as_by_hand(noun, article, more):
    assert (words.with_article(noun), words.plural(noun)) == (article, more)


def test_verbs_agree_with_their_noun():
    trees, forest = words.noun("trees"), words.noun("forest")
    assert f"{trees:cover} / {forest:cover}" == "trees cover / forest covers"
    assert f"{trees:is} {forest:is} {trees:be} {forest:can}" == "are is trees are forest can"
    assert f"{words.noun('snow and ice'):make up} {words.noun('airport'):a}" == "snow and ice make up an airport"


@pytest.fixture(scope="module")
def real(data_dir):
    """Captions of two hundred real images and more, by group."""
    parts = (
        (hls_worldcover.read, "hls_worldcover", 90),
        (ombria.read, "ombria", 100),
        (nwpu_vhr10.read, "nwpu_vhr10", 80),
        (rsicd.read, "rsicd_aid", 80),
        (bigearthnet_mini.read, "bigearthnet_mini", 60),
    )
    found = defaultdict(list)
    for read, name, most in parts:
        items = list(read(data_dir / name))
        for each in random.Random(0).sample(items, min(most, len(items))):
            scene = read_scene(each.image, sensor=each.sensor) if name == "hls_worldcover" else None
            each = replace(each, place=f"{each.place}-T33UUU") if name == "bigearthnet_mini" else each  # as v1 and v2
            for group in GROUPS:
                for sample in make(each, source=name, seed=0, count=3, groups=(group,), scene=scene):
                    found[group].append((each, sample.text))
    return found


def used(group, found):
    """The patterns texts were made by: of those that fit a text the one with the most words of its own."""
    fixed = {pattern: re.split(r"\{[^}]*\}", pattern) for pattern in PATTERNS[group]}
    order = sorted(fixed, key=lambda pattern: -len("".join(fixed[pattern])))
    regexes = {pattern: re.compile(".+".join(map(re.escape, fixed[pattern])), re.IGNORECASE) for pattern in order}
    return {next(pattern for pattern in order if regexes[pattern].fullmatch(text)) for text in found}


@pytest.mark.parametrize("group", GROUPS)
def test_real_images_are_worded_in_many_ways(group, real):
    found = [text for _, text in real[group]]
    assert len(found) >= 40
    assert len(used(group, found)) >= 20, sorted(used(group, found))


def test_most_captions_of_real_images_differ(real):
    found = [text for group in real for _, text in real[group] if group != "flood"]
    assert len(set(found)) / len(found) > 0.8
    ground = [text for group in ("fractions", "positions", "adjacency", "objects") for _, text in real[group]]
    assert len(set(ground)) / len(ground) > 0.9


def test_captions_of_real_chips_name_only_what_covers_enough(real):
    for each, text in real["fractions"]:
        told = classes_in(text, hls_worldcover.WORLDCOVER.values())
        assert told
        assert all(each.fractions.get(name, 0) >= 0.03 for name in told), (text, each.fractions)


def test_numbers_in_captions_of_real_chips_are_within_rounding(real):
    checked = 0
    for each, text in real["fractions"]:
        numbers, told = numbers_in(text), classes_in(text, hls_worldcover.WORLDCOVER.values())
        for number, name in zip(numbers, told, strict=False):
            assert abs(number - 100 * each.fractions[name]) <= 0.5, (text, each.fractions)
            checked += 1
    assert checked > 20


def test_neighbours_in_captions_of_real_chips_share_a_border(real):
    for each, text in real["adjacency"]:
        told = classes_in(text, hls_worldcover.WORLDCOVER.values())
        pairs = {frozenset(pair) for pair in read_composition(each.class_map).neighbours}
        assert frozenset(told[:2]) in pairs, text


def test_indices_need_a_scene_and_say_its_mean(real):
    each = next(each for each, _ in real["indices"])
    assert texts(each, "indices") == []
    scene = read_scene(each.image, sensor=each.sensor)
    red, nir = scene.band("red")[scene.valid], scene.band("nir")[scene.valid]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nanmean(np.clip((nir - red) / (nir + red), -1, 1))
    made = [s.text for s in make(each, source="s", seed=0, count=99, groups=("indices",), scene=scene)]
    said = {
        float(n) for text in made for n in re.findall(r"(?:NDVI|\(NDVI\)|NDVI of|NDVI is|averages) (-?\d\.\d\d)", text)
    }
    assert said == {round(float(mean), 2)}


def test_articles_and_places_of_floods_and_cells_read_well():
    said = {text for seed in range(60) for text in caption(item(fractions={"flood": 0.4}), 8, seed)}
    assert any("an inundated area" in text for text in said)
    assert not [text for text in said if "a inundated" in text]


def test_no_thing_is_called_one_or_another_of_two_that_both_need_a_plural():
    either = {"boat or ship", "house or other building", "marina or port", "car or small van", "coach or bus"}
    assert not either & {name for names in words.TABLE["classes"].values() for name in names}
