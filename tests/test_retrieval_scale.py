"""Many workers add what one would, once, whoever of them is killed; a table may lie at any URI Lance knows."""

import json
import os
import shutil
import signal
import sys

import lance
import numpy as np
import pytest
from fakes import TinyEncoder, write_raster, write_scenes

from retrieval import Archive, scale
from retrieval.address import TableAddress
from retrieval.cluster import Pool, UnitWorker
from retrieval.embed import embed_rasters
from retrieval.parts import Part, commit_parts, fragments_whole, outdated_rows, write_rows
from retrieval.scale import add_on, task_for
from retrieval.schema import schema_for
from retrieval.store import ChipTable, Stored
from retrieval.units import embed_unit, in_units, staged_parts
from rsvlm.errors import ArchiveError, FingerprintError, QueryError
from rsvlm.sensors import find_sensor

SENSOR = "sentinel-2-l2a"
FILES = 12


class MortalEncoder(TinyEncoder):
    """The tiny encoder, whose process is killed once, after its second batch, by its own hand."""

    def __init__(self, marker):
        super().__init__()
        self.marker = marker

    def embed(self, pixels, valid, bands):
        vectors = super().embed(pixels, valid, bands)
        if len(self.batches) == 2:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return vectors
            os.kill(os.getpid(), signal.SIGKILL)
        return vectors


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), FILES)


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)


@pytest.fixture
def in_process(monkeypatch):
    """Units done one after the other by one worker object, through the same JSON that Ray carries."""
    done = []

    def run(pool, units, task, *, progress):
        worker = UnitWorker(task, pool.load)
        for unit in units:
            row = worker({"unit": np.array([json.dumps(unit)])})
            done.append(unit)
            assert row["refusal"] == [""]
            yield Part.from_json(row["part"][0])

    monkeypatch.setattr(Pool, "run", lambda *a, **k: list(run(*a, **k)))
    return done


def table_rows(folder):
    """Every row but the moment it was added, by chip."""
    rows = ChipTable.open(folder).dataset.to_table().drop_columns(["added"]).to_pylist()
    return sorted(rows, key=lambda row: row["chip_id"])


def twin(tmp_path, scenes):
    """What one process makes of the same files."""
    made = Archive.create(tmp_path / "twin", TinyEncoder(), chip=16, stride=16)
    report = made.add(scenes, sensor=SENSOR, progress=False)
    return table_rows(made.folder), report


def add(archive, *paths, workers=2):
    return add_on(Pool(TinyEncoder, workers=workers), archive, paths, sensor=SENSOR, progress=False)


def test_units_of_many_workers_make_the_rows_of_one_in_one_commit(archive, scenes, tmp_path, in_process):
    before = ChipTable.open(archive.folder).version
    report = add(archive, scenes)
    rows, expected = twin(tmp_path, scenes)
    assert table_rows(archive.folder) == rows
    assert report == expected
    assert (report.added, len(report.failed)) == (FILES, 1)
    versions = [v["version"] for v in ChipTable.open(archive.folder).dataset.versions() if v["version"] > before]
    assert versions[0] == before + 1
    assert len(lance.dataset(str(archive.folder / "chips.lance"), version=before + 1).to_table()) == len(rows)
    assert archive.verify() == []
    assert not (archive.folder / "staging").exists()
    assert len(in_process) > 4


def test_adding_again_and_adding_changed_files_is_as_with_one_process(archive, scenes, tmp_path, in_process):
    folder = tmp_path / "copy"
    shutil.copytree(scenes, folder)
    alone = Archive.create(tmp_path / "twin", TinyEncoder(), chip=16, stride=16)

    def both():
        reports = add(archive, folder), alone.add(folder, sensor=SENSOR, progress=False)
        assert table_rows(archive.folder) == table_rows(alone.folder)
        assert archive.verify() == []
        assert reports[0] == reports[1]
        return reports[0]

    assert both().added == FILES
    units = len(in_process)
    assert both().unchanged == FILES
    assert len(in_process) == units + 1  # the broken file alone
    write_raster(folder / "03.tif", seed=99)
    assert (both().replaced, len(archive)) == (1, 6 * FILES)
    shutil.copy(folder / "04.tif", folder / "05.tif")
    assert (both().replaced, len(archive)) == (1, 6 * (FILES - 1))
    first, second = (folder / "00.tif").read_bytes(), (folder / "01.tif").read_bytes()
    (folder / "00.tif").write_bytes(second)
    (folder / "01.tif").write_bytes(first)
    assert (both().replaced, len(archive)) == (2, 6 * (FILES - 1))
    (folder / "06.tif").write_bytes(b"II*\0 broken now")
    assert len(both().failed) == 2
    assert len(archive) == 6 * (FILES - 1)


def units_of(archive, scenes, workers=1):
    from retrieval.intake import hash_files

    hashes, _ = hash_files(sorted(scenes.glob("*.tif")), threads=1, progress=False)
    return in_units([(str(path), digest) for path, digest in hashes.items()], workers)


