"""Grounding metrics by hand, against slow twins on a fine grid, and at their edges."""

import numpy as np
import pytest
import shapely

from eval.metrics.boxes import (
    PROTOCOLS,
    Shapes,
    centre_box,
    grounding_statistics,
    iou_matrix,
    mask_statistics,
    matches,
    random_boxes,
    whole_image,
)
from eval.statistics import intervals, paired
from rsvlm.errors import EvaluationError

NOTHING = Shapes.from_boxes([])
UNIT = [0, 0, 2, 2]
DIAMOND = [[1, 0], [2, 1], [1, 2], [0, 1]]  # area 2 inside the square of area 4


def corners(box):
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def boxes(*rows, scores=None):
    return Shapes.from_boxes(rows, scores)


def random_rows(chance, count, side=20):
    low = chance.integers(0, side - 1, size=(count, 2))
    return np.concatenate([low, np.minimum(low + chance.integers(1, 9, size=(count, 2)), side)], axis=1)


def covered(shapes, side=20, fine=10):
    """Sample points of a fine grid inside any shape, (side * fine,) squared."""
    steps = (np.arange(side * fine) + 0.5) / fine
    xs, ys = np.meshgrid(steps, steps)
    inside = np.zeros(xs.shape, bool)
    for outline in shapes.polygons or [np.array(corners(box)) for box in shapes.boxes]:
        inside |= shapely.contains_xy(shapely.Polygon(outline), xs, ys)
    return inside


def test_two_overlapping_squares_by_hand():
    assert iou_matrix(boxes(UNIT), boxes([1, 1, 3, 3])).tolist() == [[round(1 / 7, 9)]]


def test_a_square_turned_by_45_degrees_by_hand():
    assert iou_matrix(Shapes.from_polygons([DIAMOND]), boxes(UNIT)).tolist() == [[0.5]]


def test_box_ious_equal_pycocotools():
    from pycocotools.mask import iou

    chance = np.random.default_rng(0)
    one, other = random_rows(chance, 30).astype(float), random_rows(chance, 20).astype(float)
    sizes = [np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1) for rows in (one, other)]
    expected = iou(sizes[0], sizes[1], [0] * 20)
    assert np.allclose(iou_matrix(Shapes.from_boxes(one), Shapes.from_boxes(other)), expected)


def test_boxes_given_as_polygons_have_the_same_ious():
    chance = np.random.default_rng(1)
    one, other = random_rows(chance, 12), random_rows(chance, 9)
    outlines = Shapes.from_polygons([corners(row) for row in one])
    assert np.allclose(iou_matrix(outlines, Shapes.from_boxes(other)), iou_matrix(boxes(*one), boxes(*other)))


def test_areas_equal_counting_on_a_fine_grid():
    chance = np.random.default_rng(2)
    for _ in range(6):
        turned = [
            shapely.affinity.rotate(shapely.box(*row), float(chance.uniform(0, 90))) for row in random_rows(chance, 3)
        ]
        clipped = [np.clip(np.array(shape.exterior.coords)[:-1], 0, 20) for shape in turned]
        truth, predicted = Shapes.from_polygons(clipped), Shapes.from_boxes(random_rows(chance, 2))
        there, found = covered(truth), covered(predicted)
        exact = grounding_statistics([truth], [predicted]).metrics()["mIoU"]
        assert exact == pytest.approx(100 * (there & found).sum() / (there | found).sum(), abs=1)


def test_metrics_of_three_lines_by_hand():
    truth = [boxes(UNIT), boxes([0, 0, 1, 1], [4, 4, 6, 6]), NOTHING]
    predicted = [boxes([0, 0, 2, 1], UNIT, scores=[0.9, 0.5]), boxes([4, 4, 6, 6]), boxes(UNIT)]
    found = grounding_statistics(truth, predicted).metrics()
    # line 1: the better score takes the square at IoU 0.5; line 2: one of two; line 3: a false alarm
    assert found["precision@0.5"] == pytest.approx(100 * 2 / 4)
    assert found["recall@0.5"] == pytest.approx(100 * 2 / 3)
    assert found["F1@0.5"] == pytest.approx(100 * 4 / 7)
    assert found["Pr@0.5"] == 100  # 0.5 by the best-scored, 4 / 5 by the union of two
    assert found["Pr@0.7"] == 50
    assert found["mIoU"] == pytest.approx(100 * (1 + 0.8 + 0) / 3)
    assert found["cIoU"] == pytest.approx(100 * (4 + 4) / (4 + 5 + 4))
    assert found["false_alarm"] == 100


