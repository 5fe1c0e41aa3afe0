"""Answer metrics against values worked by hand and a slow twin."""

import math

import numpy as np
import pytest

from eval.metrics.answers import (
    MATCHERS,
    OWN_KEYS,
    PROTOCOLS,
    answer_statistics,
    constant_answer,
    majority_answers,
    normalise,
    number,
    random_answers,
)
from eval.statistics import intervals
from rsvlm.errors import EvaluationError


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("Yes.", "yes"),
        (" YES! ", "yes"),
        ("The airport", "airport"),
        ("a storage-tank, an island", "storage tank island"),
        ("There's one", "theres 1"),
        ("three", "3"),
        ("Twenty-one ships", "21 ships"),
        ("twenty thirty", "20 30"),
        ("ninety nine", "99"),
        ("twenty ten", "20 10"),
        ("1,200", "1200"),
        ("1,234,567 m", "1234567 m"),
        ("1, 2 and 3", "1 2 and 3"),
        ("12 ha", "12 ha"),
        ("12ha.", "12 ha"),
        ("85m\u00b2", "85 m2"),
        ("5 %", "5%"),
        ("5 percent", "5%"),
        ("5 per cent.", "5%"),
        ("3.5", "3.5"),
        ("-4", "-4"),
        ("1-10", "1 10"),
        ("2nd", "2nd"),
        ("A", "a"),
        ("(B)", "b"),
        ("...", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised(answer, plain):
    assert normalise(answer) == plain
    assert normalise(plain) == plain


def test_a_number_is_one_only_when_nothing_else_is_said():
    assert [number(text) for text in ("1,200", "Three.", "-2", "0.5")] == [1200, 3, -2, 0.5]
    assert all(math.isnan(number(text)) for text in ("", "yes", "5 ships", "nan", "inf", "1" * 400))


@pytest.mark.parametrize(
    ("matcher", "prediction", "answer", "right"),
    [
        ("exact", "Yes.", "yes", True),
        ("exact", "yes, it is", "yes", False),
        ("gt-substring", "Yes, it is", "yes", True),
        ("gt-substring", "not", "no", True),  # the known looseness of this protocol
        ("gt-substring", "yes", "yes it is", False),
        ("token-recall", "the area is rural", "rural area", True),
        ("token-recall", "not", "no", False),
        ("token-recall", "rural", "rural area", False),
        ("rsvqa-lr-counts", "0", "0", True),
        ("rsvqa-lr-counts", "1", "0", False),
        ("rsvqa-lr-counts", "1", "10", True),
        ("rsvqa-lr-counts", "11", "10", False),
        ("rsvqa-lr-counts", "eleven", "100", True),
        ("rsvqa-lr-counts", "101", "100", False),
        ("rsvqa-lr-counts", "101", "1,000", True),
        ("rsvqa-lr-counts", "1001", "1000", False),
        ("rsvqa-lr-counts", "1001", "99999", True),
        ("rsvqa-lr-counts", "57", "between 11 and 100", True),
        ("rsvqa-lr-counts", "10", "between 10 and 100", False),
        ("rsvqa-lr-counts", "more than 1000", "5000", True),
        ("rsvqa-lr-counts", "1000", "more than 1000", False),
        ("rsvqa-lr-counts", "Yes", "yes", True),
        ("rsvqa-lr-counts", "yes", "no", False),
        ("rsvqa-lr-counts", "yes", "5", False),
        ("rsvqa-lr-counts", "-5", "0", False),
        ("rsvqa-lr-counts", "50 m2", "50", False),
        ("rsvqa-hr-areas", "12 m2", "85m2", True),
        ("rsvqa-hr-areas", "12", "85m\u00b2", True),
        ("rsvqa-hr-areas", "0.05 ha", "between 100m2 and 1000m2", True),  # 500 m2
        ("rsvqa-hr-areas", "1 km2", "more than 1000m2", True),
        ("rsvqa-hr-areas", "0.5 m2", "0m2", False),
        ("rsvqa-hr-areas", "12", "85", False),  # a count, not an area
        ("rsvqa-hr-areas", "rural", "Rural", True),
    ],
)
def test_matchers_by_hand(matcher, prediction, answer, right):
    assert MATCHERS[matcher](prediction, answer) is right


def test_every_matcher_has_its_sentence():
    assert list(MATCHERS) == list(PROTOCOLS)


def test_metrics_by_hand():
    # presence 2 of 3, count 1 of 2, rural_urban 0 of 1: OA = 3/6, AA = (2/3 + 1/2 + 0)/3 = 38.889
    # without counting 2/4 and (2/3 + 0)/2 = 33.333
    # counts: |5 - 5| and |12 - 90|: MAE 39; 5 as 5 and 12 as 90 (both 11-100): classes 2/2; answered 5 of 6
    told = ["yes", "No.", "yes", "five", "12", ""]
    truth = ["yes", "no", "no", "5", "90", "rural"]
    types = ["presence"] * 3 + ["count"] * 2 + ["rural_urban"]
    found = answer_statistics(told, truth, types).metrics()
    assert found == pytest.approx(
        {
            "OA": 50,
            "AA": 100 * (2 / 3 + 1 / 2) / 3,
            "OA_without_counting": 50,
            "AA_without_counting": 100 / 3,
            "count": 50,
            "presence": 200 / 3,
            "rural_urban": 0,
            "count_MAE": 39,
            "count_answered": 100,
            "count_classes": 100,
            "answered": 500 / 6,
        }
    )
    assert set(OWN_KEYS) == set(found) - set(types)


def test_counts_without_a_number_are_left_out_of_the_error_and_counted():
    # of 4 counting questions 2 have numbers on both sides: |1 - 3| and |4 - 4|, mean 1; classes: 1~3, 4~4, right range
    told, truth = ["1", "4", "many", "between 11 and 100"], ["3", "4", "7", "50"]
    found = answer_statistics(told, truth, ["how many"] * 4, counting=["how many"]).metrics()
    assert (found["count_MAE"], found["count_answered"], found["count_classes"]) == (1, 50, 75)
    assert math.isnan(found["OA_without_counting"])
    assert math.isnan(found["AA_without_counting"])


def test_without_counting_questions_their_metrics_are_not_defined():
    found = answer_statistics(["yes"], ["yes"], ["presence"]).metrics()
    assert found["OA"] == found["AA"] == found["OA_without_counting"] == found["presence"] == found["answered"] == 100
    assert all(math.isnan(found[name]) for name in ("count_MAE", "count_answered", "count_classes"))


@pytest.mark.parametrize("matcher", sorted(MATCHERS))
def test_an_abstention_is_wrong_by_every_matcher(matcher):
    found = answer_statistics(["", "  "], ["yes", "3"], ["presence", "count"], matcher=matcher).metrics()
    assert found["OA"] == found["count_classes"] == found["count_answered"] == found["answered"] == 0
    assert math.isnan(found["count_MAE"])


def test_a_model_that_runs_on_in_digits_is_wrong_and_breaks_nothing():
    found = answer_statistics(["9" * 500], ["9"], ["count"]).metrics()
    assert (found["OA"], found["count_answered"]) == (0, 0)


def slow_metrics(told, truth, types, counting):
    right = [normalise(p) == normalise(a) and p != "" for p, a in zip(told, truth, strict=True)]
    by_type = {}
    for kind in set(types):
        hits = [hit for hit, each in zip(right, types, strict=True) if each == kind]
        by_type[kind] = 100 * sum(hits) / len(hits)
    others = [hit for hit, kind in zip(right, types, strict=True) if kind not in counting]
    other_types = [value for kind, value in by_type.items() if kind not in counting]
    errors = []
    for p, a, kind in zip(told, truth, types, strict=True):
        if kind in counting and p.isdigit():
            errors.append(abs(int(p) - int(a)))
    return by_type | {
        "OA": 100 * sum(right) / len(right),
        "AA": sum(by_type.values()) / len(by_type),
        "OA_without_counting": 100 * sum(others) / len(others) if others else math.nan,
        "AA_without_counting": sum(other_types) / len(other_types) if other_types else math.nan,
        "count_MAE": sum(errors) / len(errors) if errors else math.nan,
        "answered": 100 * sum(p != "" for p in told) / len(told),
    }


@pytest.mark.parametrize("seed", range(20))
def test_metrics_agree_with_counting_one_by_one(seed):
    chance = np.random.default_rng(seed)
    types = chance.choice(["presence", "count", "comparison"], size=chance.integers(1, 40)).tolist()
    truth = [str(chance.integers(3)) if kind == "count" else chance.choice(["yes", "no"]).item() for kind in types]
    told = [chance.choice(["yes", "no", "0", "1", "2", ""]).item() for _ in types]
    statistics = answer_statistics(told, truth, types)
    slow = slow_metrics(told, truth, types, ("count",))
    found = statistics.metrics()
    assert {name: found[name] for name in slow} == pytest.approx(slow, nan_ok=True)
    drawn = chance.integers(len(types), size=len(types))
    again = slow_metrics([told[i] for i in drawn], [truth[i] for i in drawn], [types[i] for i in drawn], ("count",))
    resampled = statistics.values(statistics.rows[drawn].sum(axis=0)[None])
    assert {name: resampled[name][0] for name in again} == pytest.approx(again, nan_ok=True)


def test_intervals_hold_the_value_also_of_a_rare_type():
    told, truth = ["yes"] * 30 + ["5"], ["yes", "no"] * 15 + ["5"]
    found = intervals(answer_statistics(told, truth, ["presence"] * 30 + ["count"]), rounds=200)
    assert found["OA"].low < found["OA"].value < found["OA"].high
    assert found["count"].low == found["count"].high == 100


def test_an_unknown_matcher_is_refused_with_those_there_are():
    with pytest.raises(EvaluationError, match=r"no matcher 'fuzzy'.*exact, gt-substring"):
        answer_statistics(["a"], ["a"], ["presence"], matcher="fuzzy")


@pytest.mark.parametrize("answer", ["", " ", "?!"])
def test_a_question_without_an_answer_is_named(answer):
    with pytest.raises(EvaluationError, match="answer of question 1"):
        answer_statistics(["yes", "yes"], ["yes", answer], ["presence"] * 2)


@pytest.mark.parametrize("lists", [([], [], []), (["a"], ["a"], []), (["a", "b"], ["a"], ["x"])])
def test_lists_that_do_not_fit_are_refused(lists):
    with pytest.raises(EvaluationError, match="give one of each"):
        answer_statistics(*lists)


def test_a_type_named_as_a_metric_is_refused():
    with pytest.raises(EvaluationError, match="cannot be named 'OA'"):
        answer_statistics(["yes"], ["yes"], ["OA"])


def test_majority_and_constant_answers_take_the_first_by_alphabet_on_a_tie():
    answers = ["yes", "no", "3", "3", "2", "yes", "no"]
    types = ["presence", "presence", "count", "count", "count", "presence", "presence"]
    assert majority_answers(answers, types) == ["no", "no", "3", "3", "3", "no", "no"]
    assert constant_answer(answers) == "3"
    with pytest.raises(EvaluationError):
        constant_answer([])


def test_random_answers_come_from_the_type_and_repeat_with_the_seed():
    answers, types = ["yes", "no", "1", "2"] * 20, ["presence", "presence", "count", "count"] * 20
    first = random_answers(answers, types, 0)
    assert first == random_answers(answers, types, 0)
    assert first != random_answers(answers, types, 1)
    assert {(kind, answer.isdigit()) for kind, answer in zip(types, first, strict=True)} == {
        ("presence", False),
        ("count", True),
    }
    assert set(first) == set(answers)
