"""A server of vectors holds what the archive holds, once, and finds what the archive finds."""

from datetime import UTC, datetime

import numpy as np
import pytest
import typer
from fakes import DIM, TinyEncoder, write_raster
from typer.testing import CliRunner

from retrieval import Archive
from retrieval.qdrant import QdrantServer, point_id
from retrieval.servers import Conditions, Point, export_vectors
from rsvlm.errors import ArchiveError, QueryError

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:.*lance is not fork-safe")
SENSOR = "sentinel-2-l2a"


class FailingServer:
    """Passes everything on to a real server, whose connection breaks once after some batches."""

    def __init__(self, server, batches):
        self.server, self.batches, self.upserts = server, batches, []

    def upsert(self, points):
        if self.batches == 0:
            self.batches = -1
            raise ArchiveError("the connection broke")
        self.batches -= 1
        self.upserts.append([point.chip_id for point in points])
        self.server.upsert(points)

    def __getattr__(self, name):
        return getattr(self.server, name)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    for i in range(4):
        tags = {"CLOUD_COVER": str(20 * i)} if i else {}
        write_raster(folder / f"s2_2020010{i + 1}.tif", seed=i, place=(500_000 + 5_000 * i, 5_500_000), **tags)
    write_raster(folder / "nowhere.tif", seed=9, crs=None)
    made = Archive.create(tmp_path / "archive", TinyEncoder(), chip=16, stride=16)
    made.add(folder, sensor=SENSOR, progress=False)
    return made


@pytest.fixture
def server(archive):
    return QdrantServer.open(":memory:", archive)


def ids(hits):
    return [hit.chip_id for hit in hits]


def test_a_server_finds_what_the_archive_finds(archive, server):
    report = export_vectors(archive, server, name="test", batch=7)
    assert (report.sent, report.held, server.count()) == (30, 30, 30)
    for seed in range(4):
        vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
        hits, found = archive.search(vector, 30), server.search(vector, 30)
        assert ids(found) == ids(hits)
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in hits], atol=1e-3)
        assert found[0].payload["path"] == hits[0].path
        assert found[0].payload["acquired"] == hits[0].acquired


def test_filters_select_on_a_server_what_they_select_in_the_archive(archive, server):
    export_vectors(archive, server, name="test")
    vector = np.ones(DIM, np.float32)
    box = (15.06, 49.0, 15.08, 50.0)
    day = datetime(2020, 1, 2, tzinfo=UTC)
    path = archive.search(vector, 1)[0].path
    cases = [
        (Conditions.touching(box), {"bbox": box}, 6),
        (Conditions(within={"cloud": (None, 0.3)}), {"where": "cloud <= 0.3"}, 6),
        (Conditions(within={"acquired": (day, None)}), {"start": day}, 18),
        (Conditions(within={"row": (16, 16)}), {"where": "row == 16"}, 15),
        (Conditions(equal={"sensor": SENSOR}), {"where": f'sensor == "{SENSOR}"'}, 30),
        (Conditions(equal={"sensor": "naip"}), {"where": 'sensor == "naip"'}, 0),
        (Conditions({"path": path}, {"cloud": (0.1, 0.5)}), {"where": f'path == "{path}" and 0.1 <= cloud <= 0.5'}, 0),
    ]
    for where, options, least in cases:
        hits = archive.search(vector, 30, **options)
        assert ids(server.search(vector, 30, where=where)) == ids(hits)
        assert len(hits) >= least


def test_an_export_is_the_same_twice_and_follows_what_is_removed_and_added(archive, server, tmp_path):
    for _ in range(2):
        assert export_vectors(archive, server, name="test").held == 30
    archive.remove(tmp_path / "scenes" / "nowhere.tif")
    archive.add(write_raster(tmp_path / "new.tif", seed=50), sensor=SENSOR, progress=False)
    archive.add(write_raster(tmp_path / "newer.tif", seed=51), sensor=SENSOR, progress=False)
    assert export_vectors(archive, server, name="test").held == 36
    vector = np.ones(DIM, np.float32)
    assert ids(server.search(vector, 100)) == ids(archive.search(vector, 100))
    assert export_vectors(archive, server, name="test", where="cloud >= 0.2").held == 18


def test_an_export_that_broke_goes_on_from_the_last_batch(archive, server):
    failing = FailingServer(server, batches=3)
    with pytest.raises(ArchiveError, match="broke"):
        export_vectors(archive, failing, name="test", batch=4)
    assert server.count() == 12
    report = export_vectors(archive, failing, name="test", batch=4)
    assert (report.sent, report.held) == (18, 30)
    sent = [chip for batch in failing.upserts for chip in batch]
    assert len(sent) == len(set(sent)) == 30


