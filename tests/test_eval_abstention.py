"""Risk and coverage against values worked by hand and a slow twin that averages over the orders of ties."""

import itertools
import math

import numpy as np
import pytest

from eval.metrics.abstention import aurc, aurc_intervals, excess_aurc, fit_threshold, optimal_aurc, risk_coverage
from rsvlm.errors import EvaluationError


def test_the_curve_by_hand():
    # surest first: right, wrong, right, right -> wrong so far 0, 1, 1, 1 of 1, 2, 3, 4
    curve = risk_coverage([0.9, 0.2, 0.8, 0.5], [True, True, False, True])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.risk.tolist() == [0, 1 / 2, 1 / 3, 1 / 4]


def test_equal_confidences_enter_together():
    # 0.9: one right; 0.5: a wrong and a right one, in either order -> 0 of 1, then 1 of 3
    for correct in ([True, False, True], [True, True, False]):
        curve = risk_coverage([0.9, 0.5, 0.5], correct)
        assert curve.coverage.tolist() == [1 / 3, 1]
        assert curve.risk.tolist() == [0, 1 / 3]


def test_aurc_by_hand():
    # risks 0, 1/2, 1/3, 1/4: mean 13/48; the best order leaves the wrong one to the end: 0, 0, 0, 1/4: mean 1/16
    confidence, correct = [0.9, 0.2, 0.8, 0.5], [True, True, False, True]
    assert aurc(confidence, correct) == pytest.approx(13 / 48)
    assert optimal_aurc(correct) == pytest.approx(1 / 16)
    assert excess_aurc(confidence, correct) == pytest.approx(10 / 48)


def test_aurc_of_ties_by_hand():
    # 0.9 right, then a tie of one wrong and one right: expected wrong at k = 2 is 1/2, so 0, (1/2)/2, 1/3: mean 7/36
    assert aurc([0.9, 0.5, 0.5], [True, False, True]) == pytest.approx(7 / 36)


def test_one_confidence_for_all_gives_the_error_rate():
    assert aurc(np.full(10, 0.3), [True] * 7 + [False] * 3) == pytest.approx(0.3)


@pytest.mark.parametrize(("correct", "risk"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("count", [1, 5])
def test_all_right_and_all_wrong_leave_nothing_to_order(count, correct, risk):
    confidence, marks = np.arange(count), [correct] * count
    assert aurc(confidence, marks) == optimal_aurc(marks) == risk
    assert excess_aurc(confidence, marks) == 0
    assert risk_coverage(confidence, marks).risk.tolist() == [risk] * count


def slow_aurc(confidence, correct):
    """The mean over every order that sorts by confidence."""
    orders = [
        order
        for order in itertools.permutations(range(len(correct)))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
    ]
    risks = [sum(not correct[item] for item in order[:k]) / k for order in orders for k in range(1, len(correct) + 1)]
    return sum(risks) / len(risks)


@pytest.mark.parametrize("seed", range(25))
def test_aurc_is_the_mean_over_every_order_of_ties(seed):
    chance = np.random.default_rng(seed)
    count = chance.integers(1, 7)
    confidence, correct = chance.integers(0, 3, count) / 2, chance.random(count) < 0.6
    assert aurc(confidence, correct) == pytest.approx(slow_aurc(confidence, correct))
    best = min(slow_aurc(order, correct) for order in itertools.permutations(range(count)))
    assert optimal_aurc(correct) == pytest.approx(best)


def test_the_order_of_the_lines_changes_nothing():
    chance = np.random.default_rng(0)
    confidence, correct = chance.integers(0, 5, 200) / 4, chance.random(200) < 0.5
    shuffled = chance.permutation(200)
    assert aurc(confidence[shuffled], correct[shuffled]) == pytest.approx(aurc(confidence, correct), abs=1e-12)
    assert fit_threshold(confidence[shuffled], correct[shuffled], max_risk=0.5) == fit_threshold(
        confidence, correct, max_risk=0.5
    )


def test_thresholds_by_hand():
    # from 0.9 on risk 0, from 0.8 on 1/2, from 0.5 on 1/3, from 0.2 on 1/4
    confidence, correct = [0.9, 0.2, 0.8, 0.5], [True, True, False, True]
    assert fit_threshold(confidence, correct, max_risk=0) == 0.9
    assert fit_threshold(confidence, correct, max_risk=0.24) == 0.9
    assert fit_threshold(confidence, correct, max_risk=0.25) == 0.2
    assert fit_threshold(confidence, [False] * 4, max_risk=0.5) == math.inf


@pytest.mark.parametrize("seed", range(10))
def test_a_threshold_keeps_its_risk_and_no_smaller_one_does(seed):
    chance = np.random.default_rng(seed)
    confidence, correct = chance.integers(0, 8, 30) / 8, chance.random(30) < 0.7
    holding = [t for t in confidence if (~correct[confidence >= t]).mean() <= 0.2]
    assert fit_threshold(confidence, correct, max_risk=0.2) == min(holding, default=math.inf)


def test_intervals_hold_the_value_narrow_with_more_and_repeat_with_the_seed():
    chance = np.random.default_rng(0)
    widths = []
    for count in (40, 1000):
        confidence = chance.random(count)
        correct = chance.random(count) < confidence
        found = aurc_intervals(confidence, correct, rounds=200)
        assert found == aurc_intervals(confidence, correct, rounds=200)
        assert found["AURC"].value == pytest.approx(100 * aurc(confidence, correct))
        assert found["AURC_excess"].value == pytest.approx(100 * excess_aurc(confidence, correct))
        assert found["AURC"].low < found["AURC"].value < found["AURC"].high
        widths.append(found["AURC"].high - found["AURC"].low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_one_question_is_its_value():
    found = aurc_intervals([0.5], [False], rounds=10)
    assert (found["AURC"].value, found["AURC"].low, found["AURC"].high) == (100, 100, 100)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [risk_coverage, aurc, excess_aurc, aurc_intervals])
def test_a_confidence_that_is_no_finite_number_is_named(function, broken):
    with pytest.raises(EvaluationError, match="confidence of question 1"):
        function([0.5, broken], [True, False])


@pytest.mark.parametrize(("confidence", "correct"), [([], []), ([0.5], [True, False]), ([[0.5]], [[True]])])
def test_arrays_that_do_not_fit_are_refused(confidence, correct):
    with pytest.raises(EvaluationError, match="do not fit"):
        risk_coverage(confidence, correct)


@pytest.mark.parametrize("max_risk", [-0.1, 5, math.nan])
def test_a_risk_that_is_no_share_is_refused(max_risk):
    with pytest.raises(EvaluationError, match="share from 0 to 1"):
        fit_threshold([0.5], [True], max_risk=max_risk)
