"""An archive whose table is on object storage: a real S3 interface, served by this process."""

import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import DIM, TinyEncoder, write_raster
from typer.testing import CliRunner

from retrieval import Archive
from retrieval.address import POINTER, TableAddress, archive_folder
from retrieval.commands import _opened_or_made, app
from retrieval.objects import StoredObjects
from retrieval.parts import Part, commit_parts, fragments_whole, write_rows
from retrieval.repair import NEWER_FILES, SOME_FILES
from retrieval.store import TABLE, ChipTable
from retrieval.sums import SUMS
from rsvlm.errors import ArchiveBusyError, ArchiveError, FingerprintError

SENSOR = "sentinel-2-l2a"
KEYS = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret"}


class Storage:
    """A bucket; what is in `refused` is answered with 403 while it is."""

    def __init__(self, endpoint, refused):
        import boto3

        self.endpoint, self.refused = endpoint, refused
        self.options = {"aws_endpoint": endpoint, "aws_region": "us-east-1", "allow_http": "true"}
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket="bucket")

    def names(self, start):
        listed = self.client.list_objects_v2(Bucket="bucket", Prefix=start).get("Contents", [])
        return sorted(item["Key"] for item in listed)

    def cut(self, name, size):
        whole = self.client.get_object(Bucket="bucket", Key=name)["Body"].read()
        self.client.put_object(Bucket="bucket", Key=name, Body=whole[:size])

    def drop(self, name):
        self.client.delete_object(Bucket="bucket", Key=name)


