"""Answers are recomputed from the pixels and outlines the slow way; yes comes as often as no; nothing kept leaks."""

import json
import re
from collections import Counter, defaultdict, deque
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from data_engine.annotated import Annotated, ClassMap, Target
from data_engine.recipes import plans
from data_engine.recipes.evidence import evidence_of, related, table
from data_engine.recipes.plans import ABSTENTION, OFF_TOPIC, About, Noun, ask, normalised
from data_engine.recipes.proven import PROVEN, own_forms
from data_engine.recipes.questions import MAKERS, WEIGHTS, make
from data_engine.recipes.words import chance_of, names_for, plural
from data_engine.sample import Sample
from data_engine.sources import hls_worldcover, nwpu_vhr10, ombria, rsicd
from data_engine.sources.hls_worldcover import WORLDCOVER
from rsvlm.errors import DatasetError, ImageryError
from rsvlm.language.phrases import singular

SIDE = 36  # pixels of 10 m
OBJECTS = ("ship", "bridge", "storage tank", "airplane")
KEPT = [
    normalised(json.loads(line)["question"])
    for line in (Path(__file__).parent / "data/plans.jsonl").read_text(encoding="utf-8").splitlines()
]


def write(path, layers, crs="EPSG:32633"):
    corner = Affine(10, 0, 500_000, 0, -10, 5_500_000)
    shape = {"count": len(layers), "height": layers.shape[1], "width": layers.shape[2], "dtype": "uint8"}
    where = {"crs": rasterio.CRS.from_user_input(pyproj.CRS(crs)), "transform": corner} if crs else {}
    with rasterio.open(path, "w", driver="GTiff", **shape, **where) as file:
        file.write(layers)
    return path


