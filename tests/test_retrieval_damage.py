"""Whatever file of an archive is cut, flipped, zeroed or gone: answers are right or refused, and repair mends it."""

import json
import os
import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
from fakes import TinyEncoder, write_raster
from forks import process

import retrieval.journal
from retrieval import Archive
from retrieval.embed import Job, embed_rasters
from rsvlm.errors import ArchiveError, RsvlmError

SENSOR = "sentinel-2-l2a"
PER_PROCESS = 20
KINDS = ("cut", "flipped", "zeroed", "gone")


def damage(path, kind, random):
    """Spoil a file, half of the time without a trace in its times, and say how."""
    raw, times = bytearray(path.read_bytes()), path.stat()
    place, bit = int(random.integers(len(raw))), int(random.integers(8))
    if kind == "gone":
        path.unlink()
        return f"{path.name} gone"
    if kind == "cut":
        raw = raw[:place]
    elif kind == "zeroed":
        raw[place:] = bytes(len(raw) - place)
    else:
        raw[place] ^= 1 << bit
    path.write_bytes(raw)
    hidden = random.random() < 0.5
    if hidden:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"{path.name} {kind} at {place} of {times.st_size}, bit {bit}, {'hidden' if hidden else 'seen'}"


def found(folder):
    """What the archive answers to several ways of asking, in plain values."""
    archive = Archive.open(folder, TinyEncoder())
    hits = [
        *archive.search("town", 5, where="row == 16 and note is not None"),
        *archive.search(archive.vector(archive.search("x", 1)[0].chip_id), 3),
    ]
    told = [(hit.chip_id, round(hit.score, 4), hit.path, str(hit.window), str(hit.metadata)) for hit in hits]
    facts = {name: value for name, value in archive.info().items() if name not in ("path", "bytes", "index", "version")}
    return ranked(archive), told, facts


def ranked(archive):
    return [(hit.chip_id, round(hit.score, 4), hit.path) for hit in archive.search("dark water", 100)]


def refusal(error):
    """The error in words, where it is one sentence and says what to do."""
    text = str(error)
    plain = "\n" not in text and "Traceback" not in text and len(text) < 600
    return text if plain and ("repair" in text or "add again" in text) else None


def mended(folder, scenes, expected):
    """What is wrong with an archive after `rsvlm index repair`, None where it is whole or says what it lost."""
    from typer.testing import CliRunner

    from retrieval.commands import app

    result = CliRunner().invoke(app, ["repair", str(folder)])
    if result.exit_code:
        return f"repair ended with {result.exit_code}: {result.output} {result.exception!r}"
    lost = [line.removeprefix("add again: ") for line in result.stdout.splitlines() if line.startswith("add again: ")]
    archive = Archive.open(folder, TinyEncoder())
    if archive.verify():
        return f"after the repair: {archive.verify()}"
    now = ranked(archive)
    if not lost and now != expected:
        return f"after the repair {len(now)} other hits"
    gone = {path for _, _, path in expected} - {path for _, _, path in now}
    if gone - set(lost) and not any(line.startswith(("some", "every")) for line in lost):
        return f"lost without a word: {sorted(gone - set(lost))}"
    archive.add(scenes, sensor=SENSOR, progress=False)
    back = set(expected) - set(ranked(archive))
    return f"{len(back)} chips did not come back" if back else None


def one(template, folder, scenes, target, kind, seed, expected):
    """What went wrong with one damage, None where nothing did."""
    shutil.copytree(template, folder)
    how = damage(folder / target, kind, np.random.default_rng(seed))
    try:
        try:
            served = found(folder)
            problem = None if served == expected else f"other answers: {served}"
        except RsvlmError as error:
            problem = None if refusal(error) else f"unclear: {error!r}"
        problem = problem or mended(folder, scenes, expected[0])
    except BaseException as error:  # noqa: BLE001  # a panic of the table's library is none of the plain ones
        problem = f"{error!r}\n{traceback.format_exc()}"
    shutil.rmtree(folder)
    return problem and f"{how}: {problem}"


