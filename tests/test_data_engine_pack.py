"""Packs: what is written comes back, damage is told, and streams are shuffled, weighted and shared out."""

import json
from collections import Counter

import pytest
from torch.utils.data import DataLoader

from data_engine.pack import MANIFEST, PackDataset, read_manifest, read_shard, verify, write_manifest, write_shard
from data_engine.sample import Origin, Sample, Shown
from rsvlm.errors import DatasetError
from rsvlm.language.plan import Plan


def sample(number, source="lakes", split="train", kind="caption"):
    origin = Origin(source, f"{source}-{number}", split, "captions/fractions@1", 0)
    return Sample(kind, f"{source} {number}", origin, (Shown((f"{number}.tif",), "rgb"),))


@pytest.fixture
def pack(tmp_path):
    lakes = [sample(n) for n in range(1200)] + [sample(n, split="val") for n in range(30)]
    woods = [sample(n, "woods") for n in range(90)] + [sample(n, "woods", kind="question") for n in range(10)]
    shards = [*write_shard(tmp_path, "lakes-00000", lakes), *write_shard(tmp_path, "woods-00000", woods)]
    write_manifest(tmp_path, shards, {"name": "test"})
    return tmp_path


def test_every_kind_of_field_survives_a_trip_through_json():
    full = Sample(
        "question",
        "How many?",
        Origin("s", "p", "val", "questions/count@1", 3),
        (Shown(("a.tif", "b.tif"), "sentinel-2-l2a", ("B02", "B03")),),
        answer="3",
        type="count",
        plan=Plan("count", "ship"),
        boxes=((0.0, 1.0, 2.5, 3.0),),
        polygons=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),),
        mask="m.png",
        facts=({"name": "count of ship", "value": 3},),
        hits=({"rank": 1},),
    )
    assert Sample.from_json(json.loads(json.dumps(full.to_json()))) == full
    assert set(sample(1).to_json()) == {"kind", "text", "origin", "images"}


@pytest.mark.parametrize("change", [{"colour": 1}, {"origin": {"source": "s"}}, {"kind": "poem"}, {"text": " "}])
def test_what_is_no_sample_is_refused(change):
    with pytest.raises(DatasetError):
        Sample.from_json({**sample(1).to_json(), **change})


def test_shards_hold_one_split_each_in_order_and_the_manifest_counts_them(pack):
    manifest = read_manifest(pack)
    assert manifest["samples"] == 1330
    assert manifest["counts"] == {
        "train lakes": {"caption": 1200},
        "train woods": {"caption": 90, "question": 10},
        "val lakes": {"caption": 30},
    }
    assert [s.text for s in read_shard(pack / "train/lakes-00000.parquet")] == [f"lakes {n}" for n in range(1200)]
    assert verify(pack) == []


def test_damage_is_named_and_never_read_as_data(pack):
    path = pack / "train/lakes-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (pack / "val/lakes-00000.parquet").unlink()
    assert verify(pack) == ["train/lakes-00000.parquet is damaged", "val/lakes-00000.parquet is missing"]
    with pytest.raises(DatasetError, match="damaged or missing"):
        list(read_shard(path))


def test_a_folder_without_a_manifest_or_with_a_newer_one_is_no_pack(pack):
    manifest = json.loads((pack / MANIFEST).read_text())
    (pack / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        PackDataset(pack)
    (pack / MANIFEST).write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        read_manifest(pack)
    (pack / MANIFEST).unlink()
    with pytest.raises(DatasetError, match="did not end"):
        read_manifest(pack)


def test_a_pass_is_shuffled_repeatable_and_changes_with_seed_and_epoch(pack):
    first = [s.text for s in PackDataset(pack)]
    assert first == [s.text for s in PackDataset(pack)]
    assert len(first) == len(PackDataset(pack)) == 1300
    assert first != [s.text for s in PackDataset(pack, seed=1)]
    assert first != [s.text for s in PackDataset(pack, epoch=1)]
    assert first[:50] != sorted(first[:50], key=lambda text: int(text.split()[1]))


def test_one_source_alone_is_seen_whole_once_a_pass(pack):
    texts = [s.text for s in PackDataset(pack, weights={"lakes": 0.0})]
    counts = Counter(texts)
    assert {text.split()[0] for text in texts} == {"woods"}
    assert set(PackDataset(pack, split="val").sizes) == {"lakes"}
    assert sorted(s.text for s in PackDataset(pack, split="val")) == sorted(f"lakes {n}" for n in range(30))
    assert max(counts.values()) - min(counts.values()) <= 14  # 100 samples a round, two of some names, 1,300 draws


def test_weights_decide_the_mixture(pack):
    counts = Counter(s.origin.source for s in PackDataset(pack, weights={"lakes": 1.0, "woods": 3.0}))
    assert 0.68 < counts["woods"] / 1300 < 0.82
    with pytest.raises(DatasetError, match="weights are 0 or more"):
        PackDataset(pack, weights={"sea": 1.0})


def test_kinds_choose_samples_and_nothing_left_is_refused(pack):
    assert {s.kind for s in PackDataset(pack, kinds=["question"])} == {"question"}
    with pytest.raises(DatasetError, match="no samples"):
        PackDataset(pack, kinds=["plan"])
    with pytest.raises(DatasetError, match="no samples"):
        PackDataset(pack, split="test")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_a_pass_without_overlap(pack, workers):
    data = PackDataset(pack, split="train", weights={"woods": 0.0})
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    texts = [s.text for s in loader]
    assert len(texts) == 1300
    assert len(set(texts)) > 0.97 * 1200
    assert texts == [s.text for s in DataLoader(data, batch_size=None, num_workers=workers)]