@pytest.fixture(scope="module")
def storage():
    pytest.importorskip("moto.server", reason="needs moto[s3,server], of the extra dev")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    served, refused = DomainDispatcherApplication(create_backend_app), []

    def answer(environ, start):
        if any(part in environ["PATH_INFO"] for part in refused):
            start("403 Forbidden", [])
            return [b""]
        return served(environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield Storage(f"http://127.0.0.1:{server.server_port}", refused)
    server.shutdown()
    thread.join()


@pytest.fixture
def uri(tmp_path):
    return f"s3://bucket/{tmp_path.name}/chips"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(3):
        tags = {"CLOUD_COVER": str(20 * i)} if i else {}
        write_raster(folder / f"s2_2020010{i + 1}.tif", seed=i, place=(500_000 + 5_000 * i, 5_500_000), **tags)
    return folder


@pytest.fixture
def archive(storage, uri, tmp_path):
    return Archive.create(
        tmp_path / "archive", TinyEncoder(), chip=16, stride=16, table=uri, storage_options=storage.options
    )


def add(archive, *paths):
    return archive.add(paths, sensor=SENSOR, progress=False)


def ranked(archive, **options):
    return [(hit.chip_id, hit.path, round(hit.score, 5)) for hit in archive.search("dark water", 100, **options)]


def key_of(uri):
    return uri.removeprefix("s3://bucket/")


def test_it_answers_as_a_local_archive_does(archive, scenes, tmp_path, uri, storage):
    local = Archive.create(tmp_path / "local", TinyEncoder(), chip=16, stride=16)
    for each in (local, archive):
        report = add(each, scenes)
        assert (report.added, report.chips, report.failed) == (3, 18, ())
        assert add(each, scenes).unchanged == 3
        write_raster(tmp_path / "s2_20200109.tif", seed=7)
        assert add(each, tmp_path / "s2_20200109.tif").added == 1
        write_raster(tmp_path / "s2_20200109.tif", seed=8)
        assert add(each, tmp_path / "s2_20200109.tif").replaced == 1
        assert each.remove(scenes / "s2_20200102.tif") == 6
    reopened = Archive.open(archive.folder, TinyEncoder())
    for options in ({}, {"where": "cloud > 0.1"}, {"bbox": (15.0, 49.0, 15.05, 50.0)}):
        assert ranked(archive, **options) == ranked(reopened, **options) == ranked(local, **options)
    assert len(ranked(archive)) == 18
    assert archive.verify() == []
    facts = archive.info()
    assert (facts["table"], facts["checksums"], facts["chips"]) == (uri, "left to the object storage", 18)
    assert facts["bytes"] > 18 * DIM * 2
    assert facts["index"]["state"] == "whole"
    assert local.info()["checksums"] == "of every file of the table"
    assert not (archive.folder / TABLE).exists()
    assert not (archive.folder / SUMS).exists()
    assert len(storage.names(key_of(uri) + "/data/")) > 0


def test_no_secret_is_in_the_folder(archive, scenes, uri, storage):
    add(archive, scenes)
    assert json.loads((archive.folder / POINTER).read_text()) == {"uri": uri, "storage_options": storage.options}
    for path in archive.folder.rglob("*"):
        assert path.is_dir() or not any(secret.encode() in path.read_bytes() for secret in KEYS.values())


def test_a_second_machine_attaches_the_table_and_builds_its_own_index(archive, scenes, uri, storage, tmp_path):
    add(archive, scenes / "s2_20200101.tif")
    second = Archive.attach(tmp_path / "second", uri, TinyEncoder(), storage_options=storage.options)
    assert second.config == archive.config
    assert ranked(second) == ranked(archive)
    assert len(list((second.folder / "index").glob("*.faiss"))) == 1
    add(archive, scenes / "s2_20200102.tif")
    assert len(second.search("x", 100)) == 6
    second.refresh()
    assert ranked(second) == ranked(archive)
    add(second, scenes / "s2_20200103.tif")
    archive.refresh()
    assert ranked(second) == ranked(archive)
    assert len(ranked(archive)) == 18


def test_what_cannot_be_attached_or_made_leaves_no_folder(archive, uri, storage, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FingerprintError, match="tiny-0"):
        Archive.attach(tmp_path / "new", uri, TinyEncoder(seed=1), storage_options=storage.options)
    with pytest.raises(ArchiveError, match="no table can be read at"):
        Archive.attach(tmp_path / "new", uri + "-none", TinyEncoder(), storage_options=storage.options)
    with pytest.raises(ArchiveError, match="rsvlm index attach"):
        Archive.create(tmp_path / "new", TinyEncoder(), table=uri, storage_options=storage.options)
    with pytest.raises(ArchiveError, match="no new table can be made"):
        Archive.create(tmp_path / "new", TinyEncoder(), table="zz://bucket/x")
    with pytest.raises(ArchiveError, match="s3://bucket/path"):
        Archive.create(tmp_path / "new", TinyEncoder(), storage_options=storage.options)
    with pytest.raises(ArchiveError, match="already"):
        Archive.attach(archive.folder, uri, TinyEncoder(), storage_options=storage.options)
    assert sorted(tmp_path.iterdir()) == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "note.txt").write_text("mine")
    with pytest.raises(ArchiveError, match="not empty"):
        Archive.create(full, TinyEncoder(), table=uri + "2", storage_options=storage.options)
    assert storage.names(key_of(uri) + "2") == []


def test_a_writer_stops_when_another_machine_has_written(archive, scenes, uri, storage, tmp_path):
    second = Archive.attach(tmp_path / "second", uri, TinyEncoder(), storage_options=storage.options)
    with archive._writing() as table:
        add(second, scenes / "s2_20200101.tif")
        rows = ChipTable.open(second.folder).dataset.to_table()
        for write in (lambda: table.replace(rows, fresh=True), lambda: table.remove("true"),
                      lambda: commit_parts(table, (), "true")):  # fmt: skip
            with pytest.raises(ArchiveBusyError, match="another machine is writing"):
                write()
    archive.refresh()
    assert len(archive) == 6
    assert archive.verify() == []


def test_a_file_added_by_two_machines_in_one_moment_is_told_and_mended(archive, scenes, monkeypatch):
    path = scenes / "s2_20200101.tif"
    with archive._writing() as table:
        add(Archive.attach(archive.folder.with_name("second"), archive.table, TinyEncoder(),
                           storage_options=table.address.storage_options), path)  # fmt: skip
        monkeypatch.setattr(table, "require_newest", lambda: None)  # the other one committed right after the look
        with pytest.raises(ArchiveBusyError, match=r"in the same moment.*index verify"):
            table.replace(ChipTable.open(archive.folder).dataset.to_table(), fresh=True)
    assert any(str(path) in problem for problem in archive.verify())
    assert archive.repair().lost == (str(path),)
    assert add(archive, path).added == 1
    assert len(archive) == 6
    assert archive.verify() == []


