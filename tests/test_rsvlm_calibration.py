"""Thresholds kept beside the weights, and "nothing like that here" as an answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from fakes import MappedTiny
from test_rsvlm_measure import Scripted, by_name, lake_scene

from rsvlm.encoder.calibration import STATISTICS, Calibration, Threshold, calibration_of
from rsvlm.errors import FingerprintError, WeightsError
from rsvlm.findings import (
    GROUND,
    LEARNED_CONFIDENCE,
    WHOLE,
    find,
    kind_of,
    leads,
    likeness,
    peak,
    share_meaning,
    vocabulary,
)
from rsvlm.language.plan import Plan
from rsvlm.measure import measure
from rsvlm.scene import Grid, Scene
from rsvlm.sensors import SENSORS


def threshold(kind="object", value=0.1, trust=0.9):
    return Threshold(kind, value, STATISTICS[kind], 40, 0.8, 0.6, trust, "val.jsonl")


def photograph(shape=(60, 80)):
    """Grey, without a place, from no sensor in particular."""
    sensor = SENSORS["rgb"]
    grid = Grid(*shape, Affine.identity(), None)
    pixels = np.full((3, *shape), 0.5, np.float32)
    return Scene(pixels, np.ones(shape, bool), sensor.bands, sensor, grid, source="photograph.png")


class Calibrated(Scripted):
    """The scripted encoder with thresholds, and one cosine of the whole picture with every text."""

    def __init__(self, maps, *thresholds, whole=0.0):
        super().__init__(maps)
        self.calibration = Calibration(thresholds, self.fingerprint)
        self.whole = whole

    def encode_scenes(self, scenes):
        return np.full((len(scenes), 2), self.whole, np.float32)


def seen(lead):
    """A map (6, 8) on which a phrase leads by this much in two rows of cells."""
    layer = np.full((6, 8), -0.3, np.float32)
    layer[:2] = lead
    return layer


def test_a_calibration_comes_back_as_it_was_saved(tmp_path):
    calibration = Calibration((threshold("scene", 0.21), threshold("object", -0.03)), "abc")
    path = calibration.save(tmp_path)
    assert path == tmp_path / "calibration.json"
    assert Calibration.load(tmp_path, encoder="abc") == calibration
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_a_folder_without_the_file_gives_an_empty_calibration(tmp_path):
    assert Calibration.load(tmp_path, encoder="abc") == Calibration()
    assert Calibration().of("scene") is None


def test_thresholds_of_other_weights_are_refused(tmp_path):
    Calibration((threshold(),), "abc").save(tmp_path)
    with pytest.raises(FingerprintError, match="other weights"):
        Calibration.load(tmp_path, encoder="xyz")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"encoder": "", "thresholds": [{}]}', '{"thresholds": 3}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(WeightsError, match=r"calibration\.json is damaged"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("kind", "mood"), ("value", float("nan")), ("value", "0.2")])
def test_a_threshold_that_is_none_is_refused_on_load(tmp_path, key, value):
    path = Calibration((threshold(),)).save(tmp_path)
    stored = json.loads(path.read_text())
    stored["thresholds"][0][key] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(WeightsError):
        Calibration.load(tmp_path)


def test_two_thresholds_of_one_kind_are_refused():
    with pytest.raises(WeightsError, match="one threshold a kind"):
        Calibration((threshold(), threshold()))


def test_an_encoder_without_calibration_denies_nothing():
    assert calibration_of(Scripted()) == Calibration()


@pytest.mark.parametrize(
    ("phrase", "fine", "coarse"),
    [
        ("an airport", "scene", ""),
        ("Storage tanks", "scene", ""),
        ("school", "scene", ""),
        ("airplane", "object", ""),
        ("red tiled roof", "object", ""),
        ("forest", "scene", "ground"),
        ("grassland", "object", "ground"),
        ("shrubland", "object", "ground"),
        ("moss and lichen", "object", "ground"),
        ("built-up", "object", "ground"),
    ],
)
def test_a_phrase_is_judged_by_its_kind(phrase, fine, coarse):
    assert vocabulary(lake_scene()) is GROUND
    assert kind_of(phrase, photograph()) == fine
    assert kind_of(phrase, lake_scene()) == coarse


def test_words_for_scenes_are_looked_for_in_the_parts_of_a_picture_larger_than_one_scene():
    assert kind_of("airport", photograph((10, WHOLE))) == "scene"
    assert kind_of("airport", photograph((10, WHOLE + 1))) == "object"


def test_the_peak_is_what_a_five_hundredth_of_the_valid_pixels_reach():
    lead = np.arange(1001, dtype=np.float32).reshape(7, 143)
    assert peak(lead, np.ones((7, 143), bool)) == pytest.approx(998)  # 0.998 of the way from 0 to 1000
    assert peak(lead, lead <= 500) == pytest.approx(499)


def test_the_peak_does_not_depend_on_the_size_of_the_picture():
    lead = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    large = lead.repeat(3, axis=0).repeat(3, axis=1)
    assert peak(large, np.ones(large.shape, bool)) == pytest.approx(peak(lead, np.ones(lead.shape, bool)), abs=0.02)


def test_leads_of_several_phrases_are_those_of_each_alone():
    scene, phrases, encoder = photograph(), ["airplane", "grassland", "airplane on a road"], MappedTiny()
    together = leads(phrases, scene, encoder)
    for phrase, lead in zip(phrases, together, strict=True):
        np.testing.assert_allclose(lead, leads([phrase], scene, encoder)[0], atol=1e-6)


def test_a_phrase_below_its_threshold_is_not_there_and_that_is_stated():
    maps, plan = {"airplane": seen(0.08)}, Plan("presence", "airplane")
    before = by_name(measure(plan, photograph(), Calibrated(maps)))["airplane"]
    fact = by_name(measure(plan, photograph(), Calibrated(maps, threshold(value=0.1))))["airplane"]
    assert before.value is True
    assert fact.value is False
    assert fact.confidence == pytest.approx(0.8 * LEARNED_CONFIDENCE)  # 2 * 0.9 - 1 of the ceiling
    assert "0.100" in fact.how


def test_what_is_denied_has_no_regions_no_count_and_no_share():
    encoder = Calibrated({"airplane": seen(0.08)}, threshold(value=0.1))
    counted = measure(Plan("count", "airplane"), photograph(), encoder)
    assert counted.regions == ()
    assert counted.facts[0].value == 0
    assert find("airplane", photograph(), encoder).share == 0


def test_a_phrase_above_its_threshold_is_found_as_without_one():
    plain = find("airplane", photograph(), Calibrated({"airplane": seen(0.2)}))
    calibrated = find("airplane", photograph(), Calibrated({"airplane": seen(0.2)}, threshold(value=0.1)))
    assert plain.present
    assert calibrated.how == plain.how
    assert calibrated.confidence == plain.confidence
    assert np.array_equal(calibrated.mask.pixels, plain.mask.pixels)


def test_denials_that_were_right_by_chance_only_are_too_unsure_to_state():
    encoder = Calibrated({"airplane": seen(0.08)}, threshold(value=0.1, trust=0.5))
    assert find("airplane", photograph(), encoder).confidence == 0


def test_what_coarse_pixels_cannot_show_stays_unknown():
    plain = find("airplane", lake_scene(), Calibrated({}))
    both = Calibrated({}, threshold("object", 0.9), threshold("ground", 0.9))
    assert find("airplane", lake_scene(), both).confidence == plain.confidence
    assert find("mangroves", lake_scene(), both).confidence > plain.confidence


@pytest.mark.parametrize(("whole", "present"), [(0.1, False), (0.4, True)])
def test_a_word_for_a_scene_goes_by_the_whole_picture(whole, present):
    encoder = Calibrated({"airport": seen(0.2)}, threshold("scene", 0.2), threshold("object", 0.9), whole=whole)
    assert likeness("airport", photograph(), encoder) == pytest.approx(whole)
    assert find("airport", photograph(), encoder).present is present


def test_a_spectral_rule_needs_no_threshold():
    encoder = Calibrated({}, threshold("ground", 0.9))
    assert find("water", lake_scene(), encoder).share == 0.125


def test_pixels_that_are_not_valid_have_no_say():
    scene = photograph()
    valid = scene.valid.copy()
    valid[:30] = False
    encoder = Calibrated({"airplane": seen(0.5)}, threshold(value=0.1))
    assert find("airplane", scene, encoder).present
    assert not find("airplane", replace(scene, valid=valid), encoder).present


def test_texts_that_mean_the_same_share_a_meaning():
    assert share_meaning("dense residential", "houses")
    assert not share_meaning("an airport", "a river")
