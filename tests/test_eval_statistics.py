"""Intervals and paired differences against a slow obvious twin and at their edges."""

import numpy as np
import pytest

from eval.statistics import Interval, Statistics, by_group, intervals, paired, ratio
from rsvlm.errors import EvaluationError


def share(counts):
    """Percent right from rows of (right, asked)."""
    return Statistics("images", np.array(counts, np.float64), lambda sums: {"OA": ratio(sums[:, 0], sums[:, 1])})


def drawn(chance, count, right=0.6):
    return share(np.column_stack([chance.random(count) < right, np.ones(count)]))


def test_metrics_are_of_the_summed_rows():
    assert share([[1, 1], [0, 1], [3, 4]]).metrics() == {"OA": pytest.approx(100 * 4 / 6)}


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_holds_its_value_and_narrows_with_more_rows(seed):
    chance = np.random.default_rng(seed)
    widths = []
    for count in (50, 800):
        found = intervals(drawn(chance, count), seed=seed)["OA"]
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_rows_of_one_group_are_added_up_in_the_order_of_the_groups():
    found = by_group(share([[1, 1], [0, 1], [3, 4], [1, 2]]), ["b", "a", "b", ("a",)], "images")
    assert found.rows.tolist() == [[4, 5], [0, 1], [1, 2]]
    assert found.unit == "images"


def test_copies_of_a_row_in_its_group_leave_value_and_interval_as_they_were():
    once = drawn(np.random.default_rng(1), 40)
    copied = Statistics("questions", np.repeat(once.rows, 25, axis=0), once.values)
    assert intervals(by_group(copied, np.repeat(np.arange(40), 25).tolist(), "images")) == intervals(once)
    assert intervals(copied)["OA"].low > intervals(once)["OA"].low  # as if 40 images were 1000


def test_an_interval_is_as_wide_as_the_normal_approximation_says():
    statistics = drawn(np.random.default_rng(0), 1000)
    found, value = intervals(statistics, seed=0)["OA"], statistics.metrics()["OA"] / 100
    expected = 2 * 1.96 * 100 * np.sqrt(value * (1 - value) / 1000)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_intervals_are_the_same_by_seed_and_others_by_another():
    statistics = drawn(np.random.default_rng(0), 60)
    assert intervals(statistics, seed=1) == intervals(statistics, seed=1)
    assert intervals(statistics, seed=1) != intervals(statistics, seed=2)


@pytest.mark.parametrize(("count", "rounds"), [(1, 10), (2, 64), (7, 65), (30, 130)])
def test_intervals_equal_those_of_resampled_rows(count, rounds):
    """Twin: every resampling as a list of rows, repeated as often as the same generator draws them."""
    chance = np.random.default_rng(count)
    rows = np.column_stack([chance.integers(0, 4, count), chance.integers(0, 3, count)]).astype(float)
    generator = np.random.default_rng(5)
    values = []
    for _ in range(rounds):
        weights = generator.multinomial(count, np.full(count, 1 / count))
        taken = [row for row, times in zip(rows, weights, strict=True) for _ in range(times)]
        right, asked = (sum(column) for column in zip(*taken, strict=True))
        if asked:
            values.append(100 * right / asked)
    found = intervals(share(rows), seed=5, rounds=rounds)["OA"]
    if rows[:, 1].sum() == 0:
        assert np.isnan([found.value, found.low, found.high]).all()
    else:
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_every_row_is_drawn_equally_often():
    rows = np.eye(4)
    total = Statistics("images", rows, lambda sums: {str(i): sums[:, i] for i in range(4)})
    for found in intervals(total, rounds=1000).values():
        assert found.value == 1
        assert (found.low, found.high) == (0, 3)  # a binomial count of 4 draws at 1/4


def test_what_is_not_defined_is_null_in_all_three():
    found = intervals(share([[0, 0], [0, 0]]))["OA"]
    assert found.to_json() == {"value": None, "low": None, "high": None}
    assert Interval(1.128, -0.5, 2.0).to_json() == {"value": 1.13, "low": -0.5, "high": 2.0}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_row_that_is_not_a_number_is_refused(broken):
    with pytest.raises(EvaluationError, match="not a number"):
        share([[1, 1], [broken, 1]])


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), np.zeros(3)])
def test_nothing_to_score_is_refused(rows):
    with pytest.raises(EvaluationError, match="nothing to score"):
        Statistics("images", rows, lambda sums: {})


def test_a_run_does_not_differ_from_itself():
    statistics = drawn(np.random.default_rng(0), 40)
    assert paired(statistics, statistics) == {"OA": Interval(0.0, 0.0, 0.0)}


def test_a_known_shift_is_found_where_single_intervals_overlap():
    chance = np.random.default_rng(0)
    before = chance.random(400) < 0.5
    after = before | (chance.random(400) < 0.06)
    one, other = (share(np.column_stack([right, np.ones(400)])) for right in (before, after))
    assert intervals(one)["OA"].high > intervals(other)["OA"].low
    found = paired(one, other)["OA"]
    assert found.value == pytest.approx(100 * (after.sum() - before.sum()) / 400)
    assert 0 < found.low < found.value < found.high
    back = paired(other, one)["OA"]
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_noise_alone_is_no_difference():
    chance = np.random.default_rng(1)
    found = paired(drawn(chance, 300), drawn(chance, 300))["OA"]
    assert found.low < 0 < found.high


def test_only_metrics_of_both_are_compared():
    one = Statistics("images", np.ones((3, 1)), lambda sums: {"a": sums[:, 0], "b": sums[:, 0]})
    other = Statistics("images", np.ones((3, 1)), lambda sums: {"b": sums[:, 0], "c": sums[:, 0]})
    assert list(paired(one, other)) == ["b"]


def test_runs_over_other_rows_or_units_are_not_paired():
    with pytest.raises(EvaluationError, match="2 images and 3 images"):
        paired(share([[1, 1]] * 2), share([[1, 1]] * 3))
    queries = Statistics("queries", np.ones((2, 2)), lambda sums: {"OA": sums[:, 0]})
    with pytest.raises(EvaluationError, match="2 images and 2 queries"):
        paired(share([[1, 1]] * 2), queries)


def test_a_ratio_by_nothing_is_not_defined():
    assert np.array_equal(ratio(np.array([1.0, 0.0]), np.array([4.0, 0.0])), [25.0, np.nan], equal_nan=True)
