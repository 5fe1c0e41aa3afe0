import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

from data_engine.layout import read_json
from data_engine.sources import bigearthnet, captioned, levir_cc, nwpu_captions
from data_engine.splits import split_of
from rsvlm.errors import DatasetError
from rsvlm.raster import read_scene

S2_V1 = "S2A_MSIL2A_20170613T101031_61_39"
S1 = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39"
S2_V2 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_61_39"
PLACE = "bigearthnet-T33UUP-61-39"
SIZES = {"B01": 2, "B09": 2, **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 6)}  # the others, 12


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def image_row(name, split="train", raw=("a road .", "two  roads")):
    return {"filename": name, "imgid": 0, "split": split, "sentences": [{"raw": text, "tokens": []} for text in raw]}


def rsicd(folder, *rows, images="RSICD_images", listing="dataset_rsicd.json", files=None):
    write_json(folder / listing, {"images": list(rows), "dataset": "rsicd"})
    (folder / images).mkdir(exist_ok=True)
    for name in [row["filename"] for row in rows] if files is None else files:
        touch(folder / images / name)
    return folder


def test_rsicd_is_read_with_sentences_split_and_the_scene_in_the_name(tmp_path):
    rsicd(tmp_path, image_row("storagetanks_3.jpg", "test"), image_row("00616.jpg", "val", ["one", "", " "]))
    first, second = captioned.read_rsicd(tmp_path)
    assert first.image == tmp_path / "RSICD_images" / "storagetanks_3.jpg"
    assert (first.sensor, first.split, first.place) == ("rgb", "test", "rsicd-storagetanks_3.jpg")
    assert first.captions == ("a road .", "two roads")
    assert (first.scene, first.labels) == ("storage tanks", ("storage tanks",))
    assert (second.split, second.captions, second.scene, second.labels) == ("val", ("one",), "", ())


@pytest.mark.parametrize(
    ("read", "listing", "images", "name", "place", "scene"),
    [
        (captioned.read_rsicd, "annotations_rsicd/dataset_rsicd.json", "images", "pond_1.jpg", "rsicd", "pond"),
        (captioned.read_ucm, "dataset.json", "imgs", "1.tif", "ucm", ""),
        (captioned.read_ucm, "dataset.json", "UCM_images", "1.tif", "ucm", ""),
        (captioned.read_sydney, "dataset.json", "images", "7.tif", "sydney", ""),
        (captioned.read_rsitmd, "dataset_RSITMD.json", "images", "bareland_4104.tif", "rsitmd", "bare land"),
    ],
)
def test_the_datasets_of_one_form_differ_in_the_names_of_their_files(
    tmp_path, read, listing, images, name, place, scene
):
    (tmp_path / listing).parent.mkdir(exist_ok=True)
    rsicd(tmp_path, image_row(name), images=images, listing=listing)
    (item,) = read(tmp_path)
    assert (item.image, item.place, item.scene) == (tmp_path / images / name, f"{place}-{name}", scene)


def test_images_come_in_the_order_of_the_listing(tmp_path):
    names = ["pond_2.jpg", "beach_9.jpg", "00001.jpg"]
    items = list(captioned.read_rsicd(rsicd(tmp_path, *map(image_row, names))))
    assert [item.image.name for item in items] == names
    assert items == list(captioned.read_rsicd(tmp_path))


def test_a_folder_without_the_listing_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset_rsicd\.json or annotations_rsicd/dataset_rsicd\.json"):
        list(captioned.read_rsicd(tmp_path))
    write_json(tmp_path / "dataset_rsicd.json", {"images": []})
    with pytest.raises(DatasetError, match="RSICD_images or images or imgs"):
        list(captioned.read_rsicd(tmp_path))


