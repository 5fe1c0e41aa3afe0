"""Goal 10 through the front door: an archive of a million vectors, built and searched with filters as people do it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.columns import ALL, CHIP, FILTERS, PARQUET, SAID, Columns, prepare
from benchmarks.encoders import encoder_for
from benchmarks.indexes import TOP, resident
from benchmarks.measure import Contender, Outcome, race, timed_apart
from benchmarks.report import Goal, Report, settled, spread_text, verdict, workplace
from benchmarks.searching import TRUE, corpus_arguments, with_sizes
from benchmarks.vectors import base_vectors, jittered, recall, some_texts

if TYPE_CHECKING:
    import argparse

    from benchmarks.measure import Race, Steps
    from retrieval.schema import ArchiveConfig

ARCHIVE = "archive"


def importing(folder: Path, rows: int, threads: int) -> Steps:
    """Bring the file in; as after every add, the index is made ready too."""
    from retrieval import Archive
    from retrieval.exchange import import_vectors

    archive = Archive.create(folder / ARCHIVE, encoder_for(threads=threads), chip=CHIP, stride=CHIP)
    yield
    found = import_vectors(archive, folder / PARQUET)
    yield
    wrong = "" if found.imported == rows else f"{found.imported:,} of {rows:,} rows were imported"
    return Outcome(rows, {}, wrong)


def indexing(folder: Path, kind: str, rows: int, threads: int) -> Steps:
    """Build the index anew."""
    from retrieval import Archive
    from retrieval.kinds import faiss_module

    faiss_module().omp_set_num_threads(threads)
    archive = Archive.open(folder / ARCHIVE, encoder_for(threads=threads))
    yield
    facts = archive.build_index(kind)
    yield
    (segment,) = facts["segments"]
    return Outcome(rows, {"kind": segment["kind"], "bytes": segment["bytes"]})


def searching(folder: Path, name: str, count: int, threads: int, seed: int) -> Steps:
    """Answer texts, encoded before, one by one by `Archive.search`: conditions, ranking and rows of the hits."""
    from retrieval import Archive
    from retrieval.kinds import faiss_module

    faiss_module().omp_set_num_threads(threads)
    before, options = resident(), FILTERS[name].options
    queries, truth = np.load(folder / "queries.npy")[:count], np.load(folder / f"truth {name}.npy")[:count]
    archive, start = Archive.open(folder / ARCHIVE), time.perf_counter()
    archive.search(queries[0], TOP, **options)  # opens the index, and reads the condition, whose rows are remembered
    first, taken, pages = time.perf_counter() - start, [], []
    yield
    for query in queries:
        start = time.perf_counter()
        pages.append(archive.search(query, TOP, **options))
        taken.append(1000 * (time.perf_counter() - start))
    yield
    found = np.full((len(pages), TOP), -1, np.int64)
    for place, hits in enumerate(pages):
        found[place, : len(hits)] = [int(hit.chip_id) for hit in hits]
    passed = np.flatnonzero(FILTERS[name].passes(Columns.drawn(len(archive), seed)))
    outside = "" if np.isin(found[found >= 0], passed).all() else "chips that the filter excludes"
    facts: dict[str, float | str] = {
        f"recall@{TOP}": recall(found, truth),
        "rows let through": float(len(passed)),
        "median ms": float(np.median(taken)),
        "95 % ms": float(np.quantile(taken, 0.95)),
        "open and first ms": 1000 * first,
        "resident MB": (resident() - before) / 1e6,
    }
    return Outcome(len(queries), facts, outside)


def make(folder: Path, options: argparse.Namespace) -> tuple[str, ArchiveConfig]:
    """Write everything an import needs; what the vectors are, and the archive's config to be."""
    from retrieval.schema import ArchiveConfig

    encoder = encoder_for(threads=options.threads)
    config = ArchiveConfig(encoder.name, encoder.fingerprint, encoder.dim, CHIP, CHIP)
    base, about = base_vectors(options.data, encoder, options.chips, options.seed)
    texts, asked = some_texts(options.data, options.queries, options.seed)
    columns = Columns.drawn(options.rows, options.seed)
    prepare(folder, jittered(base, options.rows, options.seed), columns, encoder.encode_texts(texts), config)
    return f"{about}; {asked}", config


def built(contender: Contender) -> dict[str, Any]:
    """What a step of building took, in a process of its own; raises RuntimeError where it fails."""
    sample = timed_apart(contender)
    if isinstance(sample, str) or sample.outcome.wrong:
        raise RuntimeError(f"{contender.name}: {sample if isinstance(sample, str) else sample.outcome.wrong}")
    grown = (sample.peak - sample.resting) / 1e6
    return {"cpu_s": sample.cpu, "wall_s": sample.wall, "grown_mb": grown, **sample.outcome.facts}


def one_kind(folder: Path, kind: str, about: str, options: argparse.Namespace) -> Race:
    """Every filter with one kind of index; the first is no filter."""
    what = {"folder": folder, "count": options.asked, "threads": options.threads, "seed": options.seed}
    return race(
        f"texts one by one through Archive.search, index {kind}, {options.rows:,} chips",
        [Contender(name, searching, {**what, "name": name}) for name in FILTERS],
        unit="query",
        rounds=options.rounds,
        seed=options.seed,
        preload=("retrieval", "faiss"),
        notes={"vectors": about, "columns": SAID, "page_cache": "warm: one search before the clock starts"},
    )


def goals_of(found: Race) -> list[Goal]:
    """Filters find as much as no filter, or all there is, in three times its time at most."""
    goals, whole = [], found.fact(ALL, f"recall@{TOP}")
    for name in FILTERS:
        if name == ALL:
            continue
        value, ratio = found.fact(name, f"recall@{TOP}"), found.ratio(name, "wall")
        claim, wanted = f"recall among {name}; {found.case}", min(TRUE, whole)
        goals.append(Goal("10", claim, f"at least {wanted:.3f}", f"{value:.3f}", verdict(value >= wanted)))
        met = verdict(ratio.median <= 3, sure=found.conclusive("wall"))
        claim = f"latency among {name}; {found.case}"
        goals.append(Goal("10", claim, "at most 3x of all", spread_text(ratio), met))
    return goals


def main() -> None:
    parser = corpus_arguments(__doc__)
    parser.add_argument("--asked", type=int, help="of these texts, how many are asked; default 64, 16 quick")
    parser.add_argument("--kinds", nargs="+", default=["auto"], help="kinds of index: auto, flat, hnsw, ivf")
    options = with_sizes(parser.parse_args())
    options.asked = options.asked or (16 if options.quick else 64)
    report, building = Report("million", settled(options)), {}
    with workplace(options.work) as work, tempfile.TemporaryDirectory(dir=work) as own:
        folder = Path(own)
        about, config = make(folder, options)
        what = {"folder": folder, "rows": options.rows, "threads": options.threads}
        building["import, with its index"] = built(Contender("importing", importing, what))
        for kind in options.kinds:
            building[f"index {kind}"] = built(Contender(kind, indexing, {**what, "kind": kind}, ("faiss",)))
            report.races.append(one_kind(folder, kind, about, options))
    report.notes = {"vectors": about, "dim": config.dim, "building": building}
    report.goals = [goal for found in report.races for goal in goals_of(found)]
    report.finish(options.out)


if __name__ == "__main__":
    main()