def test_the_two_threshold_rules_differ_at_the_threshold_only():
    lines = [boxes(UNIT)], [boxes([0, 0, 2, 1])]
    at_least, above = (grounding_statistics(*lines, threshold_rule=rule).metrics() for rule in PROTOCOLS.values())
    assert (at_least["Pr@0.5"], above["Pr@0.5"]) == (100, 0)
    assert (at_least["F1@0.5"], above["F1@0.5"]) == (100, 0)
    assert at_least["mIoU"] == above["mIoU"] == 50
    turned = [boxes(UNIT)], [Shapes.from_polygons([DIAMOND])]
    assert grounding_statistics(*turned).metrics()["Pr@0.5"] == 100
    assert grounding_statistics(*turned, threshold_rule=">").metrics()["Pr@0.5"] == 0


def test_empty_and_empty_agree_wholly():
    found = grounding_statistics([NOTHING], [NOTHING]).metrics()
    assert (found["mIoU"], found["false_alarm"]) == (100, 0)
    assert all(np.isnan(found[name]) for name in ("F1@0.5", "Pr@0.5", "cIoU", "precision@0.5", "recall@0.5"))


def test_an_empty_prediction_misses_and_is_no_false_alarm():
    found = grounding_statistics([boxes(UNIT)], [NOTHING]).metrics()
    assert found["F1@0.5"] == found["recall@0.5"] == found["Pr@0.5"] == found["mIoU"] == found["cIoU"] == 0
    assert np.isnan(found["precision@0.5"])
    assert np.isnan(found["false_alarm"])


def test_boxes_without_area_match_nothing_and_still_count():
    point = boxes([1, 1, 1, 1])
    found = grounding_statistics([point], [point]).metrics()
    assert found["F1@0.5"] == found["Pr@0.5"] == found["mIoU"] == 0
    assert grounding_statistics([NOTHING], [point]).metrics()["false_alarm"] == 100
    line = Shapes.from_polygons([[[0, 0], [1, 1], [2, 2]]])
    assert iou_matrix(line, line).tolist() == [[0]]


def test_each_true_shape_is_found_once():
    assert matches(boxes(UNIT), boxes(UNIT, UNIT, UNIT)) == 1
    assert matches(boxes(UNIT, UNIT), boxes(UNIT, UNIT, UNIT)) == 2


def test_equal_scores_are_matched_best_overlap_first_whatever_their_order():
    truth = boxes([0, 0, 10, 10], [0, 0, 10, 7])
    rows = [[0, 0, 10, 8], [0, 0, 10, 7]]
    assert matches(truth, boxes(*rows)) == matches(truth, boxes(*rows[::-1])) == 2