@pytest.mark.parametrize("key", ["filename", "split", "sentences"])
def test_a_record_without_a_needed_field_is_named(tmp_path, key):
    broken = image_row("b_2.jpg")
    del broken[key]
    rsicd(tmp_path, image_row("a_1.jpg"), broken, files=["a_1.jpg", "b_2.jpg"])
    with pytest.raises(DatasetError, match=rf"record 2 of .*dataset_rsicd\.json has no '{key}'"):
        list(captioned.read_rsicd(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filename": 7}, "record 1 of .* needs text in 'filename', got 7"),
        ({"filename": " "}, "needs text in 'filename'"),
        ({"split": "restval"}, "'restval' in 'split'; it must be one of train, val, validation, test"),
        ({"sentences": [{"tokens": []}]}, "has no 'raw'"),
        ({"sentences": ["a road"]}, "has no 'raw'"),
        ({"sentences": "a road"}, "needs a list in 'sentences'"),
        ({"sentences": []}, "needs text in 'raw', got only blanks"),
        ({"sentences": [{"raw": ""}]}, "needs text in 'raw', got only blanks"),
        ({"sentences": [{"raw": "a"}, {"raw": None}]}, "needs text in 'raw', got None"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, change, message):
    rsicd(tmp_path, image_row("a_1.jpg") | change, files=["a_1.jpg"])
    with pytest.raises(DatasetError, match=message):
        list(captioned.read_rsicd(tmp_path))


@pytest.mark.parametrize("content", [[], {"images": {}}, {"pictures": []}])
def test_a_listing_of_another_form_is_refused(tmp_path, content):
    write_json(tmp_path / "dataset.json", content)
    (tmp_path / "imgs").mkdir()
    with pytest.raises(DatasetError, match=r"dataset\.json holds no list 'images'"):
        list(captioned.read_ucm(tmp_path))


def test_a_listed_image_that_is_not_there_is_named(tmp_path):
    rsicd(tmp_path, image_row("a_1.jpg"), image_row("b_2.jpg"), files=["a_1.jpg"])
    with pytest.raises(DatasetError, match=r"record 2 of .* names b_2\.jpg, which is not in"):
        list(captioned.read_rsicd(tmp_path))


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "/etc/passwd", "C:\\x.jpg"])
def test_a_name_that_climbs_out_of_the_folder_is_refused(tmp_path, name):
    touch(tmp_path / "secret.jpg")
    rsicd(tmp_path, image_row(name), files=[])
    with pytest.raises(DatasetError, match="is no path inside"):
        list(captioned.read_rsicd(tmp_path))


def nwpu_row(name, split="train"):
    told = {"raw": "one ", "raw_1": "two", "raw_2": "3", "raw_3": "4", "raw_4": "5"}
    return {"filename": name, "split": split} | told


@pytest.mark.parametrize("inside", ["baseball_diamond/", ""])
def test_nwpu_captions_are_read_from_folders_of_scenes_and_from_a_flat_one(tmp_path, inside):
    write_json(tmp_path / "dataset_nwpu.json", {"baseball_diamond": [nwpu_row("baseball_diamond_001.jpg", "val")]})
    path = touch(tmp_path / "NWPU_images" / f"{inside}baseball_diamond_001.jpg")
    (item,) = nwpu_captions.read(tmp_path)
    assert (item.image, item.split, item.sensor) == (path, "val", "rgb")
    assert item.captions == ("one", "two", "3", "4", "5")
    assert (item.scene, item.labels) == ("baseball diamond", ("baseball diamond",))


def test_the_image_nwpu_never_published_is_passed_over_and_any_other_is_not(tmp_path):
    rows = [nwpu_row("airplane_111.jpg"), nwpu_row("airplane_112.jpg")]
    write_json(tmp_path / "dataset_nwpu.json", {"airplane": rows})
    touch(tmp_path / "NWPU_images" / "airplane" / "airplane_112.jpg")
    assert [item.image.name for item in nwpu_captions.read(tmp_path)] == ["airplane_112.jpg"]
    touch(tmp_path / "NWPU_images" / "airplane" / "airplane_111.jpg")
    assert len(list(nwpu_captions.read(tmp_path))) == 2
    (tmp_path / "NWPU_images" / "airplane" / "airplane_112.jpg").unlink()
    with pytest.raises(DatasetError, match=r"record 2 of .* names airplane/airplane_112\.jpg"):
        list(nwpu_captions.read(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list of images under scenes"),
        ({"lake": {}}, "holds no list 'lake'"),
        ({"lake": [{"filename": "lake_1.jpg", "split": "train", "raw": "a"}]}, "record 1 of .* has no 'raw_1'"),
        ({"lake": [nwpu_row("../lake_1.jpg")]}, "is no path inside"),
        ({"..": [nwpu_row("lake_1.jpg")]}, "is no path inside"),
    ],
)
def test_a_broken_nwpu_listing_is_refused(tmp_path, content, message):
    write_json(tmp_path / "dataset_nwpu.json", content)
    touch(tmp_path / "NWPU_images" / "lake_1.jpg")
    with pytest.raises(DatasetError, match=message):
        list(nwpu_captions.read(tmp_path))


