import hashlib
import json
import shutil

import numpy as np
import pytest
import rasterio
from shapely.geometry import Polygon, box
from shapely.strtree import STRtree

from data_engine.objects import CATEGORIES
from data_engine.simulated import read, write_places
from data_engine.simulated_place import CODES, MOST, corner_of
from data_engine.splits import split_of
from rsvlm.errors import ConfigError, DatasetError
from rsvlm.raster import open_raster, read_labels, read_scene
from rsvlm.sensors import SENSORS

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("simulated")
    write_places(made, COUNT, seed=0)
    return made


@pytest.fixture(scope="module")
def items(folder):
    return list(read(folder))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_place_has_the_three_satellites_and_some_an_aerial_image(items):
    assert sorted({item.place for item in items}) == [f"simulated-{number}" for number in range(COUNT)]
    for place in {item.place for item in items}:
        sensors = {item.sensor for item in items if item.place == place}
        assert sensors >= {"sentinel-2-l2a", "sentinel-1-grd", "hls"}
    assert {item.sensor for item in items} & {"naip", "rgb"}
    assert sum(item.pair is not None for item in items) >= 3


def test_the_door_reads_every_image_as_its_sensor_date_and_ground(items):
    for item in items:
        with open_raster(item.image) as raster:
            assert raster.acquired.replace(tzinfo=None).isoformat() == item.acquired
            assert raster.grid.crs.to_epsg() // 100 == 326
        scene = read_scene(item.image, sensor=item.sensor)
        sensor = SENSORS[item.sensor]
        assert scene.band_names == tuple(band.name for band in sensor.bands)
        assert 128 <= min(scene.shape) <= max(scene.shape) <= 256
        assert scene.valid.any()
        assert read_labels(item.class_map.path).shape == scene.shape


def test_fractions_are_those_of_the_class_map_where_the_image_shows_ground(items):
    for item in items:
        codes = read_labels(item.class_map.path)
        assert set(np.unique(codes)) <= {0, *map(int, CODES)}
        known = codes[codes > 0].tolist()
        counted = {name: known.count(int(code)) / len(known) for code, name in CODES.items() if int(code) in known}
        assert item.fractions == pytest.approx(counted)
        assert item.labels == tuple(sorted(name for name, share in counted.items() if share >= 0.05))
        assert (codes[~read_scene(item.image).valid] == 0).all()


def test_water_in_the_class_map_is_water_in_the_pixels(items):
    """NDWI above 0 where the map says water: the truth and the picture are of the same ground."""
    checked = 0
    for item in items:
        if item.sensor != "sentinel-2-l2a" or item.fractions.get("permanent water", 0) < 0.1:
            continue
        scene, codes = read_scene(item.image), read_labels(item.class_map.path)
        green, nir = scene.band("B03"), scene.band("B08")
        wet = (green - nir) / (green + nir + 1e-6) > 0
        water = codes == 80
        assert wet[water].mean() > 0.9
        assert wet[(codes > 0) & ~np.isin(codes, (80, 201))].mean() < 0.1
        checked += 1
    assert checked


def test_targets_name_what_is_there_and_what_is_not(items):
    for item in items:
        classes = {target.phrase: target for target in item.targets if target.kind == "class"}
        aerial = item.sensor in ("naip", "rgb")
        wanted = set(CATEGORIES) if aerial else set(CATEGORIES) - {"building"} if item.sensor != "hls" else set()
        assert set(classes) == wanted
        height, width = read_labels(item.class_map.path).shape
        for target in item.targets:
            assert len(target.boxes) == len(target.polygons)
            for bounds, ring in zip(target.boxes, target.polygons, strict=True):
                assert bounds == Polygon(ring).bounds
                assert box(0, 0, width, height).contains(box(*bounds))
            if target.kind == "referring":
                _, words, kind = target.phrase.split(" ", 2)
                assert len(target.polygons) == 1 < len(classes[kind].polygons)
                assert target.polygons[0] in classes[kind].polygons, words
    assert any(target.polygons for item in items for target in item.targets)
    assert any(not target.polygons for item in items for target in item.targets)