def many(template, folder, scenes, work, notes):
    """Do one damage after the other, noting each before and after, so that a crash names the one it was in."""
    expected = found(template)
    with Path(notes).open("a") as file:
        for target, kind, seed in work:
            print(json.dumps({"begun": [target, kind, seed]}), file=file, flush=True)
            problem = one(template, folder, scenes, target, kind, seed, expected)
            print(json.dumps({"done": problem}), file=file, flush=True)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(6):
        write_raster(folder / f"s2_2020010{i + 1}.tif", seed=i, CLOUD_COVER=str(10 * i))
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory, scenes):
    """An archive with every kind of file: parts, removed rows, added columns, a segmented index, an unfinished file."""
    import pyarrow as pa

    base = tmp_path_factory.mktemp("template")
    removed = write_raster(base / "removed.tif", seed=50)
    archive = Archive.create(base / "archive", TinyEncoder(), chip=16, stride=16)
    paths = sorted(scenes.iterdir())
    archive.add([*paths[:2], removed], sensor=SENSOR, progress=False)
    archive.add(paths[2:4], sensor=SENSOR, progress=False)
    archive.remove(removed)
    archive.annotate(pa.table({"path": [str(paths[0])], "note": ["x"]}))
    archive.add(paths[4:], sensor=SENSOR, progress=False)
    journal = retrieval.journal.Journal(archive.folder, fingerprint=archive.config.fingerprint, dim=archive.config.dim)
    journal.part, journal.pause = 2, 0
    unfinished = write_raster(base / "unfinished.tif", seed=60)
    list(embed_rasters([Job(unfinished, SENSOR)], TinyEncoder(), chip=16, stride=16, batch=2, journal=journal))
    archive.search("x")
    return archive.folder


@pytest.fixture
def archive(tmp_path, template):
    shutil.copytree(template, tmp_path / "archive")
    return tmp_path / "archive"


def test_an_older_version_is_not_served_where_the_newest_is_gone(archive, scenes):
    before = ranked(Archive.open(archive, TinyEncoder()))
    min((archive / "chips.lance" / "_versions").glob("*.manifest")).unlink()  # the newest
    with pytest.raises(ArchiveError, match=r"cannot be read \(No such file or directory\)\); run `rsvlm index repair"):
        Archive.open(archive)
    report = Archive.mend(archive)
    assert "went back over 1 unreadable version" in report.actions[0]
    assert "some files (the newest version" in report.lost[0]
    mended = Archive.open(archive, TinyEncoder())
    assert len(ranked(mended)) == 24
    mended.add(scenes, sensor=SENSOR, progress=False)
    assert ranked(mended) == before


def test_a_bit_that_flips_without_a_trace_is_told_in_a_small_table_and_in_a_large_one_by_verify(archive, monkeypatch):
    path = max((archive / "chips.lance" / "data").iterdir(), key=lambda path: path.stat().st_size)
    raw, times = bytearray(path.read_bytes()), path.stat()
    stored = Archive.open(archive)._generation.table.dataset.to_table(columns=["vector"])["vector"][0].values.to_numpy()
    raw[raw.index(stored.tobytes()) + 1] ^= 64  # of the first component, its exponent
    path.write_bytes(raw)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.rmtree(archive / "index")
    with pytest.raises(ArchiveError, match=r"holds other bytes than were written.*rsvlm index repair"):
        Archive.open(archive, TinyEncoder()).search("x")
    monkeypatch.setattr("retrieval.sums.HASHED_BYTES", 1000)
    assert "parts of the table cannot be read" in Archive.open(archive).verify()[0]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("count", [40, pytest.param(520, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_no_damage_is_served_and_repair_mends_it(tmp_path, template, scenes, count):
    files = files_in(template)
    kinds = {Path(name).parts[0] if len(Path(name).parts) == 1 else str(Path(name).parent) for name in files}
    assert len(kinds) == 8
    random = np.random.default_rng(count)
    order = [files[i] for _ in range(count // len(files) + 1) for i in random.permutation(len(files))]
    work = [(name, KINDS[i % len(KINDS)], i) for i, name in enumerate(order[:count])]
    problems = []
    for start in range(0, count, PER_PROCESS):
        notes = tmp_path / f"{start}.jsonl"
        child = process(many, template, tmp_path / "archive", scenes, work[start : start + PER_PROCESS], notes)
        child.start()
        child.join()
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
        problems += [line["done"] for line in lines if line.get("done")]
        if child.exitcode or len(lines) != 2 * len(work[start : start + PER_PROCESS]):
            problems.append(f"crashed with {child.exitcode} over {lines[-1:]}")
            shutil.rmtree(tmp_path / "archive", ignore_errors=True)
    assert not problems, "\n".join([f"{len(problems)} of {count}", *problems])
