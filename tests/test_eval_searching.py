"""Retrieval over an archive: an exact index loses nothing, a coarse one loses what a slow count says."""

from dataclasses import replace

import faiss
import numpy as np
import pytest
from fakes import DIM, TinyEncoder, write_raster

from eval.searching import archive_statistics, index_loss
from retrieval import Archive
from retrieval.kinds import Effort
from rsvlm.errors import EvaluationError, QueryError

FILES = 14


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """14 files of 6 chips, searched exactly."""
    base = tmp_path_factory.mktemp("searching")
    folder = base / "scenes"
    folder.mkdir()
    for i in range(FILES):
        write_raster(folder / f"{i:02}.tif", seed=i, place=(500_000 + 5_000 * i, 5_500_000))
    archive = Archive.create(base / "archive", TinyEncoder(), chip=16, stride=16)
    report = archive.add(folder, sensor="sentinel-2-l2a", progress=False)
    assert (report.added, report.chips) == (FILES, 6 * FILES)
    return archive


def vectors_of(archive):
    return np.concatenate([vectors for _, _, vectors in archive.vectors()])


@pytest.fixture
def coarse(exact, monkeypatch):
    """The same archive through an index of 12 cells that looks into two of them, for 10 chips at a time."""
    for name in ("archive", "search"):
        monkeypatch.setattr(f"retrieval.{name}.DEPTH", 10)
    monkeypatch.setattr("retrieval.index.SPARE", 0)
    monkeypatch.setattr("retrieval.segments.deepened", lambda kind, index, effort, **counts: effort)
    archive = Archive.open(exact.folder, exact.encoder)
    archive.search(vectors_of(exact)[0])
    vectors = vectors_of(exact)
    index = faiss.index_factory(DIM, "IVF12,Flat,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.lexsort(vectors.T)])  # in one order, whichever file was read first
    index.add(vectors)
    (segment,) = archive._generation.index.segments
    segment.index, segment.facts = index, replace(segment.facts, kind="ivf", effort=Effort(2))
    return archive


@pytest.fixture
def queries():
    return np.random.default_rng(0).standard_normal((100, DIM)).astype(np.float32)


def slow_best(archive, query):
    """Scores and paths of all chips, best first."""
    rows = [
        (c, p, v) for chips, paths, vectors in archive.vectors() for c, p, v in zip(chips, paths, vectors, strict=True)
    ]
    scored = [(float(vector @ query / np.linalg.norm(query)), chip, path) for chip, path, vector in rows]
    return sorted(scored, key=lambda row: (-row[0], row[1]))


def test_an_exact_index_loses_nothing(exact, queries):
    found = index_loss(exact, queries)
    assert {name: found[name]["value"] for name in ("recall@1", "recall@10", "recall@100")} == {
        "recall@1": 100,
        "recall@10": 100,
        "recall@100": 100,
    }
    assert (found["n"], found["chips"], found["index"]) == (len(queries), 6 * FILES, "IndexFlatIP")
    for side in ("index", "exact"):
        assert 0 < found["latency_ms"][side]["median"] <= found["latency_ms"][side]["p95"]


def test_a_coarse_index_loses_what_counting_says(coarse, queries):
    found = index_loss(coarse, queries, cuts=(1, 10))
    shares = {1: [], 10: []}
    for query in queries:
        order = [chip for _, chip, _ in slow_best(coarse, query)]
        returned = [hit.chip_id for hit in coarse.search(query, 10)]
        for cut, share in shares.items():
            share.append(len(set(order[:cut]) & set(returned[:cut])) / cut)
    assert found["recall@10"]["value"] < 100
    for cut, share in shares.items():
        assert found[f"recall@{cut}"]["value"] == pytest.approx(100 * np.mean(share), abs=0.01)
    assert found["recall@10"]["low"] <= found["recall@10"]["value"] <= found["recall@10"]["high"]
    assert found["index"] == "IndexRefine"


def test_a_condition_holds_on_both_sides(exact, queries):
    path = sorted({path for _, paths, _ in exact.vectors() for path in paths})[0]
    found = index_loss(exact, queries, where=f'path == "{path}"')
    assert (found["chips"], found["recall@1"]["value"], found["recall@100"]["value"]) == (6, 100, 100)
    with pytest.raises(EvaluationError, match="no chip to search among"):
        index_loss(exact, queries, where='sensor == "landsat-8"')
    with pytest.raises(QueryError):
        index_loss(exact, queries, where="nonsense ==")


def test_an_empty_archive_has_nothing_to_search_among(tmp_path, queries):
    with (
        Archive.create(tmp_path / "empty", TinyEncoder()) as archive,
        pytest.raises(EvaluationError, match="no chip to search among"),
    ):
        index_loss(archive, queries)


def test_a_chip_that_ties_with_the_last_is_no_loss(tmp_path):
    vector = np.random.default_rng(0).standard_normal((1, DIM)).astype(np.float32)
    folder = tmp_path / "scenes"
    folder.mkdir()
    for i in range(8):  # one content, but other places and names: all chips are alike
        write_raster(folder / f"{i}.tif", seed=0, shape=(16, 16), place=(500_000 + 500 * i, 5_500_000))
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    archive.add(folder, sensor="sentinel-2-l2a", progress=False)
    assert len(np.unique(vectors_of(archive), axis=0)) == 1
    found = index_loss(archive, vector, cuts=(1, 2, 4))
    assert [found[f"recall@{cut}"]["value"] for cut in (1, 2, 4)] == [100, 100, 100]


def slow_file_ranks(archive, query, wanted):
    best = {}
    for score, _, path in slow_best(archive, query):
        best.setdefault(path, score)
    order = sorted(best, key=lambda path: (-best[path], path))
    return min(order.index(path) for path in wanted)


def test_recall_over_files_agrees_with_a_slow_twin(exact, queries):
    chance = np.random.default_rng(1)
    files = sorted({path for _, paths, _ in exact.vectors() for path in paths})
    wanted = [set(chance.choice(files, size=chance.integers(1, 4), replace=False).tolist()) for _ in queries]
    through_index, exactly = archive_statistics(exact, queries, wanted)
    ranks = np.array([slow_file_ranks(exact, q, w) for q, w in zip(queries, wanted, strict=True)])
    expected = {f"R@{cut}": pytest.approx(100 * (ranks < cut).mean()) for cut in (1, 5, 10)}
    assert 0 < exactly.metrics()["R@5"] < 100
    assert exactly.metrics() == expected
    assert through_index.metrics() == expected
    assert (exactly.unit, len(exactly.rows)) == ("queries", len(queries))


def test_a_file_with_very_many_chips_counts_once(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_raster(folder / "large.tif", seed=0, shape=(256, 256))
    for i in range(1, FILES):
        write_raster(folder / f"small-{i:02}.tif", seed=i, shape=(16, 16), place=(500_000 + 5_000 * i, 5_500_000))
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    report = archive.add(folder, sensor="sentinel-2-l2a", progress=False)
    assert report.chips == 256 + FILES - 1
    query = vectors_of(archive)[:1]
    files = sorted({path for _, paths, _ in archive.vectors() for path in paths})
    for path in files:
        rank = slow_file_ranks(archive, query[0], {path})
        for found in archive_statistics(archive, query, [{path}]):
            assert found.metrics() == {f"R@{cut}": 100.0 * (rank < cut) for cut in (1, 5, 10)}


def test_a_coarse_index_misses_files_that_exact_search_finds(coarse, queries):
    wanted = [{slow_best(coarse, query)[0][2]} for query in queries]
    through_index, exactly = archive_statistics(coarse, queries, wanted)
    assert exactly.metrics()["R@1"] == 100
    assert through_index.metrics()["R@1"] < 100


def test_queries_and_files_that_do_not_fit_are_refused(exact, queries):
    path = exact.search(queries[0], 1)[0].path
    for given, wanted, message in (
        (queries[:2], [{path}], "2 queries need as many sets"),
        (queries[:2], [{path}, set()], "query 1 has no relevant file"),
        (queries[:1], [{"elsewhere.tif"}], "query 0 wants elsewhere.tif, which the archive does not hold"),
        (queries[:1, :4], [{path}], r"queries are \(Q, 32\)"),
        (queries[:0], [], "at least one"),
        (np.stack([queries[0], 0 * queries[0]]), [{path}, {path}], "query 1 is not a vector"),
        (np.full((1, DIM), np.nan, np.float32), [{path}], "query 0 is not a vector"),
    ):
        with pytest.raises(EvaluationError, match=message):
            archive_statistics(exact, given, wanted)
    with pytest.raises(EvaluationError, match="whole numbers from 1 to 10000"):
        index_loss(exact, queries, cuts=(0,))
