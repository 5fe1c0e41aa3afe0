"""Goal 10, filters: texts searched among 1 % and 50 % of the chips, against unfiltered and against other libraries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.indexes import KINDS, TOP, ready
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, settled, spread_text, verdict, workplace
from benchmarks.searching import PAGE_CACHE, TRUE, build_all, corpus_arguments, made, with_sizes
from benchmarks.vectors import SHARES, recall

if TYPE_CHECKING:
    import argparse

    from benchmarks.measure import Race, Steps
    from benchmarks.vectors import Corpus

OWN = ("ours hnsw", "ours flat", "ours ivf")
PEERS = ("FAISS IndexFlatIP", "FAISS HNSW32", "hnswlib", "Lance IVF-PQ")
ALL = "all"


def search(corpus: Corpus, name: str, threads: int, share: str, count: int) -> Steps:
    """Answer texts one by one, among the chips that a condition on a column leaves."""
    searcher, _ = ready(corpus, name, threads)
    queries, truth = corpus.queries()[:count], corpus.truth("queries" if share == ALL else share)[:count]
    chosen = None if share == ALL else np.flatnonzero(corpus.clouds < SHARES[share])
    where = "" if share == ALL else f"cloud < {SHARES[share]}"
    start = time.perf_counter()
    searcher.search(queries[:1], chosen, where)  # the condition is read once, and its rows are remembered
    first = 1000 * (time.perf_counter() - start)
    yield
    found = np.concatenate([searcher.search(query[None], chosen, where) for query in queries])
    yield
    value = recall(found, truth)
    outside = "" if chosen is None or np.isin(found[found >= 0], chosen).all() else "rows that the filter excludes"
    return Outcome(len(queries), {f"recall@{TOP}": value, "first ms": first}, outside)


def label(name: str, share: str) -> str:
    """A contender's name."""
    return f"{name}, {share}"


def one_case(found: Corpus, names: list[str], options: argparse.Namespace) -> Race:
    """Everyone at every share; ours is the graph, unfiltered."""
    contenders = []
    for name in names:
        for share in (ALL, *SHARES):
            what: dict[str, Any] = {"corpus": found, "name": name, "share": share, "count": options.asked}
            what["threads"] = options.threads
            contenders.append(Contender(label(name, share), search, what, (KINDS[name].package,)))
    return race(
        f"texts one by one among all, 1 % and 50 % of {found.rows:,} x {found.vectors.shape[1]}",
        contenders,
        unit="query",
        rounds=options.rounds,
        seed=options.seed,
        notes={
            "vectors": found.about,
            "queries": found.asked,
            "filter": "a column of even chance",
            "page_cache": PAGE_CACHE,
        },
    )


def goals_of(found: Race) -> list[Goal]:
    """Filtered search is as good as unfiltered, and at most three times as slow, in each of the project's kinds."""
    goals = []
    for name in OWN:
        whole = found.fact(label(name, ALL), f"recall@{TOP}")
        for share in SHARES:
            value = found.fact(label(name, share), f"recall@{TOP}")
            met = verdict(value >= min(TRUE, whole))
            goals.append(
                Goal("10", f"recall of {name} among {share}", f"1 or at least {whole:.3f}", f"{value:.3f}", met)
            )
            ratio = found.ratio(label(name, share), "wall", label(name, ALL))
            met = verdict(ratio.median <= 3, sure=found.conclusive("wall"))
            goals.append(Goal("10", f"latency of {name} among {share}", "at most 3x of all", spread_text(ratio), met))
    return goals


def main() -> None:
    parser = corpus_arguments(__doc__)
    parser.add_argument("--asked", type=int, help="of these texts, how many are asked; default 64, 16 quick")
    parser.add_argument("--without", nargs="*", default=[], help="indexes to leave out, by name")
    options = with_sizes(parser.parse_args())
    options.asked = options.asked or (16 if options.quick else 64)
    report = Report("filters", settled(options))
    with workplace(options.work) as work:
        found = made(work, options)
        names = [name for name in (*OWN, *PEERS) if name not in options.without]
        building, absent = build_all(found, names, options.threads)
        report.notes = {"building": building}
        report.races.append(one_case(found, list(building), options))
        report.races[0].absent.update(absent)
        report.races[0].absent["USearch f16"] = "not run: it does not filter from Python"
    report.goals = goals_of(report.races[0])
    report.finish(options.out)


if __name__ == "__main__":
    main()
