"""Map, change and grid metrics by hand and against scikit-learn."""

import numpy as np
import pytest

from eval.metrics.maps import change_statistics, confusion, grid_statistics, map_statistics
from eval.statistics import intervals
from rsvlm.errors import EvaluationError

NAMES = ("water", "trees", "bare")
CODES = (80, 10, 60)


def mask(*rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_confusion_by_hand():
    truth = np.array([[80, 80, 10], [10, 0, 60]])
    predicted = np.array([[80, 10, 10], [10, 10, 80]])
    counts = confusion(truth, predicted, CODES, ignore=(0,))
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_map_metrics_by_hand():
    counts = np.array([[[1, 1, 0], [0, 2, 0], [1, 0, 0]]])
    found = map_statistics(counts, NAMES, background="bare").metrics()
    assert found["OA"] == 60
    assert found["IoU water"] == pytest.approx(100 / 3)
    assert found["IoU trees"] == pytest.approx(200 / 3)
    assert found["IoU bare"] == 0
    assert found["mIoU"] == pytest.approx(100 / 3)
    assert found["mIoU_without_background"] == pytest.approx(50)
    assert found["macro"] == pytest.approx(50)  # 1/2, 2/2 and 0/1


def test_map_metrics_equal_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score

    chance = np.random.default_rng(3)
    for _ in range(20):
        truth, predicted = chance.choice(CODES, size=(2, 4, 9, 7), p=[0.6, 0.3, 0.1])
        counts = np.stack([confusion(t, p, CODES) for t, p in zip(truth, predicted, strict=True)])
        flat = truth.ravel(), predicted.ravel()
        assert counts.sum(axis=0).tolist() == confusion_matrix(*flat, labels=CODES).tolist()
        found = map_statistics(counts, NAMES).metrics()
        assert found["OA"] == pytest.approx(100 * accuracy_score(*flat))
        assert found["macro"] == pytest.approx(100 * balanced_accuracy_score(*flat))
        assert found["mIoU"] == pytest.approx(100 * jaccard_score(*flat, average="macro"))
        per_class = [found[f"IoU {name}"] for name in NAMES]
        assert per_class == pytest.approx(list(100 * jaccard_score(*flat, average=None, labels=CODES)))


def test_a_class_that_never_occurs_is_not_defined_and_lowers_no_mean():
    truth = np.full((2, 2), 80)
    found = map_statistics(confusion(truth, truth, CODES)[None], NAMES).metrics()
    assert np.isnan(found["IoU trees"])
    assert found["mIoU"] == found["macro"] == found["OA"] == 100


def test_a_class_only_predicted_counts_nothing_in_the_mean_of_ious_and_stays_out_of_recall():
    truth, predicted = np.array([[80, 80]]), np.array([[80, 10]])
    found = map_statistics(confusion(truth, predicted, CODES)[None], NAMES).metrics()
    assert (found["mIoU"], found["macro"]) == (25, 50)


def test_a_map_that_is_ignored_whole_has_no_metric():
    truth = np.zeros((2, 2), int)
    found = map_statistics(confusion(truth, truth, CODES, ignore=(0,))[None], NAMES, background="bare").metrics()
    assert all(np.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("truth", "predicted", "classes", "words"),
    [
        ([[80]], [[10, 10]], CODES, "one code each"),
        ([[80]], [[95]], CODES, "the prediction has code 95"),
        ([[95]], [[80]], CODES, "the truth has code 95"),
        ([[80]], [[80]], (80, 80), "different codes"),
        ([[80]], [[80]], (), "different codes"),
    ],
)
def test_codes_that_cannot_be_compared_are_refused(truth, predicted, classes, words):
    with pytest.raises(EvaluationError, match=words):
        confusion(np.array(truth), np.array(predicted), classes)


def test_a_predicted_code_that_is_strange_under_ignored_truth_is_let_through():
    assert confusion(np.array([[0, 80]]), np.array([[95, 80]]), CODES, ignore=(0,)).sum() == 1


def test_confusions_that_do_not_fit_their_names_are_refused():
    with pytest.raises(EvaluationError, match=r"\(N, 3, 3\)"):
        map_statistics(np.zeros((1, 2, 2), int), NAMES)
    with pytest.raises(EvaluationError, match="no class"):
        map_statistics(np.zeros((1, 3, 3), int), NAMES, background="sky")
    with pytest.raises(EvaluationError, match="nothing to score"):
        map_statistics(np.zeros((0, 3, 3), int), NAMES)


def test_change_metrics_by_hand():
    truth, predicted = mask("##..", "...."), mask("#.#.", "....")
    found = change_statistics([truth], [predicted]).metrics()
    assert found["F1"] == found["precision"] == found["recall"] == 50
    assert found["IoU"] == pytest.approx(100 / 3)
    assert found["OA"] == 75
    assert found["mIoU"] == pytest.approx(100 * (1 / 3 + 5 / 7) / 2)


def test_change_metrics_equal_scikit_learn_over_valid_pixels():
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    chance = np.random.default_rng(5)
    truth, predicted, valid = chance.random((3, 6, 8, 8)) < np.array([0.3, 0.4, 0.9])[:, None, None, None]
    found = change_statistics(list(truth), list(predicted), list(valid)).metrics()
    flat = truth[valid], predicted[valid]
    for name, score in (("F1", f1_score), ("IoU", jaccard_score), ("precision", precision_score)):
        assert found[name] == pytest.approx(100 * score(*flat))
    assert found["recall"] == pytest.approx(100 * recall_score(*flat))
    assert found["mIoU"] == pytest.approx(100 * jaccard_score(*flat, average="macro"))


def test_nothing_changed_and_nothing_predicted_is_not_zero():
    empty = mask("..", "..")
    found = change_statistics([empty], [empty]).metrics()
    assert all(np.isnan(found[name]) for name in ("F1", "IoU", "precision", "recall"))
    assert found["OA"] == found["mIoU"] == 100
    nowhere = change_statistics([empty], [empty], [empty]).metrics()
    assert all(np.isnan(value) for value in nowhere.values())


def test_a_missed_change_has_recall_0_and_no_precision():
    found = change_statistics([mask("#.")], [mask("..")]).metrics()
    assert (found["F1"], found["recall"]) == (0, 0)
    assert np.isnan(found["precision"])


def test_masks_that_do_not_fit_are_refused_with_their_line():
    good = mask("#.")
    with pytest.raises(EvaluationError, match="line 2"):
        change_statistics([good, good], [good, mask("#")])
    with pytest.raises(EvaluationError, match="line 1"):
        change_statistics([good], [good.astype(int)])
    with pytest.raises(EvaluationError, match="one of each"):
        change_statistics([good, good], [good])


def test_intervals_of_one_image_are_the_value_itself():
    found = intervals(change_statistics([mask("##..")], [mask("#.#.")]), rounds=20)
    assert (found["F1"].low, found["F1"].value, found["F1"].high) == (50, 50, 50)


def test_grid_f1_by_hand():
    truth = [[(0, 0), (0, 1)], [], [(2, 2)]]
    predicted = [[(0, 0)], [(1, 1)], [(2, 2), (2, 2)]]
    found = grid_statistics(truth, predicted).metrics()  # 2 right, 1 false, 1 missed
    assert found["F1"] == found["precision"] == found["recall"] == pytest.approx(200 / 3)


def test_grid_answers_outside_are_wrong_and_grid_truth_outside_is_refused():
    assert grid_statistics([[(0, 0)]], [[(0, 0), (7, 7)]]).metrics()["precision"] == 50
    with pytest.raises(EvaluationError, match=r"line 1: cell \(0, 3\)"):
        grid_statistics([[(0, 3)]], [[]])
    with pytest.raises(EvaluationError, match="give one each"):
        grid_statistics([[]], [])


def test_grids_without_a_cell_have_no_f1():
    assert np.isnan(grid_statistics([[]], [[]]).metrics()["F1"])
