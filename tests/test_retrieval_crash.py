"""Whatever is damaged or killed, an archive serves what is right or says what is wrong."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes import DIM, TinyEncoder, write_raster

from retrieval import Archive
from retrieval.exchange import export_stac
from retrieval.index import build_index
from retrieval.servers import export_vectors
from retrieval.store import TABLE, ChipTable
from retrieval.sums import note_files
from rsvlm.errors import ArchiveError

SENSOR = "sentinel-2-l2a"
KILLED_ADD = """
import os, signal, sys, threading, time
import retrieval.adding
from retrieval import Archive
from fakes import TinyEncoder
folder, scenes, commits = sys.argv[1], sys.argv[2], int(sys.argv[3])
retrieval.adding.COMMIT_CHIPS, retrieval.adding.COMMIT_PAUSE = 1, 0
versions = os.path.join(folder, "chips.lance", "_versions")
def manifests():
    return sum(name.endswith(".manifest") for name in os.listdir(versions))
archive = Archive.open(folder, TinyEncoder())
before = manifests()
def kill():
    while manifests() < before + commits:
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
archive.add(scenes, sensor="sentinel-2-l2a", progress=False)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(12):
        write_raster(folder / f"{i:02d}.tif", seed=i)
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory, scenes):
    made = Archive.create(tmp_path_factory.mktemp("template") / "archive", TinyEncoder(), chip=16, stride=16)
    for number in ("00", "01", "02"):
        made.add(scenes / f"{number}.tif", sensor=SENSOR, progress=False)
    return made.folder


@pytest.fixture
def archive(tmp_path, template):
    shutil.copytree(template, tmp_path / "archive")
    return Archive.open(tmp_path / "archive", TinyEncoder())


def reopened(archive):
    return Archive.open(archive.folder, TinyEncoder())


def index_files(archive):
    return sorted((archive.folder / "index").iterdir())


@pytest.mark.parametrize("kills", [(3,), pytest.param((2, 5), marks=pytest.mark.slow)])
def test_a_killed_add_goes_on_where_it_was(tmp_path, scenes, kills):
    folder = tmp_path / "archive"
    Archive.create(folder, TinyEncoder(), chip=16, stride=16)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    acknowledged: set[str] = set()
    for commits in kills:
        command = [sys.executable, "-c", KILLED_ADD, str(folder), str(scenes), str(commits)]
        assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
        archive = Archive.open(folder, TinyEncoder())
        files = archive._generation.table.files()
        assert all(file.chips == file.expected == 6 for file in files)
        assert acknowledged <= {file.path for file in files}
        assert len(acknowledged) < len(files) < 12
        acknowledged = {file.path for file in files}
        assert len(archive.search("x", 100)) == 6 * len(files)
    report = archive.add(scenes, sensor=SENSOR, progress=False)
    assert (report.added, report.unchanged) == (12 - len(files), len(files))
    assert len(archive) == len({hit.chip_id for hit in archive.search("x", 100)}) == 72
    assert archive.verify() == []


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def zero(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, zero, flip, remove])
@pytest.mark.parametrize("suffix", [".faiss", ".json"])
def test_a_damaged_index_is_rebuilt_and_never_served(archive, damage, suffix):
    before = archive.search("x", 18)
    (target,) = [path for path in index_files(archive) if path.suffix == suffix]
    damage(target)
    assert any("index" in problem for problem in archive.verify())
    assert reopened(archive).search("x", 18) == before
    assert archive.verify() == []


@pytest.mark.parametrize(
    ("key", "value"), [("fingerprint", "0" * 64), ("rows", 17), ("format_version", 99), ("dim", 8)]
)
def test_an_index_built_from_something_else_is_rebuilt(archive, key, value):
    before = archive.search("x", 18)
    (manifest,) = [path for path in index_files(archive) if path.suffix == ".json"]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), key: value}))
    assert key in archive.verify()[0]
    assert reopened(archive).search("x", 18) == before
    assert archive.verify() == []


def test_an_index_of_another_archive_is_not_served(archive, tmp_path, scenes):
    other = Archive.create(tmp_path / "other", TinyEncoder(), chip=16, stride=16)
    for number in ("07", "08", "09"):
        other.add(scenes / f"{number}.tif", sensor=SENSOR, progress=False)
    before = archive.search("x", 18)
    ours, theirs = ([path for path in index_files(each) if path.suffix == ".faiss"] for each in (archive, other))
    for mine, foreign in zip(ours, theirs, strict=True):
        assert mine.stat().st_size == foreign.stat().st_size
        mine.write_bytes(foreign.read_bytes())
    assert reopened(archive).search("x", 18) == before


def test_an_index_that_cannot_be_kept_is_still_searched(archive):
    before = archive.search("x", 18)
    for path in index_files(archive):
        path.unlink()
    (archive.folder / "index").rmdir()
    (archive.folder / "index").write_text("in the way")
    assert reopened(archive).search("x", 18) == before