def test_greedy_matching_equals_the_optimal_assignment_where_shapes_do_not_compete():
    from scipy.optimize import linear_sum_assignment

    chance = np.random.default_rng(4)
    for _ in range(20):
        cells = chance.permutation(16)[: chance.integers(1, 9)]
        truth = np.array([[10 * (c % 4), 10 * (c // 4), 10 * (c % 4) + 8, 10 * (c // 4) + 8] for c in cells])
        moved = truth + np.tile(chance.integers(-4, 5, size=(len(truth), 2)), 2)
        one, other = Shapes.from_boxes(truth), Shapes.from_boxes(moved, chance.random(len(moved)))
        gains = iou_matrix(other, one) >= 0.5
        assert matches(one, other) == gains[linear_sum_assignment(-gains.astype(int))].sum()


def test_greedy_matching_may_find_fewer_than_the_optimal_assignment():
    from scipy.optimize import linear_sum_assignment

    truth = boxes([0, 0, 10, 10], [0, 0, 10, 7])
    rival = boxes([0, 0, 10, 9], [0, 0, 10, 18], scores=[0.9, 0.8])  # the second fits only the first truth
    gains = iou_matrix(rival, truth) >= 0.5
    assert gains.tolist() == [[True, True], [True, False]]
    assert gains[linear_sum_assignment(-gains.astype(int))].sum() == 2
    assert matches(truth, rival) == 1


def test_union_of_shapes_counts_overlap_once():
    truth, predicted = boxes([0, 0, 4, 1]), boxes([0, 0, 3, 1], [1, 0, 4, 1])
    assert grounding_statistics([truth], [predicted]).metrics()["mIoU"] == 100


def test_a_crossed_polygon_is_scored_by_the_area_it_encloses():
    bow = Shapes.from_polygons([[[0, 0], [2, 2], [2, 0], [0, 2]]])
    assert iou_matrix(bow, boxes(UNIT)).tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: boxes(UNIT, scores=[float("nan")]), "not a number"),
        (lambda: boxes([0, 0, float("inf"), 1]), "not a number"),
        (lambda: boxes([2, 0, 0, 2]), "ends before"),
        (lambda: boxes(UNIT, scores=[1, 2]), "a score each"),
        (lambda: boxes([0, 0, 1]), "a score each"),
        (lambda: Shapes.from_polygons([[[0, 0], [1, 1]]]), "three or more"),
        (lambda: Shapes.from_polygons([[[0, 0], [1, 1], [1, float("nan")]]]), "not a number"),
    ],
)
def test_broken_shapes_are_refused(make, words):
    with pytest.raises(EvaluationError, match=words):
        make()


def test_lines_that_cannot_be_scored_are_refused():
    with pytest.raises(EvaluationError, match="one each"):
        grounding_statistics([NOTHING, NOTHING], [NOTHING])
    with pytest.raises(EvaluationError, match="nothing to score"):
        grounding_statistics([], [])
    with pytest.raises(EvaluationError, match="threshold rule"):
        grounding_statistics([NOTHING], [NOTHING], threshold_rule="=")


def test_mask_metrics_by_hand():
    full, half, empty = np.ones((2, 4), bool), np.array([[True, True, False, False]] * 2), np.zeros((2, 4), bool)
    found = mask_statistics([full, full, empty, empty], [half, full, empty, half]).metrics()
    assert (found["Pr@0.5"], found["Pr@0.7"], found["false_alarm"]) == (100, 50, 50)
    assert found["mIoU"] == 100 * (0.5 + 1 + 1 + 0) / 4
    assert found["cIoU"] == pytest.approx(100 * 12 / 20)
    assert mask_statistics([full], [half], threshold_rule=">").metrics()["Pr@0.5"] == 0


def test_masks_of_boxes_score_as_the_boxes_do():
    chance = np.random.default_rng(7)
    truth, predicted = ([Shapes.from_boxes(random_rows(chance, 1)) for _ in range(10)] for _ in range(2))
    masks = [[covered(shapes, fine=1) for shapes in each] for each in (truth, predicted)]
    found = grounding_statistics(truth, predicted).metrics()
    for name, value in mask_statistics(*masks).metrics().items():
        assert found[name] == pytest.approx(value, nan_ok=True)


def test_masks_of_different_shape_are_refused_with_their_line():
    good = np.ones((2, 2), bool)
    with pytest.raises(EvaluationError, match="line 2"):
        mask_statistics([good, good], [good, np.ones((2, 3), bool)])
    with pytest.raises(EvaluationError, match="line 1"):
        mask_statistics([good], [good.astype(int)])


def test_constant_baselines_cover_what_they_say():
    assert whole_image((30, 40)).boxes.tolist() == [[0, 0, 40, 30]]
    assert centre_box((30, 40)).boxes.tolist() == [[10, 7.5, 30, 22.5]]


def test_random_boxes_come_from_another_line_scaled_to_this_image():
    truths = [boxes([0, 0, 10, 10]), boxes([50, 50, 100, 100]), Shapes.from_polygons([DIAMOND])]
    sizes = [(10, 10), (100, 200), (4, 8)]
    drawn = random_boxes(truths, sizes, seed=1)
    shares = [shapes.boxes[0] / np.tile([size[1], size[0]], 2) for shapes, size in zip(truths, sizes, strict=True)]
    for line, (shapes, (height, width)) in enumerate(zip(drawn, sizes, strict=True)):
        share = shapes.boxes[0] / [width, height, width, height]
        assert any(np.allclose(share, shares[other]) for other in range(3) if other != line)
    again = random_boxes(truths, sizes, seed=1)
    assert [a.boxes.tolist() for a in again] == [a.boxes.tolist() for a in drawn]
    assert len(random_boxes(truths[:1], sizes[:1], seed=0)[0]) == 0


def test_intervals_and_pairs_follow_from_the_rows():
    truth = [boxes(UNIT), boxes(UNIT), NOTHING]
    good = grounding_statistics(truth, truth)
    bad = grounding_statistics(truth, [NOTHING, NOTHING, boxes(UNIT)])
    assert intervals(good, rounds=50)["F1@0.5"].low == 100
    assert paired(bad, good, rounds=50)["mIoU"].value == 100
    one = intervals(grounding_statistics(truth[:1], truth[:1]), rounds=20)["mIoU"]
    assert (one.low, one.value, one.high) == (100, 100, 100)