def levir(folder, *kinds, **change):
    row = image_row("val_000001.png", "val", [" a house is built .", "no road"])
    write_json(folder / "LevirCCcaptions.json", {"images": [row | {"filepath": "val", "changeflag": 1} | change]})
    return [touch(folder / "images" / "val" / kind / "val_000001.png") for kind in kinds]


def test_levir_cc_is_a_pair_with_sentences(tmp_path):
    before, after = levir(tmp_path, "A", "B")
    (item,) = levir_cc.read_cc(tmp_path)
    assert (item.image, item.sensor, item.split, item.captions) == (after, "rgb", "val", ())
    assert (item.pair.before, item.pair.after, item.pair.sensors) == ((before,), (after,), ("rgb",))
    assert item.pair.captions == ("a house is built .", "no road")
    assert item.pair.mask is None


def test_levir_mci_adds_the_mask_and_keeps_the_place(tmp_path):
    *_, mask = levir(tmp_path, "A", "B", "label")
    (item,) = levir_cc.read_mci(tmp_path)
    assert item.pair.mask == mask
    assert item.place == next(levir_cc.read_cc(tmp_path)).place == "levir-val_000001.png"


@pytest.mark.parametrize(
    ("kinds", "change", "message"),
    [
        (["A", "B"], {}, r"names val/label/val_000001\.png"),
        (["A", "label"], {}, r"names val/B/val_000001\.png"),
        (["A", "B", "label"], {"filepath": "../val"}, "is no path inside"),
        (["A", "B", "label"], {"filepath": None}, "needs text in 'filepath'"),
        (["A", "B", "label"], {"split": "all"}, "'all' in 'split'"),
    ],
)
def test_a_broken_levir_record_is_refused(tmp_path, kinds, change, message):
    levir(tmp_path, *kinds, **change)
    with pytest.raises(DatasetError, match=message):
        list(levir_cc.read_mci(tmp_path))


def write_band(path, size, value, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": dtype, "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=from_origin(3e5, 5.3e6, 120 / size, 120 / size)) as dataset:
        dataset.write(np.full((1, size, size), value, dtype))


def write_s2(folder, name):
    for number, band in enumerate(bigearthnet.BANDS["sentinel-2-l2a"], 1):
        write_band(folder / name / f"{name}_{band}.tif", SIZES.get(band, 12), 100 * number, "uint16")


def write_s1(folder, name):
    write_band(folder / name / f"{name}_VV.tif", 12, -9.5, "float32")
    write_band(folder / name / f"{name}_VH.tif", 12, -16.0, "float32")


def first_version(folder, labels=("Sea and ocean", "Port areas", "Estuaries"), s1=True):
    write_s2(folder / "BigEarthNet-v1.0", S2_V1)
    source = "S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608.SAFE"
    content = {"labels": list(labels), "tile_source": source, "acquisition_date": "2017-06-13 10:10:31"}
    write_json(folder / "BigEarthNet-v1.0" / S2_V1 / f"{S2_V1}_labels_metadata.json", content)
    if s1:
        write_s1(folder / "BigEarthNet-S1-v1.0", S1)
        content = {"labels": list(labels), "corresponding_s2_patch": S2_V1}
        write_json(folder / "BigEarthNet-S1-v1.0" / S1 / f"{S1}_labels_metadata.json", content)
    return folder


def test_both_sensors_of_a_first_version_patch_share_place_split_and_labels(tmp_path):
    s2, s1 = bigearthnet.read_v1(first_version(tmp_path))
    assert (s2.sensor, s1.sensor) == ("sentinel-2-l2a", "sentinel-1-grd")
    assert s2.place == s1.place == PLACE
    assert s2.split == s1.split == split_of(PLACE)
    assert s2.labels == s1.labels == ("Marine waters",)
    assert (s2.acquired, s1.acquired) == ("2017-06-13T10:10:31Z", "2017-06-13T16:50:43Z")