def test_what_was_sent_is_sent_again_where_the_archive_or_the_server_is_another(archive, server, tmp_path):
    with pytest.raises(ArchiveError):
        export_vectors(archive, FailingServer(server, batches=3), name="test", batch=4)
    fresh = QdrantServer.open(":memory:", archive)  # lost the 12 points it had acknowledged
    assert export_vectors(archive, fresh, name="test", batch=4).held == 30
    with pytest.raises(ArchiveError):
        export_vectors(archive, FailingServer(server, batches=3), name="test", batch=4)
    archive.add(write_raster(tmp_path / "new.tif", seed=50), sensor=SENSOR, progress=False)
    report = export_vectors(archive, server, name="test", batch=4)
    assert (report.sent, report.held) == (36, 36)
    cursors = tmp_path / "archive" / "exports"
    assert list(cursors.iterdir()) == []


def test_a_damaged_cursor_means_that_everything_is_sent_again(archive, server):
    with pytest.raises(ArchiveError):
        export_vectors(archive, FailingServer(server, batches=3), name="test", batch=4)
    (cursor,) = (archive.folder / "exports").iterdir()
    cursor.write_text(cursor.read_text()[:20])
    assert export_vectors(archive, server, name="test", batch=4).sent == 30


def test_the_same_chip_has_the_same_id_always():
    assert point_id("x") == point_id("x") == "2d711642-b726-b044-0162-7ca9fbac32f5"  # sha256 of "x", its first 16 bytes
    assert point_id("x") != point_id("y")


def test_collections_of_two_encoders_never_mix(archive, tmp_path):
    local = str(tmp_path / "qdrant")
    first = QdrantServer.open(local, archive)
    export_vectors(archive, first, name="a")
    first._client.close()
    other = Archive.create(tmp_path / "other", TinyEncoder(seed=1), chip=16, stride=16)
    second = QdrantServer.open(local, other)
    assert second.collection != first.collection
    assert second.count() == 0
    second._client.close()
    again = QdrantServer.open(local, archive)
    assert again.count() == 30
    again._client.close()


def test_a_collection_of_other_vectors_and_a_server_that_is_not_there_are_refused(archive, tmp_path):
    from qdrant_client import QdrantClient, models

    local = str(tmp_path / "qdrant")
    client = QdrantClient(path=local)
    shape = models.VectorParams(size=DIM + 1, distance=models.Distance.COSINE)
    client.create_collection(f"archive-{archive.config.fingerprint[:12]}", vectors_config=shape)
    client.close()
    with pytest.raises(ArchiveError, match=f"{DIM + 1} numbers"):
        QdrantServer.open(local, archive)
    with pytest.raises(ArchiveError, match="see that it runs"):
        QdrantServer.open("http://127.0.0.1:9", archive)
    with pytest.raises(QueryError, match="http://HOST:PORT"):
        QdrantServer.open("localhost:6333", archive)


@pytest.mark.parametrize("vector", [np.zeros(DIM), np.full(DIM, np.nan), np.ones((1, DIM)), np.ones(DIM + 1)])
def test_a_query_that_points_nowhere_is_refused(archive, server, vector):
    server.upsert([Point("x", np.ones(DIM, np.float32), {"chip_id": "x"})])
    with pytest.raises((QueryError, ArchiveError)):
        server.search(vector)


@pytest.mark.parametrize("k", [0, -1, 10**9])
def test_a_k_that_is_none_is_refused(server, k):
    with pytest.raises(QueryError, match="k is a whole number"):
        server.search(np.ones(DIM), k)


@pytest.mark.parametrize(
    "conditions",
    [
        {"equal": {"colour": "red"}},
        {"within": {"sensor": (0, 1)}},
        {"within": {"cloud": ("a", None)}},
        {"within": {"acquired": (0.0, None)}},
    ],
)
def test_conditions_on_what_is_no_key_are_refused(conditions):
    with pytest.raises(QueryError):
        Conditions(**conditions)


@pytest.mark.parametrize("box", [(170, 0, -170, 1), (0, 1, 1, 0), (0, 0, float("nan"), 1)])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(QueryError):
        Conditions.touching(box)


def test_the_commands_send_write_and_take_in(archive, tmp_path):
    from retrieval.commands import app as index
    from retrieval.exchange_commands import register

    root = typer.Typer()
    root.add_typer(index, name="index")
    register(root)

    def run(*arguments):
        return CliRunner().invoke(root, ["index", *map(str, arguments)])

    out, other = tmp_path / "out.parquet", tmp_path / "other"
    shown = run("export", archive.folder, out)
    assert shown.exit_code == 0
    assert "24 items" in shown.stderr
    assert "6 left out" in shown.stderr
    Archive.create(other, TinyEncoder(), chip=16, stride=16)
    assert "rows imported" in run("import", other, out).stderr
    assert "nothing changed" in run("import", other, out).stderr
    sent = run("serve-vectors", other, tmp_path / "qdrant", "--collection", "mine")
    assert f"{len(Archive.open(other))} points sent" in sent.stderr
    assert sent.stdout == ""