def test_a_unit_done_twice_is_written_once(archive, scenes):
    task = task_for(archive, ChipTable.open(archive.folder), find_sensor(SENSOR))
    unit, encoder = units_of(archive, scenes)[0], TinyEncoder()
    first = embed_unit(unit, task, encoder)
    batches = len(encoder.batches)
    assert embed_unit(unit, task, encoder) == first
    assert len(encoder.batches) == batches
    task.record(unit).unlink()  # killed after the fragment was written and before that was noted
    again = embed_unit(unit, task, encoder)
    assert again.fragments != first.fragments
    assert again.contents == first.contents


def test_a_run_that_was_killed_before_its_commit_goes_on(archive, scenes, tmp_path, in_process):
    task = task_for(archive, ChipTable.open(archive.folder), find_sensor(SENSOR))
    units = units_of(archive, scenes, workers=1)
    for unit in units[:2]:
        embed_unit(unit, task, TinyEncoder())
    assert len(Archive.open(archive.folder)) == 0
    finished = {path for unit in units[:2] for path, _ in unit}
    report = add(archive, scenes, workers=3)  # cut into other units than before
    assert finished.isdisjoint(path for unit in in_process for path, _ in unit)
    assert table_rows(archive.folder) == twin(tmp_path, scenes)[0]
    assert (report.added, report.chips) == (FILES, 6 * FILES)
    assert archive.verify() == []


def damage_record(record, folder):
    record.write_text(record.read_text()[:40])