def place(folder, number):
    """A random class map of rectangles with random rectangular objects; half of the places lie nowhere on Earth."""
    rng = np.random.default_rng(number)
    classes = rng.choice([10, 30, 40, 50, 60, 70, 80], size=4, replace=False)
    codes = np.full((1, SIDE, SIDE), classes[0], np.uint8)
    for code in classes[1:]:
        row, column, height, width = rng.integers(0, [24, 24, 30, 30])
        codes[0, row : row + height + 2, column : column + width + 2] = code
    if number % 5 == 0:
        codes[0, :, : SIDE // 2] = 50
    rings = {name: [] for name in OBJECTS}
    for name in rng.choice(OBJECTS[:3], size=rng.integers(0, 6)):
        x, y, width, height = *rng.uniform(0, 30, 2), *rng.uniform(0.5, 5, 2)
        rings[str(name)].append(((x, y), (x + width, y), (x + width, y + height), (x, y + height)))
    image = write(
        folder / f"{number}.tif", rng.integers(1, 255, (4, SIDE, SIDE), np.uint8), number % 2 and "EPSG:32633"
    )
    return Annotated(
        image=image,
        sensor="naip",
        place=f"place-{number}",
        split="train",
        acquired="2021-07-14T10:00:00" if number % 3 else "",
        class_map=ClassMap(write(folder / f"{number}-classes.tif", codes), WORLDCOVER, ignore=(0,)),
        targets=tuple(Target(name, polygons=tuple(rings[name])) for name in OBJECTS),
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    items = [place(folder, number) for number in range(60)]
    return [(item, list(make(item, source="test", seed=1, count=25))) for item in items]


class Truth:
    """The slow twin: everything is counted anew, pixel by pixel and object by object."""

    def __init__(self, item):
        with rasterio.open(item.class_map.path) as file:
            codes = file.read(1)
        self.cells = defaultdict(set)
        for row in range(SIDE):
            for column in range(SIDE):
                self.cells[WORLDCOVER[str(codes[row, column])]].add((row, column))
        self.rings = {target.phrase: target.polygons for target in item.targets}
        self.earth = int(item.place.split("-")[1]) % 2 == 1
        self.labels = {}
        for label in [*WORLDCOVER.values(), *self.rings]:
            for name in names_for(label):
                for form in (singular(name), plural(singular(name))):
                    self.labels.setdefault(form, set()).add(label)

    def label(self, phrase):
        """The class of a phrase; of several that share the name the one that is there."""
        labels = self.labels[phrase]
        there = [label for label in labels if self.cells.get(label) or self.rings.get(label)]
        return there[0] if there else min(labels)

    def share(self, phrase):
        return len(self.cells[self.label(phrase)]) / SIDE**2

    def things(self, phrase):
        size, _, rest = phrase.partition(" ")
        if size not in ("small", "medium", "large") or rest not in self.labels:
            return list(self.rings[self.label(phrase)])
        areas = {"small": (0, 100), "medium": (100, 500), "large": (500, 1e9)}[size]
        square = [((ring[1][0] - ring[0][0]) * (ring[2][1] - ring[1][1]) * 100, ring) for ring in self.things(rest)]
        return [ring for area, ring in square if areas[0] <= area < areas[1]]

    def there(self, phrase):
        size, _, rest = phrase.partition(" ")
        if size in ("small", "medium", "large") and rest in self.labels:
            return bool(self.things(phrase))
        return bool(self.cells.get(self.label(phrase)) or self.rings.get(self.label(phrase)))

    def amount(self, phrase):
        label = self.label(phrase)
        return len(self.rings[label]) if label in self.rings else self.share(phrase)

    def parts(self, phrase):
        """Connected parts of a class as lists of (row, column); of objects their corners."""
        label = self.label(phrase)
        if label in self.rings:
            return [[(y, x) for x, y in ring] for ring in self.rings[label]]
        left, parts = set(self.cells[label]), []
        while left:
            part, queue = [], deque([left.pop()])
            while queue:
                row, column = queue.popleft()
                part.append((row, column))
                near = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
                queue.extend(cell for cell in near if cell in left)
                left.difference_update(near)
            parts.append(part)
        return parts

    def beside(self, one, other, side):
        """As rsvlm.relations has it: some part whose middle lies on that side of the other's middle."""
        axis, sign = {"top": (0, -1), "bottom": (0, 1), "left": (1, -1), "right": (1, 1)}[side]
        every = [point[axis] for part in self.parts(other) for point in part]
        middles = [sum(point[axis] for point in part) / len(part) for part in self.parts(one)]
        return any(sign * (middle - sum(every) / len(every)) > 0 for middle in middles)

    def gap(self, one, other):
        """Smallest distance of any two points."""
        ours, theirs = (np.array([p for part in self.parts(name) for p in self._edge(part)]) for name in (one, other))
        return np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1)).min()

    def _edge(self, part):
        """Of an object its outline drawn densely, of a class all its pixels."""
        if len(part) != 4 or all(isinstance(value, int) for point in part for value in point):
            return part
        corners = [np.array(point) for point in part]
        return [
            a + t * (b - a)
            for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
            for t in np.linspace(0, 1, 21)
        ]

    def cell(self, phrase):
        parts = self.parts(phrase)
        if self.label(phrase) in self.rings:
            assert len(parts) == 1
            places = [tuple(sum(point[axis] for point in parts[0]) / 4 for axis in (0, 1))]
        else:
            places = [point for part in parts for point in part]
        counts = Counter((int(3 * row / SIDE), int(3 * column / SIDE)) for row, column in places)
        (row, column), most = counts.most_common(1)[0]
        assert most >= 0.7 * len(places)
        words = f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"
        return "centre" if words == "middle centre" else words


def yes(value):
    return "yes" if value else "no"


def check_presence(truth, sample):
    plan = sample.plan
    if plan.relation == "and":
        return yes(truth.there(plan.target) and truth.there(plan.other))
    if plan.relation == "or":
        return yes(truth.there(plan.target) or truth.there(plan.other))
    return yes(truth.there(plan.target))


def check_relation(truth, sample):
    plan = sample.plan
    if plan.relation != "next to":
        return yes(truth.beside(plan.target, plan.other, plan.relation))
    gap = truth.gap(plan.target, plan.other)
    assert gap < 0.05 * SIDE + 0.3 or gap >= 0.25 * SIDE - 0.3  # near or far, nothing between
    return yes(gap < 0.15 * SIDE)


def check_area(truth, sample):
    share = truth.share(sample.plan.target)
    assert share == 0 or share >= 0.02
    if sample.plan.unit == "ha":
        assert float(sample.answer.removesuffix(" ha")) == pytest.approx(share * SIDE**2 * 0.01, rel=2e-3, abs=0.01)
        return sample.answer
    return f"{round(100 * share, 1)}%"