def test_only_the_index_of_the_newest_version_stays(archive):
    assert len(index_files(archive)) == 2
    assert {path.stem.split("-")[0] for path in index_files(archive)} == {str(archive._generation.table.version)}


def data_files(archive):
    return sorted((archive.folder / TABLE / "data").iterdir())


def test_an_unreadable_part_of_the_table_is_told_and_left_out_by_repair(archive, scenes):
    for path in index_files(archive):
        path.unlink()
    zero(data_files(archive)[1])
    assert "1 of 3 parts" in archive.verify()[0]
    with pytest.raises(ArchiveError, match="rsvlm index repair"):
        reopened(archive).search("x")
    report = archive.repair()
    assert any("left out 1" in action for action in report.actions)
    assert archive.verify() == []
    assert len(archive.search("x", 100)) == 12
    assert archive.add(scenes, sensor=SENSOR, progress=False).added == 10
    assert len(archive) == 72


def test_a_table_cut_in_half_is_told_everywhere_and_repair_says_that_all_is_lost(archive, scenes):
    for path in data_files(archive):
        truncate(path)
    cut = reopened(archive)
    for read in (cut.info, lambda: cut.chip("x"), lambda: cut.add(scenes, sensor=SENSOR, progress=False)):
        with pytest.raises(ArchiveError, match="rsvlm index repair"):
            read()
    report = archive.repair()
    assert any("left out 3" in action for action in report.actions)
    assert "every file" in report.lost[0]
    assert archive.info()["chips"] == 0


def test_an_unreadable_newest_version_is_told_and_gone_back_over(archive):
    manifests = sorted((archive.folder / TABLE / "_versions").glob("*.manifest"))
    truncate(manifests[0])
    with pytest.raises(ArchiveError, match="rsvlm index repair"):
        Archive.open(archive.folder)
    report = Archive.mend(archive.folder)
    assert "1 unreadable version" in report.actions[0]
    assert len(reopened(archive).search("x", 100)) == 12
    assert reopened(archive).verify() == []


def test_files_with_missing_or_damaged_chips_are_told_and_forgotten(archive, scenes):
    dataset = ChipTable.open(archive.folder).dataset
    dataset.delete(f"path = '{scenes}/00.tif' AND row = 0 AND col = 0")
    dataset.update({"vector": "[" + ",".join(["0.5"] * DIM) + "]"}, where=f"path = '{scenes}/01.tif' AND row = 0")
    problems = archive.verify()
    assert f"{scenes}/00.tif: 5 chips are there, 6 are expected" in problems
    assert f"{scenes}/01.tif: a vector of it is damaged" in problems
    assert archive.repair().lost == (f"{scenes}/00.tif", f"{scenes}/01.tif")
    assert archive.verify() == []
    assert archive.add(scenes / "00.tif", sensor=SENSOR, progress=False).added == 1
    assert len(archive) == 12


@pytest.mark.parametrize("instead", [False, True])
def test_a_chip_that_is_there_twice_is_told(archive, instead):
    import lance

    dataset = ChipTable.open(archive.folder).dataset
    first, second = dataset.to_table(limit=2).slice(0, 1), dataset.to_table(limit=2).slice(1, 1)
    if instead:  # of another of the same file, so that their number is right
        dataset.delete(f"chip_id = '{second['chip_id'][0].as_py()}'")
    lance.write_dataset(first, dataset.uri, mode="append")
    said = "a chip of it is there twice" if instead else "7 chips are there, 6 are expected"
    assert [problem.split(": ")[1] for problem in archive.verify()] == [said]
    archive.repair()
    assert archive.verify() == []
    assert len(archive.search("x", 100)) == 12


def test_a_newer_format_and_a_foreign_table_are_refused(archive, tmp_path):
    import lance
    import pyarrow as pa

    dataset = ChipTable.open(archive.folder).dataset
    plain = json.loads(dataset.schema.metadata[b"rsvlm"])
    dataset.update_schema_metadata({"rsvlm": json.dumps({**plain, "format_version": 2})}, replace=True)
    with pytest.raises(ArchiveError, match=r"format 2.*update rsvlm"):
        Archive.open(archive.folder)
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "foreign" / TABLE))
    with pytest.raises(ArchiveError, match="no rsvlm archive wrote"):
        Archive.open(tmp_path / "foreign")


def test_many_small_adds_are_joined_and_stay_searchable(archive, scenes, monkeypatch):
    monkeypatch.setattr("retrieval.store.MANY_FRAGMENTS", 3)
    archive.remove(scenes / "01.tif")
    for number in ("03", "04", "05"):
        archive.add(scenes / f"{number}.tif", sensor=SENSOR, progress=False)
    assert len(archive._generation.table.dataset.get_fragments()) < 4
    assert archive.verify() == []
    hits = archive.search(np.ones(DIM), 100, where="row == 16")
    assert len(hits) == 15
    assert {hit.window.row for hit in hits} == {16}


