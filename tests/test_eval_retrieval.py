"""Retrieval metrics against values worked by hand and a slow twin."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.metrics.ranking import bootstrap_retrieval, first_ranks, recall_at, retrieval_metrics
from eval.retrieval import evaluate, load
from rsvlm.errors import ConfigError, QueryError


def slow_rank(scores, wanted):
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return min(order.index(item) for item in wanted)


def test_ranks_agree_with_sorting_even_with_ties():
    chance = np.random.default_rng(0)
    queries = chance.integers(-1, 2, (40, 3)).astype(np.float32)
    gallery = chance.integers(-1, 2, (25, 3)).astype(np.float32)
    relevant = [chance.choice(25, size=chance.integers(1, 4), replace=False).tolist() for _ in queries]
    ranks = first_ranks(queries, gallery, relevant)
    assert ranks.tolist() == [slow_rank(q @ gallery.T, wanted) for q, wanted in zip(queries, relevant, strict=True)]


def test_recall_by_hand():
    ranks = np.array([0, 0, 4, 5, 11])
    assert [recall_at(ranks, cut) for cut in (1, 5, 10)] == [40.0, 60.0, 80.0]
    metrics = retrieval_metrics(ranks, np.array([0, 1]))
    assert metrics["i2t_R@1"] == 50.0
    assert metrics["mR"] == pytest.approx((40 + 60 + 80 + 50 + 100 + 100) / 6)


def test_one_image_is_always_found():
    one = np.ones((1, 2), np.float32)
    assert first_ranks(one, one, [[0]]).tolist() == [0]


def test_a_query_without_relevant_ids_is_refused():
    with pytest.raises(QueryError, match="no relevant item"):
        first_ranks(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), [[]])


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(QueryError, match="not a number"):
        first_ranks(np.full((1, 2), np.nan, np.float32), np.ones((3, 2), np.float32), [[0]])


def test_intervals_hold_the_value_and_narrow_with_more_images():
    chance = np.random.default_rng(0)
    widths = []
    for count in (50, 800):
        ranks = chance.integers(0, 20, count)
        low, high = bootstrap_retrieval(ranks, np.arange(count), ranks, seed=0, rounds=200)["mR"]
        assert low <= retrieval_metrics(ranks, ranks)["mR"] <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.fixture
def manifest(tmp_path):
    chance = np.random.default_rng(0)
    lines = []
    for number in range(6):
        Image.fromarray(chance.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        captions = [f"picture number {number}", f"image {number}"]
        lines.append(json.dumps({"image": f"{number}.png", "captions": captions, "sensor": "rgb"}))
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_report_has_intervals_baselines_and_provenance(manifest, untrained_encoder):
    report = evaluate(untrained_encoder, manifest, limit=None, seed=0)
    assert (report["n"], report["captions"]) == (6, 12)
    assert report["metrics"]["t2i_R@10"]["value"] == 100.0  # six images only
    assert set(report["baselines"]["random"]) == set(report["metrics"])
    assert report["encoder"]["fingerprint"] == untrained_encoder.fingerprint
    assert len(report["data_sha256"]) == 64


def test_limit_takes_whole_images(manifest):
    data = load(manifest, 2)
    assert len(data.images) == 2
    assert data.owners.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", ":7 is not JSON"), ('{"image": "a.png", "captions": ["x"], "colour": 1}', ":7 needs image and captions")],
)
def test_a_bad_line_is_named_by_its_number(manifest, line, message):
    manifest.write_text(manifest.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=message):
        load(manifest)