def check_comparison(truth, sample):
    plan = sample.plan
    one, other = truth.amount(plan.target), truth.amount(plan.other)
    counted = isinstance(one, int)
    assert counted == isinstance(other, int)
    assert counted or abs(one - other) >= 0.05 or abs(one - other) <= 0.003
    holds = "equal" if abs(one - other) <= (0 if counted else 0.003) else "more" if one > other else "less"
    if not plan.relation:
        return holds
    if sample.answer not in ("yes", "no"):
        return plan.target if holds == "more" else plan.other
    return yes(holds == plan.relation)


def check_attribute(truth, sample):
    things = truth.things(sample.plan.target)
    return str(len(things)) if sample.plan.task == "count" else yes(things)


def check_rural_urban(truth, sample):
    built = len(truth.cells["built-up"]) / SIDE**2
    assert built <= 0.02 or built >= 0.5
    return "urban" if built >= 0.5 else "rural"


def check_choice(truth, sample):
    options = dict(re.findall(r"\b([A-D])(?:\)|\.|:) ([a-z][a-z -]*[a-z])", sample.text))
    assert 2 <= len(options) <= 4, sample.text
    amounts = {letter: truth.amount(name) for letter, name in options.items()}
    best = max(amounts, key=lambda letter: (amounts[letter], letter == sample.answer))
    assert sum(amount == amounts[best] for amount in amounts.values()) == 1
    return best


def check_describe(truth, sample):
    """The first class named is the largest; the sentence names nothing that is not there."""
    text = f" {sample.answer} "
    found = {}
    for phrase in sorted(truth.labels, key=len, reverse=True):
        for match in re.finditer(rf"\b{re.escape(phrase)}\b", text):
            found[match.start()] = phrase
            text = text.replace(phrase, "#" * len(phrase), 1)
    named = [truth.share(found[start]) for start in sorted(found)]
    assert named, sample.answer
    assert named == sorted(named, reverse=True)
    assert named[0] == max(len(cells) for cells in truth.cells.values()) / SIDE**2
    return sample.answer


CHECKS = {
    "presence": check_presence,
    "relation": check_relation,
    "count": lambda truth, sample: str(len(truth.things(sample.plan.target))),
    "attribute": check_attribute,
    "area": check_area,
    "comparison": check_comparison,
    "position": lambda truth, sample: truth.cell(sample.plan.target),
    "rural_urban": check_rural_urban,
    "choice": check_choice,
    "describe": check_describe,
    "sensor": lambda truth, sample: "NAIP",
    "resolution": lambda truth, sample: "10.0 m" if truth.earth else "none",
    "season": lambda truth, sample: "summer" if truth.earth else "none",
    "date": lambda truth, sample: "2021" if "year" in sample.text.lower() else "2021-07-14",
    "unanswerable": lambda truth, sample: ABSTENTION,
    "off_topic": lambda truth, sample: OFF_TOPIC,
}


def test_every_answer_is_found_again_the_slow_way(asked):
    checked = Counter()
    for item, samples in asked:
        truth = Truth(item)
        for sample in samples:
            expected = CHECKS[sample.type](truth, sample)
            answer = sample.answer
            if sample.type == "comparison" and answer not in ("yes", "no", "more", "less", "equal"):
                answer = singular(answer)
            if sample.type == "resolution":
                assert float(answer.removesuffix(" m")) == pytest.approx(10, abs=0.05)
                continue
            assert answer == expected, (sample.text, item.place)
            checked[sample.type] += 1
    assert checked.total() >= 1000
    assert set(checked) | {"resolution"} == set(CHECKS)


def test_every_question_is_a_sample_with_the_plan_its_words_allow(asked):
    for item, samples in asked:
        for sample in samples:
            assert sample.kind == "question"
            assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample
            assert plans.sayable(sample.text, sample.plan)
            assert sample.images[0].files == (str(item.image),)
            assert (sample.origin.place, sample.origin.split, sample.origin.seed) == (item.place, "train", 1)
            assert re.fullmatch(r"questions/[a-z_]+@1", sample.origin.recipe)
            if sample.answer in (ABSTENTION, OFF_TOPIC):
                assert sample.plan.task == "abstain"
                assert sample.type in ("unanswerable", "off_topic")