def test_of_machines_that_write_at_once_none_loses_what_it_acknowledged(archive, scenes, uri, storage, tmp_path):
    machines = [
        Archive.attach(tmp_path / f"machine-{i}", uri, TinyEncoder(), storage_options=storage.options) for i in range(3)
    ]
    files = sorted(scenes.glob("*.tif"))

    def write(machine, path):
        try:
            return path, add(machine, path).added
        except ArchiveBusyError:
            return path, 0

    with ThreadPoolExecutor(len(machines)) as pool:
        done = {str(path) for path, added in pool.map(write, machines, files) if added}
    table = ChipTable.open(archive.folder)
    there = {file.path: file.chips for file in table.files()}
    assert done <= set(there)
    assert set(there.values()) == {6}
    assert archive.verify() == []


def test_a_lost_object_is_never_served_and_one_command_mends_it(archive, scenes, uri, storage):
    files = sorted(scenes.glob("*.tif"))
    for path in files:
        add(archive, path)
    before = ranked(archive)
    data = storage.names(key_of(uri) + "/data/")
    assert len(data) == 3
    storage.drop(data[0])
    storage.cut(data[1], 100)
    for path in (archive.folder / "index").iterdir():
        path.unlink()
    damaged = Archive.open(archive.folder, TinyEncoder())
    with pytest.raises(ArchiveError, match="rsvlm index repair"):
        damaged.search("x", 100)
    assert damaged.verify() == ["2 of 3 parts of the table cannot be read"]
    report = Archive.mend(archive.folder)
    assert report.lost == (SOME_FILES,)
    mended = Archive.open(archive.folder, TinyEncoder())
    assert mended.verify() == []
    assert len(mended) == 6
    assert add(mended, scenes).added == 2
    assert ranked(mended) == before


def test_a_damaged_newest_version_is_set_aside(archive, scenes, uri, storage):
    add(archive, scenes / "s2_20200101.tif")
    before = ranked(archive)
    add(archive, scenes / "s2_20200102.tif")
    newest = storage.names(key_of(uri) + "/_versions/")[0]
    storage.cut(newest, 10)
    with pytest.raises(ArchiveError, match="rsvlm index repair"):
        Archive.open(archive.folder)
    report = Archive.mend(archive.folder)
    assert NEWER_FILES in report.lost
    assert f"{newest}.damaged" in storage.names(key_of(uri))
    mended = Archive.open(archive.folder, TinyEncoder())
    assert ranked(mended) == before
    assert mended.verify() == []


def test_what_the_storage_does_not_give_out_is_not_taken_for_lost(archive, scenes, uri, storage):
    add(archive, scenes)
    before, names = ranked(archive), storage.names(key_of(uri))
    for refused in (f"{key_of(uri)}/data/", f"{key_of(uri)}/_versions/", key_of(uri)):
        storage.refused.append(refused)
        try:
            for act in (lambda: Archive.open(archive.folder).verify(), lambda: Archive.mend(archive.folder)):
                with pytest.raises(ArchiveError, match="connection and"):
                    act()
        finally:
            storage.refused.clear()
    assert storage.names(key_of(uri)) == names
    assert ranked(Archive.open(archive.folder, TinyEncoder())) == before


def test_parts_are_written_beside_the_table_with_its_options(archive, scenes, uri, storage):
    add(archive, scenes / "s2_20200101.tif")
    table = ChipTable.open(archive.folder)
    rows = table.dataset.to_table().slice(0, 4)
    part = Part(write_rows(rows, uri, storage.options))
    assert fragments_whole(part, uri, storage.options)
    assert not fragments_whole(part, uri + "-none", storage.options)
    commit_parts(table, part.fragments)
    assert len(ChipTable.open(archive.folder)) == 10


def test_the_objects_of_a_table_answer_one_by_one(archive, storage, uri):
    objects = StoredObjects(TableAddress.on_storage(uri, storage.options))
    (newest,) = objects.manifests()
    objects.require_answer([newest, "data/none.lance"])
    objects.set_aside(newest)
    assert objects.manifests() == []
    with pytest.raises(ArchiveError, match="does not answer"):
        objects.set_aside(newest)