def test_the_43_classes_are_given_when_asked_for(tmp_path):
    items = list(bigearthnet.read_v1(first_version(tmp_path), classes=43))
    assert items[0].labels == ("Sea and ocean", "Port areas", "Estuaries")
    with pytest.raises(DatasetError, match="not of 20"):
        list(bigearthnet.read_v1(tmp_path, classes=20))


def test_a_patch_without_a_class_of_the_19_comes_without_labels(tmp_path):
    (item,) = bigearthnet.read_v1(first_version(tmp_path, ("Airports", "Bare rock"), s1=False))
    assert item.labels == ()


def test_the_band_files_of_a_patch_open_as_one_scene(tmp_path):
    s2, s1 = bigearthnet.read_v1(first_version(tmp_path))
    optical = read_scene(s2.image, sensor=s2.sensor, bands=s2.bands)
    assert optical.band_names == s2.bands
    assert optical.shape == (12, 12)
    np.testing.assert_allclose(optical.pixels[:, 0, 0], np.arange(1, 13) / 100, rtol=1e-6)
    radar = read_scene(s1.image, sensor=s1.sensor, bands=s1.bands)
    assert radar.band_names == ("VV", "VH")
    np.testing.assert_allclose(radar.pixels[:, 5, 5], [-9.5, -16.0])


def test_a_first_version_without_sentinel_2_still_knows_the_place(tmp_path):
    write_s1(tmp_path / "BigEarthNet-S1-v1.0", S1)
    content = {"labels": ["Pastures"], "corresponding_s2_patch": S2_V1}
    write_json(tmp_path / "BigEarthNet-S1-v1.0" / S1 / f"{S1}_labels_metadata.json", content)
    (item,) = bigearthnet.read_v1(tmp_path)
    assert (item.sensor, item.place) == ("sentinel-1-grd", PLACE)


def test_a_broken_first_version_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"BigEarthNet-v1\.0 or BigEarthNet-S1-v1\.0"):
        list(bigearthnet.read_v1(tmp_path))
    (tmp_path / "BigEarthNet-v1.0").mkdir()
    with pytest.raises(DatasetError, match="holds no patches"):
        list(bigearthnet.read_v1(tmp_path))
    first_version(tmp_path, ("Lava",), s1=False)
    with pytest.raises(DatasetError, match=r"'Lava' in 'labels', none of the 43 classes"):
        list(bigearthnet.read_v1(tmp_path))
    first_version(tmp_path, s1=False)
    (tmp_path / "BigEarthNet-v1.0" / S2_V1 / f"{S2_V1}_B8A.tif").unlink()
    with pytest.raises(DatasetError, match=r"_B8A\.tif"):
        list(bigearthnet.read_v1(tmp_path))
    (tmp_path / "BigEarthNet-v1.0" / S2_V1 / f"{S2_V1}_labels_metadata.json").unlink()
    with pytest.raises(DatasetError, match=r"holds no .*_labels_metadata\.json"):
        list(bigearthnet.read_v1(tmp_path))


@pytest.mark.parametrize("key", ["labels", "tile_source"])
def test_a_first_version_record_without_a_needed_field_is_named(tmp_path, key):
    path = first_version(tmp_path, s1=False) / "BigEarthNet-v1.0" / S2_V1 / f"{S2_V1}_labels_metadata.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != key})
    with pytest.raises(DatasetError, match=rf"record 1 of .*_labels_metadata\.json has no '{key}'"):
        list(bigearthnet.read_v1(tmp_path))


def refined(folder, *, maps=True, s1=True, **change):
    row = {"patch_id": S2_V2, "labels": ["Arable land", "Pastures"], "split": "validation", "country": "Austria"}
    row |= {"s1_name": S1, "s2v1_name": S2_V1} | change
    pq.write_table(pa.Table.from_pylist([row]), folder / "metadata.parquet")
    write_s2(folder / "BigEarthNet-S2" / S2_V2.rsplit("_", 2)[0], S2_V2)
    if s1:
        write_s1(folder / "BigEarthNet-S1" / S1.rsplit("_", 3)[0], S1)
    if maps:
        scene = folder / "Reference_Maps" / S2_V2.rsplit("_", 2)[0]
        write_band(scene / S2_V2 / f"{S2_V2}_reference_map.tif", 12, 211, "uint16")
    return folder