def test_one_image_gets_no_question_twice_and_no_more_than_asked_for(asked):
    for _, samples in asked:
        assert len({sample.text for sample in samples}) == len(samples) <= 25
    assert sum(len(samples) == 25 for _, samples in asked) > 50


def test_the_same_seed_asks_the_same_and_another_seed_otherwise(asked):
    item, samples = asked[1]
    assert list(make(item, source="test", seed=1, count=25)) == samples
    other = {sample.text for sample in make(item, source="test", seed=2, count=25)}
    assert len(other & {sample.text for sample in samples}) < 8


def test_yes_and_no_are_balanced_by_kind_of_question(asked):
    answers = defaultdict(Counter)
    more = [
        sample for item, _ in asked for seed in (2, 3, 4) for sample in make(item, source="test", seed=seed, count=25)
    ]
    for sample in [*more, *(sample for _, samples in asked for sample in samples)]:
        if sample.answer in ("yes", "no"):
            answers[sample.origin.recipe][sample.answer] += 1
            answers["all"][sample.answer] += 1
    for recipe in ("questions/presence@1", "questions/presence_two@1", "questions/comparison@1", "all"):
        assert 0.43 <= answers[recipe]["yes"] / answers[recipe].total() <= 0.57, recipe
    assert 0.45 <= answers["all"]["yes"] / answers["all"].total() <= 0.55


def test_letters_of_choices_are_balanced(asked):
    letters = Counter(sample.answer for _, samples in asked for sample in samples if sample.type == "choice")
    assert max(letters.values()) < 0.45 * letters.total()


def test_nothing_kept_for_measuring_is_asked(asked):
    assert not {normalised(sample.text) for _, samples in asked for sample in samples} & {*KEPT}


def test_own_forms_have_patterns_enough():
    forms = table()["forms"]
    two = forms["rural_urban"]["patterns"] + forms["rural_urban_area"]["patterns"]
    assert min(len(form["patterns"]) for name, form in forms.items() if not name.startswith("rural")) >= 20
    assert min(len(two), sum(len(lines) for lines in table()["described"].values())) >= 20
    assert set(MAKERS) == set(WEIGHTS) | {"unanswerable", "off_topic"}
    assert set(PROVEN) < set(MAKERS)


@pytest.mark.parametrize("name", sorted(own_forms()))
def test_every_pattern_of_its_own_is_used(name):
    form = own_forms()[name]
    about = About(
        None if form.nouns == "none" else Noun("rural" if form.other else "ship"),
        (Noun("urban area" if name.endswith("area") else "urban")) if form.other else None,
    )
    slots = {"options": "A) ships, B) water"}
    used = {ask(form, about, chance_of(name, number), slots=slots).pattern for number in range(400)}
    assert used == set(form.patterns)


def test_between_a_fiftieth_and_nothing_is_neither_there_nor_absent(tmp_path):
    codes = np.full((1, 20, 20), 10, np.uint8)
    codes[0, 0, :3] = 80  # 0.75 percent
    codes[0, 10, :8] = 40  # exactly 2 percent
    item = Annotated(
        image=write(tmp_path / "a.tif", np.ones((4, 20, 20), np.uint8), None),
        sensor="naip",
        place="a",
        split="val",
        class_map=ClassMap(write(tmp_path / "codes.tif", codes), WORLDCOVER, ignore=(0,)),
    )
    known = evidence_of(item, "test")
    assert known.present == ("cropland", "tree cover")
    assert "permanent water" not in known.absent
    assert "herbaceous wetland" not in known.absent  # people may call the pond a wetland
    assert "mangroves" not in known.absent  # a forest is there
    assert "snow and ice" in known.absent
    asked_about = {sample.plan.target for sample in make(item, source="test", seed=0, count=60)}
    assert not asked_about & {singular(name) for name in names_for("permanent water")}


def test_a_map_that_leaves_much_unnamed_answers_nothing(tmp_path):
    codes = np.zeros((1, 20, 20), np.uint8)
    codes[0, :10] = 10
    path = write(tmp_path / "codes.tif", codes)
    item = Annotated(path, "naip", "a", "val", class_map=ClassMap(path, WORLDCOVER, ignore=(0,)))
    assert list(make(item, source="test", seed=0)) == []


