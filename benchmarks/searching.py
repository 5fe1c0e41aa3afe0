"""Goals 9 and 10: exact search in batches, and text queries at equal recall, by index and against other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.indexes import KINDS, TOP, Ours, build, built, ready, resident
from benchmarks.measure import Contender, Outcome, race
from benchmarks.report import Goal, Report, arguments, at_least, settled, spread_text, verdict, workplace
from benchmarks.vectors import corpus, recall

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.measure import Race, Steps
    from benchmarks.vectors import Corpus

EXACT = ("ours flat", "FAISS IndexFlatIP")
APPROXIMATE = ("ours ivf", "ours hnsw", "FAISS HNSW32", "hnswlib", "USearch f16", "Lance IVF-PQ")
ALONE = ("ours hnsw", "ours flat", *(name for name in APPROXIMATE if name != "ours hnsw"))
TRUE = 0.999  # recall of exact search: rounding may swap equals
PAGE_CACHE = "warm: indexes are read on opening, before the clock starts"


def search(corpus: Corpus, name: str, threads: int, batch: int, count: int) -> Steps:
    """Answer texts, so many at a time."""
    import numpy as np

    searcher, before = ready(corpus, name, threads)
    queries, truth = corpus.queries()[:count], corpus.truth("queries")[:count]
    searcher.search(queries[:batch])  # what is mapped or made on first use
    yield
    found = [searcher.search(queries[first : first + batch]) for first in range(0, len(queries), batch)]
    yield
    facts: dict[str, float | str] = {
        f"recall@{TOP}": recall(np.concatenate(found), truth),
        "effort": searcher.effort,
        "resident bytes / vector": (resident() - before) / corpus.rows,
        "bytes on disk / vector": built(corpus, name)["bytes"] / corpus.rows,
    }
    if isinstance(searcher, Ours):
        facts["hot bytes / float32"] = searcher.hot / (4 * corpus.vectors.shape[1])
    missed = name in EXACT and float(facts[f"recall@{TOP}"]) < TRUE
    return Outcome(len(queries), facts, "exact search missed neighbours" if missed else "")


def one_case(case: str, what: dict[str, Any], names: Sequence[str], options: argparse.Namespace) -> Race:
    """Race some indexes at one size of batch; the first is compared with. `what` are the options of `search`."""
    found: Corpus = what["corpus"]
    return race(
        case,
        [Contender(name, search, {**what, "name": name}, (KINDS[name].package,)) for name in names],
        unit="query",
        rounds=options.rounds,
        seed=options.seed,
        notes={"vectors": found.about, "queries": found.asked, "rows": found.rows, "page_cache": PAGE_CACHE},
    )


def goals_of(exact: Race, batches: Race, dim: int) -> list[Goal]:
    """Goals 9 and 10, the filters of the latter aside."""
    goals = [
        at_least("9", "exact batch, CPU", 4, exact, EXACT[1], "cpu"),
        at_least("9", "exact batch, wall", 4, exact, EXACT[1], "wall"),
    ]
    hot, found = batches.fact("ours ivf", "hot bytes / float32"), batches.fact("ours ivf", f"recall@{TOP}")
    goals.append(Goal("10", f"hot bytes of {4 * dim} (ours ivf)", "at most 0.10", f"{hot:.3f}", verdict(hot <= 0.10)))
    for name in ("ours ivf", "ours hnsw"):
        value = batches.fact(name, f"recall@{TOP}")
        goals.append(Goal("10", f"recall@{TOP} of texts, {name}", "0.95", f"{value:.3f}", verdict(value >= 0.95)))
    graph = "FAISS HNSW32"
    if graph in batches.samples:
        ratio, other = batches.ratio("ours ivf", "wall", graph), batches.fact(graph, f"recall@{TOP}")
        said = f"{spread_text(ratio)} at recall {found:.3f} against {other:.3f}"
        met = verdict(ratio.median <= 2, sure=batches.conclusive("wall"))
        goals.append(Goal("10", f"batch latency of ours ivf over {graph}", "at most 2x", said, met))
    return goals


def main() -> None:
    parser = corpus_arguments(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--alone", type=int, help="texts asked one by one; default 64, 16 quick")
    parser.add_argument("--without", nargs="*", default=[], help="indexes to leave out, by name")
    options = with_sizes(parser.parse_args())
    options.alone = options.alone or (16 if options.quick else 64)
    options.batch = min(options.batch, options.queries)
    report = Report("searching", settled(options))
    with workplace(options.work) as work:
        found = made(work, options)
        names = [name for name in dict.fromkeys((*EXACT, *APPROXIMATE)) if name not in options.without]
        building, absent = build_all(found, names, options.threads)
        report.notes = {"vectors": found.about, "building": building}
        dim = found.vectors.shape[1]
        for case, several, batch, count in (
            (f"exact, batches of {options.batch}", EXACT, options.batch, options.queries),
            (f"texts in batches of {options.batch}", APPROXIMATE, options.batch, options.queries),
            ("texts one by one", ALONE, 1, options.alone),
        ):
            kept = [name for name in several if name in building]
            what = {"corpus": found, "threads": options.threads, "batch": batch, "count": count}
            report.races.append(one_case(f"{case}, {found.rows:,} x {dim}", what, kept, options))
            report.races[-1].absent.update({name: absent[name] for name in several if name in absent})
    report.goals = goals_of(report.races[0], report.races[1], dim)
    report.finish(options.out)


def corpus_arguments(about: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark, and the sizes of the corpus."""
    parser = arguments(about)
    parser.add_argument("--rows", type=int, help="vectors; default 1,000,000, 20,000 quick")
    parser.add_argument("--chips", type=int, help="real chips they come from; default 2,048, 128 quick")
    parser.add_argument("--queries", type=int, help="texts; default 512, 64 quick")
    return parser


def with_sizes(options: argparse.Namespace) -> argparse.Namespace:
    """Sizes of the corpus filled in."""
    options.rows = options.rows or (20_000 if options.quick else 1_000_000)
    options.chips = options.chips or (128 if options.quick else 2048)
    options.queries = options.queries or (64 if options.quick else 512)
    return options


def made(work: Path, options: argparse.Namespace) -> Corpus:
    """The corpus these options ask for."""
    sizes = {name: getattr(options, name) for name in ("rows", "queries", "chips", "seed", "threads")}
    return corpus(work, options.data, **sizes)


def build_all(found: Corpus, names: Sequence[str], threads: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Build what is not there; what building took, and why some are not there."""
    absent = {name: reason for name in names if (reason := build(found, name, threads))}
    return {name: built(found, name) for name in names if name not in absent}, absent


if __name__ == "__main__":
    main()
