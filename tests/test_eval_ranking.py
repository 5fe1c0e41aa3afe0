"""Ranking in blocks against slow twins and hand-worked values, with ties, chance and what is refused."""

from math import log2

import numpy as np
import pytest

from eval.metrics import graded, ranking
from eval.metrics.graded import graded_statistics
from eval.metrics.ranking import (
    PROTOCOLS,
    best,
    best_within,
    caption_ranks,
    caption_statistics,
    random_ranks,
    ranks_of,
    ranks_within,
    recall_statistics,
)
from eval.statistics import intervals
from rsvlm.errors import EvaluationError

ONE = np.ones((1, 2), np.float32)
LABELS = ("bare", "crop", "forest", "urban", "water")


def slow_order(scores, names=None):
    names = range(len(scores)) if names is None else names
    return sorted(range(len(scores)), key=lambda item: (-scores[item], names[item]))


def tied_vectors(chance, count, dim=3):
    """Small whole numbers: cosines are exact and tie often."""
    return chance.integers(-1, 2, (count, dim)).astype(np.float32)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def sets(*groups):
    return [frozenset(group.split()) for group in groups]


@pytest.mark.parametrize("cells", [1, 70, 10_000])
def test_ranks_agree_with_sorting_in_blocks_of_any_size_and_with_ties(cells, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", cells)
    chance = np.random.default_rng(0)
    queries, gallery = tied_vectors(chance, 40), tied_vectors(chance, 25)
    relevant = [chance.choice(25, size=chance.integers(1, 20), replace=False) for _ in queries]
    found = ranks_of(queries, gallery, relevant)
    for query, wanted, ranks in zip(queries, relevant, found, strict=True):
        order = slow_order((gallery @ query).tolist())
        assert ranks.tolist() == [order.index(item) for item in wanted]


def test_ranks_by_hand():
    gallery = np.array([[0, 1], [1, 0], [1, 0], [-1, 0]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    first, second = ranks_of(queries, gallery, [np.array([2, 3, 0]), np.array([3])])
    assert first.tolist() == [1, 3, 2]  # 1 and 2 tie at the top
    assert second.tolist() == [3]  # 1, 2 and 3 tie behind 0


def test_equal_items_tie_exactly_wherever_they_stand():
    chance = np.random.default_rng(0)
    gallery = np.repeat(unit(chance.standard_normal((1, 256))), 1007, axis=0)
    places = np.arange(1007)
    for query in unit(chance.standard_normal((5, 256))):  # one by one: a matrix times a vector
        assert ranks_of(query[None], gallery, [places])[0].tolist() == places.tolist()
        assert best(query[None], gallery, 4)[1].tolist() == [[0, 1, 2, 3]]


def test_one_item_is_found_and_no_query_is_no_rank():
    assert [ranks.tolist() for ranks in ranks_of(ONE, ONE, [np.array([0])])] == [[0]]
    assert ranks_of(np.zeros((0, 2), np.float32), ONE, []) == []


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0], []], "query 1 has no relevant item"),
        ([[0], [3]], "query 1 wants item 3; the gallery has items 0 to 2"),
        ([[-1], [0]], "query 0 wants item -1"),
        ([[0], [2, 1, 2]], "query 1 names item 2 twice"),
        ([[0]], "2 queries need as many lists"),
    ],
)
def test_relevant_items_that_do_not_fit_are_refused_by_query(relevant, message):
    lists = [np.array(items, np.int64) for items in relevant]
    with pytest.raises(EvaluationError, match=message):
        ranks_of(np.ones((2, 2), np.float32), np.ones((3, 2), np.float32), lists)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_a_number_is_refused_by_query(value, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", 6)  # two queries a block
    queries = np.ones((4, 2), np.float32)
    queries[3, 0] = value
    with pytest.raises(EvaluationError, match="a score of query 3 is not a number"):
        ranks_of(queries, np.ones((3, 2), np.float32), [np.array([0])] * 4)
    with pytest.raises(EvaluationError, match="a score of query 3"):
        best(queries, np.ones((3, 2), np.float32), 1)
    with pytest.raises(EvaluationError, match="a score of query 3"):
        ranks_within(queries, [np.array([0])] * 4)


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(EvaluationError, match="of one D"):
        best(ONE, np.ones((3, 4), np.float32), 1)


@pytest.mark.parametrize("k", [1, 7, 25])
def test_the_best_agree_with_sorting_even_with_ties(k, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", 100)
    chance = np.random.default_rng(k)
    queries, gallery = tied_vectors(chance, 30), tied_vectors(chance, 25)
    scores, positions = best(queries, gallery, k)
    for query, row, found in zip(queries, scores, positions, strict=True):
        every = gallery @ query
        assert found.tolist() == slow_order(every.tolist())[:k]
        assert row.tolist() == every[found].tolist()


def test_the_best_need_a_k_within_the_gallery():
    for k in (0, 2):
        with pytest.raises(EvaluationError, match="from 1 to the 1 items"):
            best(ONE, ONE, k)
    assert best(np.zeros((0, 2), np.float32), ONE, 1)[1].shape == (0, 1)


def test_caption_recall_by_hand():
    t2i = [np.array([0, 4]), np.array([1]), np.array([9, 10])]
    i2t = [np.array([3, 0]), np.array([7]), np.array([12, 10])]
    statistics = caption_statistics(t2i, i2t)
    found = statistics.metrics()
    assert statistics.unit == "images"
    assert statistics.rows.shape[0] == 3
    assert [found[f"t2i_R@{cut}"] for cut in (1, 5, 10)] == pytest.approx([20, 60, 80])  # of 5 captions
    assert [found[f"i2t_R@{cut}"] for cut in (1, 5, 10)] == pytest.approx([100 / 3, 100 / 3, 200 / 3])
    assert found["mR"] == pytest.approx((20 + 60 + 80 + 400 / 3) / 6)


def slow_caption_metrics(images, texts, owners):
    captions = [[c for c, owner in enumerate(owners) if owner == i] for i in range(len(images))]
    t2i = [slow_order((images @ text).tolist()).index(owner) for text, owner in zip(texts, owners, strict=True)]
    i2t = []
    for image, own in zip(images, captions, strict=True):
        order = slow_order((texts @ image).tolist())
        i2t.append(min(order.index(c) for c in own))
    return [100 * sum(r < cut for r in ranks) / len(ranks) for ranks in (t2i, i2t) for cut in (1, 5, 10)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_caption_metrics_agree_with_a_slow_twin(protocol):
    chance = np.random.default_rng(3)
    owners = chance.permutation(np.repeat(np.arange(20), chance.integers(1, 5, 20)))
    images, texts = tied_vectors(chance, 20, 6), tied_vectors(chance, len(owners), 6)
    found = caption_statistics(*caption_ranks(images, texts, owners, protocol=protocol)).metrics()
    if protocol == "first-caption":
        kept = sorted(owners.tolist().index(image) for image in range(20))
        texts, owners = texts[kept], owners[kept]
    expected = slow_caption_metrics(images, texts, owners.tolist())
    assert list(found.values()) == pytest.approx([*expected, np.mean(expected)])


def test_the_first_caption_of_an_image_is_the_first_listed():
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    owners = np.array([1, 0, 1])
    t2i, i2t = caption_ranks(images, texts, owners, protocol="first-caption")
    assert [ranks.tolist() for ranks in t2i] == [[0], [1]]
    assert [ranks.tolist() for ranks in i2t] == [[1], [0]]  # both captions tie for either image; the lower comes first


def test_captions_that_do_not_fit_are_refused():
    pair = np.eye(2, dtype=np.float32)
    for owners, protocol, message in (
        ([0, 0], "all-captions", "image 1 has no caption"),
        ([0, 2], "all-captions", "one of 2 images"),
        ([0, -1], "all-captions", "one of 2 images"),
        ([], "all-captions", "one of 2 images"),
        ([0, 1], "best-caption", "no retrieval protocol 'best-caption'; take one of all-captions, first-caption"),
    ):
        with pytest.raises(EvaluationError, match=message):
            caption_ranks(pair, pair, np.array(owners, np.int64), protocol=protocol)
    with pytest.raises(EvaluationError, match="image 0 has no caption"):
        caption_statistics([np.zeros(0, np.int64)], [np.array([0])])
    with pytest.raises(EvaluationError, match="of 1 and of 0 images"):
        caption_statistics([np.array([0])], [])
    with pytest.raises(EvaluationError, match="nothing to score"):
        caption_statistics([], [])


def test_recall_over_queries_by_hand():
    found = recall_statistics([np.array([0]), np.array([12, 4]), np.array([30])]).metrics()
    assert found == pytest.approx({"R@1": 100 / 3, "R@5": 200 / 3, "R@10": 200 / 3})


def test_graded_metrics_by_hand():
    # Query {forest water}; in order of score: b {forest} gain 1/2, c {} gain 0, a {forest water crop} gain 2/3.
    items = sets("forest water crop", "forest", "")
    found = graded_statistics(
        np.array([[0.1, 0.9, 0.5]]), sets("forest water"), items, ["a", "b", "c"], cuts=(1, 2, 3)
    ).metrics()
    ideal = 2 / 3 + 1 / 2 / log2(3)
    assert found["nDCG@1"] == pytest.approx(100 * (1 / 2) / (2 / 3))
    assert found["nDCG@2"] == pytest.approx(100 * (1 / 2) / ideal)
    assert found["nDCG@3"] == pytest.approx(100 * (1 / 2 + 2 / 3 / log2(4)) / ideal)
    assert found["nDCG_binary@3"] == pytest.approx(100 * (1 + 1 / log2(4)) / (1 + 1 / log2(3)))
    assert found["mAP@2"] == pytest.approx(100 * 1 / 2)  # 2 are relevant, one of them seen, at rank 1
    assert found["mAP@3"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert found["P@10"] == pytest.approx(20)
    assert found["R@1"] == 100


def test_equal_scores_go_by_id_not_by_position():
    items = sets("water", "forest")
    alike = np.zeros((1, 2))
    assert graded_statistics(alike, sets("forest"), items, ["b", "a"], cuts=(1,)).metrics()["R@1"] == 100
    assert graded_statistics(alike, sets("forest"), items, ["a", "b"], cuts=(1,)).metrics()["R@1"] == 0


def slow_graded(scores, query, items, ids, cuts):
    """One query's values, item by item."""
    order = slow_order(scores, ids)
    gain = [len(query & labels) / len(query | labels) for labels in items]
    ranked, perfect = [gain[i] for i in order], sorted(gain, reverse=True)
    relevant = sum(g > 0 for g in gain)

    def dcg(gains, cut):
        return sum(g / log2(rank + 2) for rank, g in enumerate(gains[:cut]))

    def precision(cut):
        return sum(g > 0 for g in ranked[:cut]) / cut

    found = {}
    for cut in cuts:
        found[f"nDCG@{cut}"] = dcg(ranked, cut) / dcg(perfect, cut)
        found[f"nDCG_binary@{cut}"] = dcg([float(g > 0) for g in ranked], cut) / dcg([1.0] * relevant, cut)
        found[f"mAP@{cut}"] = sum(precision(r + 1) for r, g in enumerate(ranked[:cut]) if g > 0) / relevant
    found |= {f"R@{cut}": float(any(g > 0 for g in ranked[:cut])) for cut in (1, 5, 10)}
    return {**found, "P@10": precision(10)}


def random_sets(chance, count, least):
    sizes = chance.integers(least, len(LABELS) + 1, count)
    return [frozenset(chance.choice(LABELS, size=size, replace=False).tolist()) for size in sizes]


@pytest.mark.parametrize("size", [1, 5, 40])
def test_graded_metrics_agree_with_a_slow_twin_even_with_ties(size, monkeypatch):
    monkeypatch.setattr(graded, "GRADED_CELLS", 100)
    chance = np.random.default_rng(size)
    items, cuts = [*random_sets(chance, size - 1, 0), frozenset(LABELS)], (2, 10, 100)
    queries = random_sets(chance, 12, 1)
    ids = [f"item {i}" for i in chance.permutation(size)]
    scores = chance.integers(0, 4, (12, size)).astype(np.float64)
    statistics = graded_statistics(scores, queries, items, ids, cuts=cuts)
    assert (statistics.unit, len(statistics.rows)) == ("queries", 12)
    slow = [slow_graded(row, query, items, ids, cuts) for row, query in zip(scores.tolist(), queries, strict=True)]
    expected = {name: 100 * np.mean([each[name] for each in slow]) for name in slow[0]}
    assert statistics.metrics() == pytest.approx(expected)
    in_blocks = graded_statistics(iter([scores[:5], scores[5:]]), queries, items, ids, cuts=cuts)
    np.testing.assert_array_equal(in_blocks.rows, statistics.rows)


def test_more_than_sixteen_labels_cost_a_gain_less_than_a_millionth():
    many = frozenset(f"label {i}" for i in range(17))
    items = [frozenset(["label 0"]), many | {"other"}]  # gains 1/17 and 17/18
    found = graded_statistics(np.array([[1.0, 0.0]]), [many], items, ["a", "b"], cuts=(2,)).metrics()
    expected = (1 / 17 + 17 / 18 / log2(3)) / (17 / 18 + 1 / 17 / log2(3))
    assert found["nDCG@2"] == pytest.approx(100 * expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": ["a", "a", "b"]}, "got 3, 2 of them distinct"),
        ({"ids": ["a", "b"]}, "3 items need as many"),
        ({"labels_of_query": sets("water", "snow")}, "query 1 has no relevant item"),
        ({"labels_of_query": sets("water", "")}, "query 1 has no relevant item"),
        ({"scores": np.array([[1.0, 2, 3], [1, np.nan, 3]])}, "a score of query 1 is not a number"),
        ({"scores": np.ones((2, 4))}, r"scores are \(2, 3\); got a block \(2, 4\)"),
        ({"scores": np.ones((3, 3))}, "got a block"),
        ({"scores": iter([np.ones((1, 3))])}, "2 queries need as many rows of scores and at least one; got 1"),
        ({"scores": iter([]), "labels_of_query": []}, "at least one; got 0"),
        ({"cuts": (0, 10)}, "whole numbers from 1"),
        ({"labels_of_item": [], "ids": [], "scores": np.ones((2, 0))}, "query 0 has no relevant item"),
    ],
)
def test_graded_relevance_that_does_not_fit_is_refused(changed, message):
    given = {
        "scores": np.ones((2, 3)),
        "labels_of_query": sets("water", "forest"),
        "labels_of_item": sets("water", "forest", "water forest"),
        "ids": ["a", "b", "c"],
        **changed,
    }
    cuts = given.pop("cuts", (10,))
    with pytest.raises(EvaluationError, match=message):
        graded_statistics(*given.values(), cuts=cuts)


def test_chance_ranks_are_distinct_seeded_and_uniform():
    drawn = random_ranks([3] * 2000, 8, seed=0)
    assert all(len(set(ranks.tolist())) == 3 for ranks in drawn)
    assert np.concatenate(drawn).mean() == pytest.approx(3.5, abs=0.1)
    assert [a.tolist() for a in drawn[:9]] == [a.tolist() for a in random_ranks([3] * 9, 8, seed=0)]
    assert sorted(random_ranks([8], 8, seed=1)[0].tolist()) == list(range(8))
    with pytest.raises(EvaluationError, match="query 1 needs 1 to 8"):
        random_ranks([1, 9], 8, seed=0)


def test_chance_over_captions_is_what_counting_says():
    t2i = np.split(np.random.default_rng(1).integers(400, size=2000), 400)
    found = intervals(caption_statistics(t2i, random_ranks([5] * 400, 2000, seed=0)))
    assert found["t2i_R@10"].low <= 100 * 10 / 400 <= found["t2i_R@10"].high
    missed = np.prod([(1995 - i) / (2000 - i) for i in range(10)])  # none of an image's 5 among the first 10 of 2000
    assert found["i2t_R@10"].low <= 100 * (1 - missed) <= found["i2t_R@10"].high


def test_chance_over_labels_finds_the_share_that_is_relevant():
    items = sets(*["water"] * 30, *["forest"] * 70)
    queries = sets(*["water"] * 500)
    found = graded_statistics(
        np.random.default_rng(0).random((500, 100)), queries, items, [f"{i:03}" for i in range(100)]
    )
    assert intervals(found)["P@10"].low <= 30 <= intervals(found)["P@10"].high


def test_the_best_within_scores_are_in_order():
    assert best_within(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]