def test_pairs_are_two_dates_of_one_ground_that_differ_where_the_mask_says(items):
    kinds = set()
    for item in items:
        if item.pair is None:
            continue
        assert item.image == item.pair.after[0]
        mask = read_labels(item.pair.mask)
        assert set(np.unique(mask)) == {0, 1}
        for before, after, name in zip(item.pair.before, item.pair.after, item.pair.sensors, strict=True):
            first, second = (read_scene(path, sensor=name) for path in (before, after))
            assert first.grid.transform == second.grid.transform
            assert first.shape == mask.shape
            assert first.acquired < second.acquired
            both = first.valid & second.valid
            moved = np.abs(first.pixels - second.pixels).mean(axis=0)
            assert moved[both & (mask == 1)].mean() > 1.02 * moved[both & (mask == 0)].mean(), (item.place, name)
        assert item.pair.phrase or item.pair.captions
        kinds.add(item.pair.phrase)
    assert len(kinds) >= 2


def test_splits_are_those_of_the_place(items):
    assert all(item.split == split_of(item.place) for item in items)


def test_no_two_places_share_ground(folder):
    """Each corner is the only one of its zone within 19 km, and a whole place keeps within 15 km of its corner."""
    corners = [corner_of(number) for number in range(MOST)]
    assert len(set(corners)) == MOST
    zones = {}
    for zone, east, north in corners:
        zones.setdefault(zone, []).append(box(east, north - 15_000, east + 15_000, north))
    for squares in zones.values():
        tree = STRtree(squares)
        pairs = tree.query(squares, predicate="intersects")
        assert (pairs[0] == pairs[1]).all()
    for number, place in enumerate(sorted(folder.iterdir())):
        zone, east, north = corner_of(number)
        for path in place.glob("*.tif"):
            with rasterio.open(path) as file:
                assert file.crs.to_epsg() == zone
                assert box(east, north - 15_000, east + 15_000, north).covers(box(*file.bounds))


def test_the_same_seed_writes_the_same_files_and_another_others(folder, tmp_path):
    write_places(tmp_path / "again", 1, seed=0)
    write_places(tmp_path / "other", 1, seed=1)
    ours = digests(folder)
    again = digests(tmp_path / "again")
    assert again == {name: ours[name] for name in again}
    assert digests(tmp_path / "other")["simulated-00000/s2.tif"] != ours["simulated-00000/s2.tif"]


def test_a_broken_off_run_goes_on_where_it_stopped(folder, tmp_path):
    shutil.copytree(folder / "simulated-00000", tmp_path / "simulated-00000")
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    draft = tmp_path / ".simulated-00001.partial"
    draft.mkdir()
    (draft / "s2.tif").write_bytes(b"half a file")
    assert {item.place for item in read(tmp_path)} == {"simulated-0"}
    write_places(tmp_path, 2, seed=0)
    assert {item.place for item in read(tmp_path)} == {"simulated-0", "simulated-1"}
    assert {path: path.stat().st_mtime_ns for path in made if path.is_file()} == {
        path: time for path, time in made.items() if path.is_file()
    }
    assert not draft.exists()


def test_places_of_another_seed_or_version_are_not_mixed_in(tmp_path):
    place = tmp_path / "simulated-00000"
    place.mkdir()
    for seed, version in ((1, 1), (0, 99)):
        (place / "place.json").write_text(json.dumps({"seed": seed, "version": version}))
        with pytest.raises(DatasetError, match="give a new folder"):
            write_places(tmp_path, 1, seed=0)


def test_impossible_counts_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="room for 24000"):
        write_places(tmp_path, MOST + 1, seed=0)
    with pytest.raises(DatasetError, match="holds no simulated"):
        list(read(tmp_path))
    (tmp_path / "simulated-00000").mkdir()
    (tmp_path / "simulated-00000" / "place.json").write_text(json.dumps({"place": "x", "images": [{"file": "a"}]}))
    with pytest.raises(DatasetError, match="image 1 of"):
        list(read(tmp_path))
