"""An add reads what it must and no more, goes on inside large files, and keeps no stale part of them."""

import os
import shutil
import sqlite3
import threading

import numpy as np
import pytest
from fakes import DIM, Faulty, TinyEncoder, bytes_read, write_raster

import retrieval.intake
import retrieval.reading
from retrieval import Archive
from retrieval.embed import Job, embed_rasters
from retrieval.intake import hash_files, stamp_of
from retrieval.journal import KEEP_SECONDS, EncodedChip, Journal
from retrieval.stamps import STAMPS, Stamps
from retrieval.store import ChipTable
from rsvlm.raster import _File
from rsvlm.scene import Window

SENSOR = "sentinel-2-l2a"
LARGE = (64, 160)  # 40 chips of 16 x 16


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, where a test has no two seconds to wait."""
    monkeypatch.setattr(retrieval.intake, "SETTLED_NS", 0)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("retrieval.journal.PART_CHIPS", 8)
    monkeypatch.setattr("retrieval.journal.PART_SECONDS", 0)


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)


def add(archive, *paths, encoder=None, **options):
    """Add through an archive that was just opened, by a process that knows no hash yet."""
    retrieval.intake._sha256_of.cache_clear()
    opened = Archive.open(archive.folder, encoder or TinyEncoder())
    return opened.add(paths, **{"sensor": SENSOR, "progress": False, "batch": 4, **options})


@pytest.fixture
def block_reads(monkeypatch):
    read, seen = _File.read, []
    monkeypatch.setattr(_File, "read", lambda self, *rest: seen.append(rest[0]) or read(self, *rest))
    return seen


def test_adding_unchanged_files_again_reads_their_hash_or_with_their_stamp_nothing(
    archive, tmp_path, settled, block_reads
):
    paths = [write_raster(tmp_path / f"{i}.tif", seed=i, shape=(512, 512)) for i in range(2)]
    size = sum(path.stat().st_size for path in paths)
    assert size > 4 * 10**6
    config = {"chip": 256, "stride": 256}
    archive = Archive.create(tmp_path / "large chips", TinyEncoder(), **config)
    assert add(archive, *paths).added == 2
    assert block_reads
    block_reads.clear()
    before = bytes_read()
    assert add(archive, *paths).unchanged == 2
    assert bytes_read() - before < size / 20
    (archive.folder / STAMPS).unlink()
    before = bytes_read()
    assert add(archive, *paths).unchanged == 2
    assert size <= bytes_read() - before < 1.05 * size
    assert not block_reads


def test_a_touched_file_is_hashed_again_and_a_changed_one_is_added_again(archive, tmp_path, settled):
    path = write_raster(tmp_path / "a.tif", seed=1)
    assert add(archive, path).added == 1
    os.utime(path, ns=(1, 10**18))
    encoder = Faulty()
    assert add(archive, path, encoder=encoder).unchanged == 1
    assert encoder.encoded == 0
    old = path.stat()
    write_raster(path, seed=2)
    assert path.stat().st_size == old.st_size
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # the time of change of its entry still tells
    assert add(archive, path, encoder=encoder).replaced == 1
    assert len(ChipTable.open(archive.folder)) == encoder.encoded == 6


def test_a_file_that_may_change_within_the_same_tick_gets_no_stamp(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    for settled_after, known in ((10**12, False), (0, True)):
        retrieval.intake.SETTLED_NS, before = settled_after, retrieval.intake.SETTLED_NS
        with Stamps(tmp_path) as stamps:
            hash_files([path], threads=1, progress=False, stamps=stamps)
        retrieval.intake.SETTLED_NS = before
        with Stamps(tmp_path) as stamps:
            assert (stamps.known(path, stamp_of(path)) is not None) == known


def test_a_stamp_that_was_changed_or_is_another_is_not_believed(tmp_path):
    path = tmp_path / "a.bin"
    with Stamps(tmp_path) as stamps:
        stamps.note(path, (1, 2, 3), "ab" * 32)
        assert stamps.known(path, (1, 2, 3)) is None  # kept when it is closed, or after two seconds
    with Stamps(tmp_path) as stamps:
        assert stamps.known(path, (1, 2, 3)) == "ab" * 32
        assert stamps.known(path, (1, 2, 4)) is None
        assert stamps.known(tmp_path / "b.bin", (1, 2, 3)) is None
    with sqlite3.connect(tmp_path / STAMPS) as store:
        store.execute("UPDATE stamps SET digest = ?", ("cd" * 32,))
    with Stamps(tmp_path) as stamps:
        assert stamps.known(path, (1, 2, 3)) is None


@pytest.mark.parametrize("content", [b"", b"nothing like it" * 400, None])
def test_stamps_that_cannot_be_read_are_made_anew(tmp_path, content):
    path = tmp_path / "a.bin"
    if content is None:
        with sqlite3.connect(tmp_path / STAMPS) as store:
            store.execute("CREATE TABLE stamps (other TEXT)")
    else:
        (tmp_path / STAMPS).write_bytes(content)
    for _ in range(2):
        with Stamps(tmp_path) as stamps:
            stamps.note(path, (1,), "ab" * 32)
            assert stamps.known(path, (2,)) is None
    with Stamps(tmp_path) as stamps:
        assert stamps.known(path, (1,)) == "ab" * 32


def test_a_journal_gives_back_what_was_noted_and_only_under_the_same_key(tmp_path):
    random = np.random.default_rng(0)
    chips = {
        place: EncodedChip(Window(place, 2, 16, 9), random.normal(size=DIM).astype(np.float32), 0.5, cloud)
        for place, cloud in ((3, 0.25), (1, None), (7, 0.0))
    }
    chips[9] = EncodedChip(Window(0, 0, 1, 1), np.zeros(0, np.float32), 0.0, None)  # too little of it is valid
    journal = Journal(tmp_path, fingerprint="f", dim=DIM)
    key = journal.key("c" * 64, (16, 16), "bands")
    journal.note(key, [(place, chips[place]) for place in (3, 1)])
    journal.note(key, [(place, chips[place]) for place in (7, 9)])
    found = journal.finished(key)
    assert sorted(found) == [1, 3, 7, 9]
    for place in (1, 3, 7):
        assert (found[place].window, found[place].valid) == (chips[place].window, 0.5)
        assert found[place].cloud == chips[place].cloud
        np.testing.assert_array_equal(found[place].vector, chips[place].vector)
    assert (found[9].valid, found[9].vector.any()) == (0.0, False)
    for other in (journal.key("c" * 64, (16, 8), "bands"), journal.key("d" * 64, (16, 16), "bands")):
        assert journal.finished(other) == {}
    assert Journal(tmp_path, fingerprint="g", dim=DIM).key("c" * 64, (16, 16), "bands") != key
    journal.forget(["d" * 64])
    assert len(journal.finished(key)) == 4
    journal.forget(["c" * 64])
    assert journal.finished(key) == {}


def test_a_damaged_part_is_passed_over_and_an_old_one_dropped(tmp_path):
    journal = Journal(tmp_path, fingerprint="f", dim=DIM)
    chip, key = EncodedChip(Window(0, 0, 16, 16), np.ones(DIM, np.float32), 1.0, None), journal.key("c" * 64)
    for place in range(4):
        journal.note(key, [(place, chip)])
    first, second, third, _ = sorted((tmp_path / "unfinished" / key).iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    third.write_bytes(third.read_bytes()[:-4] + b"\0\0\0\1")
    assert len(journal.finished(key)) == 1
    journal.prune()
    assert len(journal.finished(key)) == 1
    long_ago = first.stat().st_mtime - KEEP_SECONDS - 60
    os.utime(tmp_path / "unfinished" / key, (long_ago, long_ago))
    journal.prune()
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_an_interrupted_file_goes_on_where_it_was_though_a_copy_of_it_is_left(archive, tmp_path, small_parts):
    path = write_raster(tmp_path / "large.tif", shape=LARGE)
    copy = shutil.copy(path, tmp_path / "other.tif")
    with pytest.raises(ZeroDivisionError):
        add(archive, path, copy, encoder=Faulty(28, fault=ZeroDivisionError))
    encoder = Faulty()
    report = add(archive, path, copy, encoder=encoder)
    assert (report.added, report.unchanged) == (1, 1)
    assert encoder.encoded <= 40 - 16  # of 28 chips, those in whole parts of 8 were kept


def test_what_a_kill_right_behind_the_commit_left_in_the_journal_goes_with_the_next_add(
    archive, tmp_path, small_parts, monkeypatch
):
    path, small = write_raster(tmp_path / "large.tif", shape=LARGE), write_raster(tmp_path / "small.tif", seed=1)
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "forget", lambda journal, hashes: None)
        killed.setattr(Journal, "prune", lambda journal: None)
        assert add(archive, path, small).added == 2
    assert len(list((archive.folder / "unfinished").iterdir())) == 2
    assert add(archive, path, small).unchanged == 2
    assert list((archive.folder / "unfinished").iterdir()) == []


def interrupted(archive, path, chips=28):
    with pytest.raises(ZeroDivisionError):
        add(archive, path, encoder=Faulty(chips, fault=ZeroDivisionError))


def test_an_add_goes_on_inside_a_large_file_and_ends_like_one_that_was_never_interrupted(
    archive, tmp_path, small_parts, block_reads
):
    path, encoder = write_raster(tmp_path / "large.tif", shape=LARGE), Faulty()
    add(archive, path, encoder=encoder)
    assert encoder.encoded == 40
    whole, rows_read = archive_rows(archive), sum(window.height for window in block_reads)
    again = Archive.create(tmp_path / "again", TinyEncoder(), chip=16, stride=16)
    interrupted(again, path)
    assert len(ChipTable.open(again.folder)) == 0
    block_reads.clear()
    encoder = Faulty()
    assert add(again, path, encoder=encoder).added == 1
    assert 12 <= encoder.encoded <= 40 - 16  # of 28 chips, those in whole parts of 8 were kept
    assert sum(window.height for window in block_reads) < rows_read == 64
    assert list((again.folder / "unfinished").iterdir()) == []
    rows = archive_rows(again)
    vectors, expected = ([row.pop("vector") for row in each] for each in (rows, whole))
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    assert rows == whole
    assert again.verify() == []


def archive_rows(archive):
    rows = ChipTable.open(archive.folder).dataset.to_table().drop_columns(["added"]).to_pylist()
    return sorted(rows, key=lambda row: row["chip_id"])


def test_a_file_whose_every_chip_was_kept_needs_no_reading(archive, tmp_path, small_parts, block_reads, monkeypatch):
    path = write_raster(tmp_path / "large.tif", shape=LARGE)
    with monkeypatch.context() as killed:  # before its commit
        killed.setattr("retrieval.adding.Adding.take", lambda self, item, result: None)
        add(archive, path)
    encoder, count = Faulty(), len(block_reads)
    assert add(archive, path, encoder=encoder).chips == 40
    assert (encoder.encoded, count) == (0, len(block_reads))


@pytest.mark.parametrize("changed", ["content", "sensor", "bands", "chips"])
def test_parts_of_another_content_sensor_or_layout_are_not_taken(archive, tmp_path, small_parts, changed):
    path, sensor = write_raster(tmp_path / "large.tif", shape=LARGE), SENSOR
    interrupted(archive, path)
    if changed == "content":
        write_raster(path, seed=9, shape=LARGE)
    elif changed == "sensor":
        sensor = "sentinel-2-l1c"
    elif changed == "bands":  # an item beside the image that tells another scale
        (tmp_path / "large.json").write_text(
            '{"type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": null, "links": [], "properties": {},'
            ' "assets": {"a": {"href": "large.tif", "raster:bands": ['
            + ", ".join(['{"scale": 0.0002, "offset": 0.0}'] * 4)
            + "]}}}"
        )
    else:
        journals = archive.folder / "unfinished"
        archive = Archive.create(tmp_path / "other", TinyEncoder(), chip=16, stride=15)
        shutil.copytree(journals, archive.folder / "unfinished")
    encoder = Faulty()
    assert add(archive, path, encoder=encoder, sensor=sensor).added == 1
    assert encoder.encoded == len(ChipTable.open(archive.folder)) >= 40


def test_results_out_of_order_do_not_wait_for_a_large_file(tmp_path, monkeypatch):
    large = write_raster(tmp_path / "large.tif", shape=LARGE)
    small = [write_raster(tmp_path / f"{i}.tif", seed=i) for i in range(5)]
    jobs = [Job(path, SENSOR) for path in (large, *small)]
    size = {"chip": 16, "stride": 16, "batch": 6}
    in_order = list(embed_rasters(jobs, TinyEncoder(), **size))
    assert [result.job for result in in_order] == jobs
    read, others_done = retrieval.reading.read_part, threading.Event()

    def held_back(raster, *rest):
        assert raster.path != large or others_done.wait(60)
        return read(raster, *rest)

    monkeypatch.setattr(retrieval.reading, "read_part", held_back)
    as_finished = []
    for result in embed_rasters(jobs, TinyEncoder(), **size, in_order=False):
        as_finished.append(result)
        if len(as_finished) == len(small):
            others_done.set()
    assert as_finished[-1].job == jobs[0]
    for result in as_finished:
        expected = in_order[jobs.index(result.job)]
        assert result.windows == expected.windows
        np.testing.assert_allclose(result.vectors, expected.vectors, atol=1e-5)


def logged(folder):
    """A log of six chips of two small files, in three batches, and what is in it by key."""
    folder.mkdir()
    journal = Journal(folder, fingerprint="f", dim=DIM, logs=True)
    random = np.random.default_rng(0)
    keys = [journal.key(letter * 64, "bands") for letter in "ab"]
    chips = {
        key: {
            place: EncodedChip(
                Window(0, 16 * place, 16, 16), random.random(DIM, np.float32), 0.5, (None, 0.25)[place % 2]
            )
            for place in range(3)
        }
        for key in keys
    }
    for place in range(3):
        journal.log((key, place, chips[key][place]) for key in keys)
    return journal, keys, chips


def same(found, expected):
    assert found.keys() == expected.keys()
    for place, chip in found.items():
        assert (chip.window, chip.valid, chip.cloud) == (expected[place].window, 0.5, expected[place].cloud)
        np.testing.assert_array_equal(chip.vector, expected[place].vector)


def test_a_log_gives_back_what_a_killed_run_wrote_and_keeps_it_until_it_is_committed(tmp_path):
    journal, (first, second), chips = logged(tmp_path / "archive")
    assert journal.finished(first) == {}  # of this run nothing is read twice
    for _ in range(2):  # killed again before it wrote anything
        again = Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True)
        same(again.finished(first), chips[first])
        same(again.finished(second), chips[second])
    again.forget(["a" * 64])
    third = Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True)
    assert third.finished(first) == {}
    same(third.finished(second), chips[second])
    third.prune()
    assert Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True).finished(second) == {}


def test_a_torn_or_damaged_log_gives_back_its_sound_rows(tmp_path):
    _, (first, second), chips = logged(tmp_path / "archive")
    path = tmp_path / "archive" / "unfinished" / "small.log"
    raw = path.read_bytes()
    row = len(raw) // 6
    path.write_bytes(raw[: 5 * row + row // 2])  # the last row is torn
    found = Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True)
    same(found.finished(first), chips[first])
    same(found.finished(second), {place: chips[second][place] for place in (0, 1)})
    found.log([(second, 2, chips[second][2])])
    same(Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True).finished(second), chips[second])
    for byte in range(0, 2 * row, 7):
        damaged = bytearray(raw)
        damaged[byte] ^= 4
        path.write_bytes(bytes(damaged))
        found = Journal(tmp_path / "archive", fingerprint="f", dim=DIM, logs=True)
        lost, other = (first, second)[byte // row], (second, first)[byte // row]
        assert found.finished(other).keys() == {0, 1, 2}
        same(found.finished(lost), {place: chips[lost][place] for place in (1, 2)})


def test_a_log_of_another_encoder_is_not_taken(tmp_path):
    _, (first, _), _ = logged(tmp_path / "archive")
    for options in ({"fingerprint": "g", "dim": DIM}, {"fingerprint": "f", "dim": DIM + 1}):
        other = Journal(tmp_path / "archive", logs=True, **options)
        assert other.finished(other.key("a" * 64, "bands")) == {}
    assert first


def test_files_are_looked_up_by_path_and_by_content_as_in_the_list_of_all(archive, tmp_path, monkeypatch):
    paths = [write_raster(tmp_path / f"it's {i}.tif", seed=i) for i in range(5)]
    add(archive, *paths)
    table = ChipTable.open(archive.folder)
    everything = table.files()
    assert [file.path for file in everything] == [str(path) for path in paths]
    wanted = (paths[1:3], [everything[4].content_hash, "0" * 64])
    for most in (2048, 1):
        monkeypatch.setattr("retrieval.store.MANY_NAMES", most)
        assert table.files(*wanted) == [everything[1], everything[2], everything[4]]
        assert table.files(paths[:1]) == everything[:1]
        assert table.files(hashes=[everything[3].content_hash]) == [everything[3]]
        assert table.files(["/none"], ["0"]) == []