def test_the_refined_version_has_the_published_split_labels_and_map(tmp_path):
    s2, s1 = bigearthnet.read_v2(refined(tmp_path))
    assert (s2.sensor, s1.sensor) == ("sentinel-2-l2a", "sentinel-1-grd")
    assert s2.place == s1.place == PLACE
    assert s2.split == s1.split == "val"
    assert s2.labels == s1.labels == ("Arable land", "Pastures")
    assert s2.image[1].name == f"{S2_V2}_B02.tif"
    assert s2.class_map == s1.class_map
    assert s2.class_map.codes["211"] == "Arable land"
    assert {122, 335, 423, 999} <= set(s2.class_map.ignore)
    assert not {str(code) for code in s2.class_map.ignore} & set(s2.class_map.codes)
    assert read_scene(s2.image, sensor=s2.sensor, bands=s2.bands).band_names == s2.bands


def test_the_refined_version_is_read_without_maps_and_by_one_sensor(tmp_path):
    (item,) = bigearthnet.read_v2(refined(tmp_path, maps=False, s1=False, split="test"))
    assert (item.sensor, item.split, item.class_map) == ("sentinel-2-l2a", "test", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_id": "../../x"}, "which is no patch"),
        ({"patch_id": S2_V1}, "names no tile"),
        ({"patch_id": S2_V2.replace("_61_", "_62_")}, "which is not in"),
        ({"s1_name": "../S1"}, "which is no patch"),
        ({"s1_name": None}, "needs text in 's1_name'"),
        ({"split": "bench"}, "'bench' in 'split'"),
        ({"labels": ["Sea and ocean"]}, "'Sea and ocean' in 'labels', none of the 19"),
        ({"labels": None}, "None in 'labels'"),
    ],
)
def test_a_broken_row_of_the_refined_version_is_refused(tmp_path, change, message):
    refined(tmp_path, maps=False, **change)
    with pytest.raises(DatasetError, match=rf"record 1 of .*metadata\.parquet.*{message}"):
        list(bigearthnet.read_v2(tmp_path))


def test_a_refined_version_without_its_files_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no metadata\.parquet"):
        list(bigearthnet.read_v2(tmp_path))
    touch(tmp_path / "metadata.parquet")
    with pytest.raises(DatasetError, match="BigEarthNet-S2 or BigEarthNet-S1"):
        list(bigearthnet.read_v2(tmp_path))
    (tmp_path / "BigEarthNet-S2").mkdir()
    with pytest.raises(DatasetError, match="is no Parquet file"):
        list(bigearthnet.read_v2(tmp_path))
    pq.write_table(pa.Table.from_pylist([{"patch_id": S2_V2, "split": "train"}]), tmp_path / "metadata.parquet")
    with pytest.raises(DatasetError, match="has no column labels, s1_name"):
        list(bigearthnet.read_v2(tmp_path))


def test_the_nomenclature_has_43_classes_of_which_32_make_19():
    names, groups = zip(*bigearthnet.nomenclature().values(), strict=True)
    assert len(set(names)) == 43
    assert sum(bool(group) for group in groups) == 32
    assert len(set(groups) - {""}) == 19


def test_labels_of_one_group_are_given_once_and_in_order():
    labels = ("Water bodies", "Rice fields", "Airports", "Water courses", "Vineyards")
    assert bigearthnet.groups_of(labels) == ("Inland waters", "Arable land", "Permanent crops")
    assert bigearthnet.groups_of(()) == ()


def test_the_grouping_agrees_with_published_patches(data_dir):
    patches = read_json(data_dir / "bigearthnet_mini" / "labels.json")
    assert len(patches) == 30
    for patch in patches.values():
        assert set(bigearthnet.groups_of(tuple(patch["labels"]))) == set(patch["new_labels"])