def damage_fragment(record, folder):
    for path in (folder / "chips.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:100])


def remove_fragment(record, folder):
    for path in (folder / "chips.lance" / "data").iterdir():
        path.unlink()


@pytest.mark.parametrize("damage", [damage_record, damage_fragment, remove_fragment])
def test_a_staged_part_that_is_not_whole_is_done_again(archive, scenes, tmp_path, in_process, damage):
    task = task_for(archive, ChipTable.open(archive.folder), find_sensor(SENSOR))
    unit = units_of(archive, scenes)[0]
    embed_unit(unit, task, TinyEncoder())
    damage(task.record(unit), archive.folder)
    add(archive, scenes)
    assert table_rows(archive.folder) == twin(tmp_path, scenes)[0]
    assert archive.verify() == []


def test_a_part_that_is_committed_already_is_not_taken_again(archive, scenes):
    table = ChipTable.open(archive.folder)
    task = task_for(archive, table, find_sensor(SENSOR))
    unit = units_of(archive, scenes)[0]
    part = embed_unit(unit, task, TinyEncoder())
    assert staged_parts(task, table, unit) == [part]
    assert staged_parts(task, table, unit[1:]) == []  # a file of it is not wanted any more
    part = embed_unit(unit, task, TinyEncoder())
    commit_parts(table, part.fragments)
    assert staged_parts(task, table, unit) == []
    assert not task.record(unit).exists()


def test_a_file_that_two_parts_hold_is_never_committed(archive, scenes):
    table = ChipTable.open(archive.folder)
    part = embed_unit(units_of(archive, scenes)[0], task_for(archive, table, find_sensor(SENSOR)), TinyEncoder())
    with pytest.raises(ArchiveError, match="embedded twice"):
        scale.finish(table, [], [part, part])
    assert len(ChipTable.open(archive.folder)) == 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_that_kills_every_worker_is_found_and_passed_over(archive, scenes, count):
    """A worker that dies is one that raises here: neither leaves a record."""
    task = task_for(archive, ChipTable.open(archive.folder), find_sensor(SENSOR))
    work = [content for unit in units_of(archive, scenes) for content in unit]
    unit, deadly = tuple(work[:count]), work[count - 1][0]

    class Death(BaseException):
        pass

    class Deadly(TinyEncoder):
        def embed(self, pixels, valid, bands):
            raise Death

    attempts = 0
    for _ in range(2):  # a whole unit at once, in which nobody can tell which file it was
        with pytest.raises(Death):
            embed_unit(unit, task, Deadly())
        attempts += 1

    def rasters(jobs, encoder, **options):
        yield from embed_rasters(jobs, Deadly() if any(str(job.path) == deadly for job in jobs) else encoder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.units.embed_rasters", rasters)
        while attempts < 10:
            attempts += 1
            try:
                part = embed_unit(unit, task, TinyEncoder())
                break
            except Death:
                continue
    assert attempts == (3 if count == 1 else 4)
    assert part.failed == ((deadly, "the worker that read it died"),)
    assert part.contents == unit[:-1]


def test_units_hold_every_file_once_in_order_and_none_is_large(scenes, monkeypatch):
    monkeypatch.setattr("retrieval.units.UNIT_FILES", 3)
    work = [(str(path), str(i)) for i, path in enumerate(sorted(scenes.glob("*.tif")))]
    for workers in (1, 2, 50):
        cut = in_units(work, workers)
        assert [content for unit in cut for content in unit] == work
        assert max(map(len, cut)) <= 3
    assert in_units([], 2) == []
    assert in_units([("/not/there", "x")], 2) == [(("/not/there", "x"),)]


def test_what_new_contents_put_out_of_date_is_named_by_path_and_content():
    stored = [Stored("/a", "1", SENSOR, 1, 1), Stored("/b'", "2", SENSOR, 1, 1), Stored("/c", "3", SENSOR, 1, 1)]
    assert outdated_rows(stored, [("/d", "4")]) is None
    assert outdated_rows(stored, [("/a", "9")]) == "path IN ('/a') AND content_hash IN ('1')"
    assert outdated_rows(stored, [("/z", "2")]) == "path IN ('/b''') AND content_hash IN ('2')"
    assert outdated_rows(stored, [], [("/c", "4")]) == "path IN ('/c') AND content_hash IN ('3')"
    assert outdated_rows(stored, [], [("/c", "3")]) is None


def test_a_worker_with_another_encoder_and_no_workers_are_refused(archive, scenes):
    task = task_for(archive, ChipTable.open(archive.folder), None)
    row = UnitWorker(task, lambda: TinyEncoder(seed=1))({"unit": np.array(["[]"])})
    assert row["part"] == [""]
    assert "tiny-0" in row["refusal"][0]
    assert "tiny-1" in row["refusal"][0]
    with pytest.raises(QueryError, match="at least 1 worker"):
        scale.add_with_ray(archive, scenes, workers=0)


def test_parts_are_written_and_committed_at_a_uri(archive, scenes, tmp_path):
    archive.add(sorted(scenes.glob("0[0-3].tif")), sensor=SENSOR, progress=False)
    rows = ChipTable.open(archive.folder).dataset.to_table(columns=schema_for(archive.config).names)
    uri = f"file://{tmp_path}/bucket/chips.lance"
    schema = schema_for(archive.config)
    dataset = lance.write_dataset(schema.empty_table(), uri, schema=schema)
    table = ChipTable(dataset, archive.config, TableAddress(uri), archive.folder)
    for third in (rows.slice(0, 9), rows.slice(9, 15)):
        part = Part(write_rows(third, uri))
        assert fragments_whole(part, uri)
        commit_parts(table, part.fragments)
    assert len(table) == len(lance.dataset(uri)) == 24
    commit_parts(table, (), f"path = '{scenes}/00.tif'")
    assert {file.path for file in table.files()} == {str(scenes / f"0{i}.tif") for i in (1, 2, 3)}
    assert table.remove(f"path = '{scenes}/01.tif'") == 6
    table.replace(rows.slice(0, 6))
    assert len(table) == 18
    assert table.dataset.count_rows(filter="row = 0") == 9


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:notaport"])
def test_a_cluster_that_does_not_answer_is_told_and_nothing_is_written(archive, scenes, address):
    pytest.importorskip("ray")
    with pytest.raises(ArchiveError, match="no Ray cluster answers"):
        add_on(Pool(TinyEncoder, address), archive, scenes, sensor=SENSOR, progress=False)
    assert len(Archive.open(archive.folder)) == 0


@pytest.mark.slow
def test_on_ray_with_a_worker_killed_every_chip_is_there_once(archive, scenes, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from functools import partial

    tests = os.path.dirname(os.path.abspath(__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), tests, *filter(None, sys.path)]))
    marker = tmp_path / "killed"
    pool = Pool(partial(MortalEncoder, str(marker)), workers=2)
    before = ChipTable.open(archive.folder).version
    report = add_on(pool, archive, scenes, sensor=SENSOR, progress=False)
    assert marker.exists()
    rows, expected = twin(tmp_path, scenes)
    assert table_rows(archive.folder) == rows
    assert report == expected
    assert ChipTable.open(archive.folder).dataset.checkout_version(before + 1).count_rows() == len(rows)
    assert archive.verify() == []
    with pytest.raises(FingerprintError, match="--encoder"):
        add_on(Pool(partial(TinyEncoder, 1)), archive, write_raster(tmp_path / "new.tif", seed=50), sensor=SENSOR)


def test_stopping_a_run_on_purpose_is_no_death_of_a_worker(archive, scenes, monkeypatch):
    def stopped(pool, units, task, **options):
        log = task.record(units[0]).with_suffix(".attempts")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('""\n')
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "run", stopped)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            add(archive, scenes)
        assert list(archive.folder.rglob("*.attempts")) == []


def test_files_are_added_after_columns_were(archive, scenes, in_process):
    import pyarrow as pa

    first, second = scenes / "00.tif", scenes / "01.tif"
    add(archive, first)
    archive.annotate(pa.table({"path": [str(first)], "crop": ["maize"]}))
    report = add(archive, second)
    assert (report.added, report.failed) == (1, ())
    told = {(row["path"], row["crop"]) for row in ChipTable.open(archive.folder).dataset.to_table().to_pylist()}
    assert told == {(str(first), "maize"), (str(second), None)}
    assert archive.verify() == []
