"""Killed at random again and again while it adds, an archive ends as if nothing had happened."""

import os
import resource
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from fakes import TinyEncoder, write_raster
from forks import process

import retrieval.adding
import retrieval.journal
from retrieval import Archive
from retrieval.store import ChipTable
from rsvlm.errors import ArchiveError

SENSOR = "sentinel-2-l2a"
CHIPS, PART, COMMIT, BATCH = 6 * 40, 32, 16, 8  # of the large file; in a part; in a commit; in a batch
FILED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect")


class Counting(TinyEncoder):
    """The tiny encoder, noting every chip in a file that outlives its process."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def embed(self, pixels, valid, bands):
        with open(self.notes, "ab") as file:
            file.write(b"." * len(pixels))
        return super().embed(pixels, valid, bands)


def die_at(point):
    """Die at the point-th call that opens, names or removes a file, at none where it is 0; how many came so far."""
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        if event in FILED:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: seen


def add(folder, scenes, notes, point):
    """Add in small steps, and die on the way."""
    retrieval.adding.COMMIT_CHIPS, retrieval.journal.PART_CHIPS = COMMIT, PART
    retrieval.adding.COMMIT_PAUSE = retrieval.journal.PART_SECONDS = 0
    seen = die_at(point)
    Archive.open(folder, Counting(notes)).add(scenes, sensor=SENSOR, progress=False, batch=BATCH)
    (folder / "calls").write_text(str(seen()))


def change(folder, action, path, point):
    """Remove a file, build the index anew or repair, and die on the way."""
    seen = die_at(point)
    if action == "remove":
        Archive.open(folder).remove(path)
    elif action == "rebuild":
        Archive.open(folder, TinyEncoder()).build_index("hnsw")
    else:
        Archive.mend(folder)
    (folder / "calls").write_text(str(seen()))


def run(*arguments, seconds=None, target=add):
    """Whether it ended by itself, before a call that kills it or the seconds after which it is killed."""
    child = process(target, *arguments)
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def seed(random):
    """One that does not come twice: of two files with one content an archive keeps one."""
    return int(random.integers(2**63))


def make_scenes(folder, random):
    folder.mkdir()
    for i in range(8):
        write_raster(folder / f"{i}.tif", seed=seed(random))
    write_raster(folder / "large.tif", seed=seed(random), shape=(96, 640))
    (folder / "broken.tif").write_bytes((folder / "0.tif").read_bytes()[:400])


def change_scenes(folder, random):
    """Some files get other content, one is new, sometimes the large one changes too."""
    names = [f"{i}.tif" for i in random.choice(8, 3, replace=False)] + [f"new{seed(random)}.tif"]
    for name in names:
        write_raster(folder / name, seed=seed(random))
    if random.random() < 0.5:
        write_raster(folder / "large.tif", seed=seed(random), shape=(96, 640))


def contents(folder):
    """What the table holds, path to content; files whole, no chip twice."""
    table = ChipTable.open(folder)
    files = table.files()
    assert all(file.chips == file.expected for file in files)
    assert len({file.path for file in files}) == len(files)
    ids = table.dataset.to_table(columns=["chip_id"])["chip_id"].to_pylist()
    assert len(set(ids)) == len(ids) == sum(file.chips for file in files)
    return {file.path: file.content_hash for file in files}


def rows(archive):
    table = ChipTable.open(archive.folder).dataset.to_table().drop_columns(["added", "vector"])
    return sorted(table.to_pylist(), key=lambda row: row["chip_id"])


def vectors(archive):
    stored = {chip: vector for ids, _, block in archive.vectors() for chip, vector in zip(ids, block, strict=True)}
    return np.stack([stored[chip] for chip in sorted(stored)])


def assert_like_twin(archive, scenes, folder):
    """The same rows, vectors and hits as an archive of the same scenes that nobody interrupted."""
    twin = Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    report = twin.add(scenes, sensor=SENSOR, progress=False)
    assert [os.path.basename(path) for path, _ in report.failed] == ["broken.tif"]
    assert rows(archive) == rows(twin)
    np.testing.assert_allclose(vectors(archive), vectors(twin), atol=1e-3)
    assert {hit.chip_id for hit in archive.search("x", 10_000)} == {hit.chip_id for hit in twin.search("x", 10_000)}
    assert archive.verify() == []
    assert list((archive.folder / "unfinished").iterdir()) == []


@pytest.mark.parametrize("wanted", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_after_random_kills_nothing_is_lost_or_doubled(tmp_path, wanted):
    random, scenes, folder = np.random.default_rng(wanted), tmp_path / "scenes", tmp_path / "archive"
    make_scenes(scenes, random)
    Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    Archive.create(tmp_path / "timed", TinyEncoder(), chip=16, stride=16)
    began = time.monotonic()
    assert run(tmp_path / "timed", scenes, tmp_path / "notes", 0)
    whole, calls = time.monotonic() - began, int((tmp_path / "timed" / "calls").read_text())
    kills, held = 0, {}
    while kills < wanted:
        if kills % 2:
            ended = run(folder, scenes, tmp_path / "notes", int(random.integers(1, calls // 2)))
        else:
            ended = run(folder, scenes, tmp_path / "notes", 0, seconds=random.uniform(0, whole))
        kills += not ended
        before, held = held, contents(folder)
        assert set(before) <= set(held)  # what was committed once stays, with its old content or its new
        if ended:
            change_scenes(scenes, random)
    assert run(folder, scenes, tmp_path / "notes", 0)
    assert_like_twin(Archive.open(folder, TinyEncoder()), scenes, tmp_path / "twin")


def killed(target, folder, path, notes, lost):
    """Begin three times, each killed some chips later, where each may lose so many; how often it was so far."""
    kills = 0
    for least in (60, 130, 200):
        child = process(target, folder, path, notes, 0)
        child.start()
        while child.is_alive() and notes.stat().st_size < least + kills * lost:
            time.sleep(0.001)
        child.kill()
        child.join()
        kills += child.exitcode != 0
        yield kills


def test_a_kill_inside_a_large_file_loses_no_more_than_a_part(tmp_path):
    folder, notes, path = tmp_path / "archive", tmp_path / "notes", tmp_path / "large.tif"
    write_raster(path, shape=(96, 640))
    Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    notes.touch()
    lost = PART + 3 * BATCH  # a part that is not full yet, and the batches on their way
    for kills in killed(add, folder, path, notes, lost):
        assert len(ChipTable.open(folder)) in (0, CHIPS), f"after {kills} kills"
    assert kills
    assert run(folder, path, notes, 0)
    assert CHIPS < notes.stat().st_size <= CHIPS + kills * lost
    assert len(ChipTable.open(folder)) == CHIPS


def add_without_commits(folder, scenes, notes, point):
    """Add, with no commit before the end."""
    retrieval.adding.COMMIT_SECONDS = 3600
    Archive.open(folder, Counting(notes)).add(scenes, sensor=SENSOR, progress=False, batch=BATCH)
    assert point == 0


def test_a_kill_among_small_files_loses_no_more_than_the_batches_on_their_way(tmp_path):
    folder, notes, scenes = tmp_path / "archive", tmp_path / "notes", tmp_path / "scenes"
    scenes.mkdir()
    for i in range(40):
        write_raster(scenes / f"{i:02}.tif", seed=i)
    Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    notes.touch()
    lost = 3 * BATCH
    *_, kills = killed(add_without_commits, folder, scenes, notes, lost)
    assert kills
    assert run(folder, scenes, notes, 0, target=add_without_commits)
    assert 240 <= notes.stat().st_size <= 240 + kills * lost
    twin = Archive.create(tmp_path / "twin", TinyEncoder(), chip=16, stride=16)
    twin.add(scenes, sensor=SENSOR, progress=False)
    assert rows(Archive.open(folder, TinyEncoder())) == rows(twin)
    assert list((folder / "unfinished").iterdir()) == []


@pytest.mark.parametrize("wanted", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ["remove", "rebuild", "repair"])
def test_a_killed_change_is_done_or_not_begun(tmp_path, action, wanted):
    random, template, path = np.random.default_rng(wanted), tmp_path / "template", tmp_path / "0.tif"
    archive = Archive.create(template, TinyEncoder(), chip=16, stride=16)
    archive.add([write_raster(path, seed=0), write_raster(tmp_path / "1.tif", seed=1)], sensor=SENSOR, progress=False)
    archive.add(write_raster(tmp_path / "2.tif", seed=2), sensor=SENSOR, progress=False)
    before = archive.search("x", 100)
    if action == "repair":
        manifest = min((template / "chips.lance" / "_versions").glob("*.manifest"))  # the newest
        manifest.write_bytes(manifest.read_bytes()[:50])
    shutil.copytree(template, tmp_path / "done")
    assert run(tmp_path / "done", action, path, 0, target=change)
    after = Archive.open(tmp_path / "done", TinyEncoder()).search("x", 100)
    calls = int((tmp_path / "done" / "calls").read_text())
    for number in range(wanted):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        assert not run(folder, action, path, int(random.integers(1, calls)), target=change)
        if action == "repair":
            Archive.mend(folder)
        archive = Archive.open(folder, TinyEncoder())
        assert archive.search("x", 100) in ([after] if action == "repair" else [before, after])
        assert archive.verify() == []


def add_on_a_full_disk(folder, scenes, notes):
    """Add where no file may grow beyond some bytes, as on a disk that has no more; note how that ends."""
    archive = Archive.open(folder, TinyEncoder())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with notes.open("w") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            archive.add(scenes, sensor=SENSOR, progress=False)
        except ArchiveError as error:
            file.write(str(error))


def test_a_full_disk_is_told_and_leaves_the_archive_as_it_was(tmp_path):
    folder, notes, first = tmp_path / "archive", tmp_path / "notes", write_raster(tmp_path / "first.tif", seed=1)
    make_scenes(tmp_path / "scenes", np.random.default_rng(0))
    archive = Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    archive.add(first, sensor=SENSOR, progress=False)
    before = archive.search("x", 100)
    child = process(add_on_a_full_disk, folder, tmp_path / "scenes", notes)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert "could not be written" in notes.read_text()
    assert "make room" in notes.read_text()
    archive = Archive.open(folder, TinyEncoder())
    assert archive.search("x", 100) == before
    assert archive.verify() == []
    assert archive.add(tmp_path / "scenes", sensor=SENSOR, progress=False).added == 9
