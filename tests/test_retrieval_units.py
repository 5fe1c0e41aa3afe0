"""Workers read and encode nothing again that was hashed or encoded before."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes import FaultError, Faulty, TinyEncoder, bytes_read, write_raster

import retrieval.intake
from retrieval import Archive, scale
from retrieval.cluster import Pool, UnitWorker
from retrieval.parts import Part
from retrieval.scale import add_on, task_for
from retrieval.stamps import STAMPS
from retrieval.store import ChipTable
from retrieval.units import embed_unit
from rsvlm.sensors import find_sensor

SENSOR = "sentinel-2-l2a"


@pytest.fixture
def in_process(monkeypatch):
    """Units done here, one after the other, by what an actor of Ray would do them with."""

    def run(pool, units, task, *, progress):
        worker = UnitWorker(task, pool.load)
        rows = [worker({"unit": np.array([json.dumps(unit)])}) for unit in units]
        return [Part.from_json(row["part"][0]) for row in rows]

    monkeypatch.setattr(Pool, "run", run)


def test_unchanged_files_are_known_by_their_stamps_whoever_added_them(tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(retrieval.intake, "SETTLED_NS", 0)
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=256, stride=256)
    paths = [write_raster(tmp_path / f"{i}.tif", seed=i, shape=(512, 512)) for i in range(2)]
    size = sum(path.stat().st_size for path in paths)
    assert size > 4 * 10**6

    def add_again():
        retrieval.intake._sha256_of.cache_clear()  # a process that knows no hash yet
        before = bytes_read()
        report = add_on(Pool(TinyEncoder), archive, paths, sensor=SENSOR, progress=False)
        return report, bytes_read() - before

    assert add_again()[0].added == 2
    report, read = add_again()
    assert (report.unchanged, report.chips) == (2, 0)
    assert read < size / 20
    before = bytes_read()
    assert archive.add(paths, sensor=SENSOR, progress=False).unchanged == 2  # the stamps are those of every add
    assert bytes_read() - before < size / 20
    (archive.folder / STAMPS).unlink()
    report, read = add_again()
    assert report.unchanged == 2
    assert read >= size
    write_raster(paths[0], seed=9, shape=(512, 512))
    assert add_again()[0].replaced == 1


def test_a_worker_that_died_in_a_large_file_goes_on_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.journal.PART_CHIPS", 8)
    monkeypatch.setattr("retrieval.journal.PART_SECONDS", 0)
    archive = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    path = write_raster(tmp_path / "large.tif", seed=1, shape=(128, 128))
    archive.add(path, sensor=SENSOR, progress=False)
    expected = ChipTable.open(archive.folder).dataset.to_table(columns=["chip_id", "vector"]).sort_by("chip_id")
    task = replace(task_for(archive, ChipTable.open(archive.folder), find_sensor(SENSOR)), batch=4)
    unit = [(str(path), retrieval.intake.content_hash(path))]
    with pytest.raises(FaultError):
        embed_unit(unit, task, Faulty(40))
    encoder = Faulty()
    part = embed_unit(unit, task, encoder)
    assert part.rows == 64
    assert 0 < sum(encoder.batches) <= 64 - 24  # 40 were encoded; a part that was not full, and a batch, were lost
    archive.remove(path)
    scale.finish(table := ChipTable.open(archive.folder), [], [part])
    found = table.dataset.to_table(columns=["chip_id", "vector"]).sort_by("chip_id")
    assert found["chip_id"].equals(expected["chip_id"])
    pairs = zip(found["vector"].to_pylist(), expected["vector"].to_pylist(), strict=True)
    assert all(np.allclose(ours, theirs, atol=1e-2) for ours, theirs in pairs)