def test_objects_that_may_be_incomplete_are_not_counted(tmp_path):
    image = write(tmp_path / "a.tif", np.ones((4, 20, 20), np.uint8))
    item = Annotated(image, "naip", "a", "val", targets=(Target("ship", boxes=((1, 1, 3, 3),)),))
    assert evidence_of(item, "test").boxes == {}
    complete = Annotated(image, "naip", "a", "val", labels=("ship",), targets=item.targets)
    assert evidence_of(complete, "test").boxes == {"ship": ((1, 1, 3, 3),)}
    referring = Annotated(image, "naip", "a", "val", targets=(Target("the ship", "referring", ((1, 1, 3, 3),)),))
    assert evidence_of(referring, "test").present == ()


def test_labels_that_name_all_there_is_prove_what_is_absent(tmp_path):
    path = tmp_path / "a.png"
    item = Annotated(path, "rgb", "a", "train", labels=("Coniferous forest", "Inland waters"))
    known = evidence_of(item, "bigearthnet-v2")
    assert known.present == ("Coniferous forest", "Inland waters")
    assert "Urban fabric" in known.absent
    assert "Mixed forest" not in known.absent  # told apart by experts only
    assert evidence_of(item, "rsicd").absent == ()


def test_related_classes_share_a_name_or_a_line():
    assert related("tree cover", "forest")
    assert related("Mixed forest", "Coniferous forest")
    assert related("small vehicle", "large vehicle")
    assert not related("tree cover", "permanent water")


def test_an_image_nothing_is_known_of_gets_no_question(tmp_path):
    assert list(make(Annotated(tmp_path / "a.png", "rgb", "a", "train"), source="test", seed=0)) == []


def test_a_captioned_image_is_described_in_its_own_words(tmp_path):
    item = Annotated(tmp_path / "a.png", "rgb", "a", "train", captions=("two  ships at sea .",))
    samples = list(make(item, source="test", seed=0, count=6))
    assert {sample.answer for sample in samples if sample.type == "describe"} == {"two ships at sea."}


def test_a_class_raster_that_is_missing_is_named(tmp_path):
    image = write(tmp_path / "a.tif", np.ones((4, 20, 20), np.uint8))
    item = Annotated(image, "naip", "a", "val", class_map=ClassMap(tmp_path / "none.tif", WORLDCOVER))
    with pytest.raises((ImageryError, DatasetError), match=r"none\.tif"):
        list(make(item, source="test", seed=0))


@pytest.fixture(scope="module")
def real(data_dir):
    sources = {"hls_worldcover": hls_worldcover, "nwpu_vhr10": nwpu_vhr10, "rsicd": rsicd, "ombria": ombria}
    folders = {"rsicd": "rsicd_aid"}
    made = []
    for source, module in sources.items():
        items = list(module.read(data_dir / folders.get(source, source)))
        for item in items[:: max(1, len(items) // 80)]:
            made += make(item, source=source, seed=0, count=8)
    return made


def test_on_real_imagery_yes_and_no_are_balanced_and_nothing_leaks(real):
    answers = Counter(sample.answer for sample in real if sample.answer in ("yes", "no"))
    assert answers.total() > 600
    assert 0.45 <= answers["yes"] / answers.total() <= 0.55
    assert not {normalised(sample.text) for sample in real} & {*KEPT}
    assert {"presence", "count", "comparison", "area", "relation", "choice", "describe"} <= {s.type for s in real}
    assert sum(sample.answer in (ABSTENTION, OFF_TOPIC) for sample in real) < 0.15 * len(real)


def test_a_satellite_image_is_never_called_an_aerial_photo(asked):
    for item, samples in asked:
        wrong = "satellite" if item.sensor == "naip" else "photo"
        made = [s.text for s in samples if s.type not in ("sensor", "off_topic", "unanswerable")]
        assert not [text for text in made if wrong in text.lower()]


def test_no_area_is_an_rural_one():
    lines = table()["forms"]["rural_urban_area"]["patterns"]
    assert not [line for line in lines if "an {" in line or "a {" in line]