def test_a_repair_keeps_the_kind_and_the_recall_that_were_asked_for(archive):
    archive.build_index("hnsw", recall=0.9)
    flip(index_files(archive)[0])
    archive.repair()
    facts = archive.info()["index"]
    assert (facts["asked"], facts["target_recall"]) == ("hnsw", 0.9)
    assert {segment["kind"] for segment in facts["segments"]} == {"hnsw"}


def test_two_that_build_the_same_index_at_once_do_not_spoil_each_others(archive):
    table = ChipTable.open(archive.folder)
    segments = [build_index(table, archive.folder, kind="hnsw").segments[0] for _ in range(2)]
    assert segments[0].facts.file != segments[1].facts.file
    assert [segment.problem() for segment in segments] == [None, None]


@pytest.mark.parametrize("give", [export_stac, lambda archive, out: export_vectors(archive, None, name="never asked")])
def test_what_was_damaged_is_not_given_out(archive, tmp_path, give):
    flip(data_files(archive)[0])
    with pytest.raises(ArchiveError, match="rsvlm index repair"):
        give(archive, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def written_by_newer_lance(manifest):
    """Set a flag in a manifest that no Lance of today knows: 2**40 in field 9, of what a reader must understand."""
    raw = manifest.read_bytes()
    (start,) = struct.unpack("<Q", raw[-16:-8])
    message = raw[start + 4 : -16] + bytes([9 << 3, *[0x80] * 5, 0x20])
    manifest.write_bytes(raw[:start] + struct.pack("<I", len(message)) + message + raw[-16:])


@pytest.mark.parametrize("noted", [True, False])
def test_a_table_of_a_newer_lance_is_told_and_repair_leaves_it_alone(archive, noted):
    folder = archive.folder / TABLE / "_versions"
    newest = min(folder.glob("*.manifest"))
    written_by_newer_lance(newest)
    if noted:
        (archive.folder / "sums.json").unlink()
        note_files(archive.folder, archive.folder / TABLE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if noted:
        with pytest.raises(ArchiveError, match="newer Lance; run `pip install -U pylance`"):
            reopened(archive)
    with pytest.raises(ArchiveError, match="newer Lance"):
        Archive.mend(archive.folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError("Too many open files (os error 24)")]
)
def test_a_repair_of_what_may_not_be_read_changes_nothing(archive, monkeypatch, error):
    before = {path: path.read_bytes() for path in (archive.folder / TABLE).rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("retrieval.address.TableAddress.dataset", lambda self: (_ for _ in ()).throw(error))
        with pytest.raises(ArchiveError, match="may not be read"):
            Archive.mend(archive.folder)
    assert {path: path.read_bytes() for path in (archive.folder / TABLE).rglob("*") if path.is_file()} == before
    assert reopened(archive).verify() == []


@pytest.mark.parametrize("number", [13, 24])
def test_a_file_of_the_table_that_may_not_be_read_is_no_damage(archive, monkeypatch, number):
    before, opened = len(archive), Path.open

    def refused(self, *args, **options):
        if self.parent.name == "data":
            raise OSError(number, os.strerror(number))
        return opened(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        with pytest.raises(ArchiveError, match="may not be read"):
            Archive.mend(archive.folder)
    assert (len(reopened(archive)), reopened(archive).verify()) == (before, [])


def test_a_version_that_follows_keeps_the_parts_of_the_index_that_are_in_memory(archive, scenes):
    reader = reopened(archive)
    reader.search("x")
    first = {segment.facts.file: segment.index for segment in reader._generation.index.segments}
    archive.build_index("hnsw")
    archive.remove(scenes / "00.tif")
    reader.refresh()
    assert reader.search("x", 18) == reopened(archive).search("x", 18)
    second = {segment.facts.file: segment.index for segment in reader._generation.index.segments}
    archive.annotate(pa.table({"path": [str(scenes / "01.tif")], "crop": ["maize"]}))
    reader.refresh()
    assert reader.search("x", 18) == reopened(archive).search("x", 18)
    third = {segment.facts.file: segment.index for segment in reader._generation.index.segments}
    assert first.keys().isdisjoint(second)
    assert third.keys() & second.keys()
    assert all(third[name] is second[name] for name in third.keys() & second.keys())


def test_a_reader_of_a_version_without_an_index_searches_it_and_writes_none(archive, scenes, monkeypatch):
    reader = reopened(archive)
    reader.search("x")
    with monkeypatch.context() as patch:  # as in the middle of an add: committed, not indexed yet
        patch.setattr(Archive, "_extend_index", lambda self, previous: None)
        archive.add(scenes / "05.tif", sensor=SENSOR, progress=False)
    files = index_files(archive)
    reader.refresh()
    assert len(reader.search("x", 100)) == len(archive)
    assert index_files(archive) == files
