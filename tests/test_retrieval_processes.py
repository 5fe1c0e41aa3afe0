"""The processes of a launch add together what one would, and none waits for one that is gone."""

from dataclasses import replace

import pytest
from fakes import TinyEncoder, write_scenes
from launches import LAUNCHES, launch

from retrieval import Archive
from retrieval.folder import locked
from retrieval.store import ChipTable

SENSOR = "sentinel-2-l2a"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 12)


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)


def rows(folder):
    """Every row but the moment it was added, by chip; vectors depend on the batch in their last digits."""
    table = ChipTable.open(folder).dataset.to_table().drop_columns(["added", "vector"])
    return sorted(table.to_pylist(), key=lambda row: row["chip_id"])


def test_two_processes_add_what_one_would_in_one_commit(archive, scenes, tmp_path):
    twin = Archive.create(tmp_path / "twin", TinyEncoder(), chip=16, stride=16)
    report, before = twin.add(scenes, sensor=SENSOR, progress=False), ChipTable.open(archive.folder).version
    run = launch(LAUNCHES, "add", scenes, archive.folder, "none", archive.folder, "none")
    assert run.returncode == 0, run.stderr
    again = replace(report, added=0, unchanged=12, chips=0)
    told = sorted(run.stdout.splitlines())
    assert told == [*sorted([f"process 0: {report}", f"process 0: {again}"]), "process 1: None", "process 1: None"]
    assert rows(archive.folder) == rows(twin.folder)
    assert ChipTable.open(archive.folder).dataset.checkout_version(before + 1).count_rows() == 72
    found = Archive.open(archive.folder, TinyEncoder()).search("x", 100)
    assert {hit.chip_id for hit in found} == {hit.chip_id for hit in twin.search("x", 100)}
    assert Archive.open(archive.folder).verify() == []


def test_a_launch_of_which_one_process_was_killed_goes_on_where_it_was(archive, scenes, tmp_path):
    run = launch(LAUNCHES, "add", scenes, archive.folder, "death")
    assert run.returncode != 0
    assert len(ChipTable.open(archive.folder)) == 0
    finished = {path.stem for path in archive.folder.glob("staging/*/*.json")}
    begun = {path.stem for path in archive.folder.glob("staging/*/*.attempts")}
    assert len(begun - finished) == 1  # where one died; the other was well, and left its unit in order
    run = launch(LAUNCHES, "add", scenes, archive.folder, "none")
    assert run.returncode == 0, run.stderr
    assert finished
    twin = Archive.create(tmp_path / "twin", TinyEncoder(), chip=16, stride=16)
    twin.add(scenes, sensor=SENSOR, progress=False)
    assert rows(archive.folder) == rows(twin.folder)
    assert not (archive.folder / "staging").exists()


def test_what_one_process_refuses_ends_all_of_them_with_a_sentence(archive, scenes, tmp_path):
    locked_one = Archive.create(tmp_path / "locked", TinyEncoder(), chip=16, stride=16).folder
    with locked(locked_one):
        run = launch(LAUNCHES, "add", scenes, locked_one, "none", archive.folder, "other")
    assert run.returncode != 0
    assert f"said: another process is writing to {locked_one}; " in run.stderr
    assert "said: the archive was made with encoder tiny-0, workers have tiny-1; give the workers" in run.stderr
    assert len(ChipTable.open(locked_one)) == len(ChipTable.open(archive.folder)) == 0


def test_the_command_adds_in_a_launch_with_the_embedded_encoder(scenes, tmp_path):
    folder = tmp_path / "archive"
    run = launch("-m", "rsvlm", "index", "add", folder, scenes, "--sensor", SENSOR, "--chip", 32, "--shared")
    assert "12 added, 0 replaced, 0 unchanged, 1 failed; 24 new chips, 24 in" in run.stderr
    assert run.stderr.count("12 added") == 1
    assert run.returncode != 0  # of one image that failed
    assert len(Archive.open(folder)) == 24