def test_the_commands_make_attach_and_verify(storage, scenes, uri, tmp_path, monkeypatch):
    for name, value in storage.options.items():
        monkeypatch.setenv(name.upper() if name.startswith("aws") else f"AWS_{name.upper()}", value)
    made = _opened_or_made(tmp_path / "made", TinyEncoder(), 16, None, uri)
    add(made, scenes / "s2_20200101.tif")
    assert json.loads((made.folder / POINTER).read_text()) == {"uri": uri, "storage_options": {}}
    assert len(_opened_or_made(made.folder, TinyEncoder(), None, None, uri + "/")) == 6
    with pytest.raises(ArchiveError, match=r"--table s3://.*which cannot change"):
        _opened_or_made(made.folder, TinyEncoder(), None, None, uri + "2")
    run = CliRunner().invoke(app, ["attach", str(tmp_path / "second"), uri])
    assert (run.exit_code, run.stderr) == (0, f"6 chips in {tmp_path / 'second'}; the first search builds its index\n")
    run = CliRunner().invoke(app, ["verify", str(tmp_path / "second")])
    assert run.exit_code == 0
    assert "left to the object storage" in run.stderr


@pytest.mark.parametrize("given", ["s3://bucket/archive", "gs://bucket", "memory://x"])
def test_a_uri_is_no_folder_of_an_archive(given):
    encoder = TinyEncoder()
    for act in (lambda: Archive.create(given, encoder), lambda: Archive.open(given), lambda: Archive.mend(given),
                lambda: Archive.attach(given, "s3://bucket/x")):  # fmt: skip
        with pytest.raises(ArchiveError, match=f"{given} is none.*--table {given}"):
            act()
    run = CliRunner().invoke(app, ["verify", given])
    assert isinstance(run.exception, ArchiveError)
    assert f"--table {given}" in str(run.exception)


def test_a_folder_is_given_as_a_path(tmp_path):
    with pytest.raises(ArchiveError, match=f"plain path; got file://{tmp_path}"):
        Archive.open(f"file://{tmp_path}")


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert archive_folder("a:b") == tmp_path / "a:b"
    assert archive_folder("some/s3://x") == tmp_path / "some/s3:/x"


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("chips", {}, "s3://bucket/path"),
        ("", {}, "s3://bucket/path"),
        ("s3://", {}, "s3://bucket/path"),
        ("s3://[bucket", {}, "s3://bucket/path"),
        ("file:///tmp/chips", {}, "s3://bucket/path"),
        ("s3://bucket/x", {"aws_secret_access_key": "hush"}, "leave aws_secret_access_key out"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "hush"}, "leave AWS_ACCESS_KEY_ID out"),
        ("s3://bucket/x", {"aws_session_token": "hush"}, "leave aws_session_token out"),
        ("az://box/x", {"azure_storage_sas_key": "hush"}, "leave azure_storage_sas_key out"),
        ("az://box/x?sv=1&sig=hush", {}, "leave sig out"),
        ("s3://me:hush@bucket/x", {}, "leave the password out"),
        ("s3://bucket/x", {"timeout": 5}, "names with texts"),
    ],
)
def test_an_address_that_is_none_or_holds_secrets_is_refused(uri, options, said):
    with pytest.raises(ArchiveError, match=said) as refused:
        TableAddress.on_storage(uri, options)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"uri": "s3://a/b"}', '{"uri": 3, "storage_options": {}}', "\0",
                                  '{"uri": "s3://a/b", "storage_options": [1]}',
                                  '{"uri": "s3://a/b", "storage_options": {"aws_token": "x"}}'])  # fmt: skip
def test_a_damaged_pointer_is_refused_by_name(tmp_path, text):
    (tmp_path / POINTER).write_text(text)
    with pytest.raises(ArchiveError, match=r"table\.json.*cannot be used"):
        Archive.open(tmp_path)
    with pytest.raises(ArchiveError, match=r"table\.json.*cannot be used"):
        Archive.mend(tmp_path)
