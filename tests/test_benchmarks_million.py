"""The archive of made columns holds what was written, and its right answers are those of a slow search."""

import numpy as np
import pytest
from fakes import DIM, TinyEncoder

columns = pytest.importorskip(
    "benchmarks.columns", reason="benchmarks are only in the tree, and found by python -m pytest"
)
measure = pytest.importorskip("benchmarks.measure")
million = pytest.importorskip("benchmarks.million")

ROWS, SEED = 12_000, 3


@pytest.fixture(scope="module")
def vectors():
    drawn = np.random.default_rng(0).normal(size=(ROWS, DIM))
    drawn = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def queries():
    drawn = np.random.default_rng(1).normal(size=(8, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(vectors, queries, tmp_path_factory):
    """An archive that was imported block by block, beside its right answers."""
    from retrieval.schema import ArchiveConfig

    made, encoder = tmp_path_factory.mktemp("million"), TinyEncoder()
    config = ArchiveConfig(encoder.name, encoder.fingerprint, DIM, columns.CHIP, columns.CHIP)
    blocks = [(first, vectors[first : first + 5000]) for first in range(0, ROWS, 5000)]
    columns.prepare(made, blocks, columns.Columns.drawn(ROWS, SEED), queries, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(million, "encoder_for", lambda **options: encoder)
        sample = measure.timed(
            measure.Contender("importing", million.importing, {"folder": made, "rows": ROWS, "threads": 1})
        )
        assert sample.outcome.wrong == ""
        what = {"folder": made, "kind": "flat", "rows": ROWS, "threads": 1}
        assert measure.timed(measure.Contender("flat", million.indexing, what)).outcome.facts["kind"] == "flat"
    return made


@pytest.mark.parametrize("name", columns.FILTERS)
def test_right_answers_are_those_of_a_slow_search(folder, vectors, queries, name):
    mask = columns.FILTERS[name].passes(columns.Columns.drawn(ROWS, SEED))
    truth = np.load(folder / f"truth {name}.npy")
    assert truth.shape == (8, 10)
    for query, places in zip(queries, truth, strict=True):
        scored = sorted((-float(query @ vectors[row]), row) for row in np.flatnonzero(mask))[:10]
        np.testing.assert_allclose(vectors[places] @ query, [-score for score, _ in scored], atol=1e-6)
        assert mask[places].all()


@pytest.mark.parametrize("name", columns.FILTERS)
def test_an_exact_index_finds_every_right_answer_through_every_filter(folder, name):
    what = {"folder": folder, "name": name, "count": 8, "threads": 1, "seed": SEED}
    outcome = measure.timed(measure.Contender(name, million.searching, what)).outcome
    assert outcome.wrong == ""
    assert outcome.facts["recall@10"] >= 0.98  # stored in float16, so near equals may swap
    assert outcome.facts["median ms"] > 0


def test_a_rule_that_is_not_the_filter_is_noticed(folder, monkeypatch):
    wrong = columns.Filter(columns.FILTERS["50 %"].options, columns.FILTERS["1 %"].passes)
    monkeypatch.setitem(million.FILTERS, "50 %", wrong)
    what = {"folder": folder, "name": "50 %", "count": 8, "threads": 1, "seed": SEED}
    outcome = measure.timed(measure.Contender("50 %", million.searching, what)).outcome
    assert "excludes" in outcome.wrong


def test_shares_of_the_columns_are_as_named():
    drawn = columns.Columns.drawn(200_000, 0)
    shares = {name: float(each.passes(drawn).mean()) for name, each in columns.FILTERS.items()}
    assert shares["all"] == 1
    assert shares["50 %"] == pytest.approx(0.5, rel=0.02)
    assert shares["1 %"] == pytest.approx(0.01, rel=0.1)
    assert shares["0.1 %"] == pytest.approx(0.001, rel=0.3)
    assert shares["one year of ten"] == pytest.approx(0.1, rel=0.05)
    assert shares["one sensor in a box"] == pytest.approx(0.3 * 30 / 358 * 20 / 118, rel=0.2)
