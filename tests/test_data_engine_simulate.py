import hashlib
import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from scipy import ndimage
from scipy.special import polygamma
from shapely.geometry import Point, Polygon, box

from data_engine.landscape import CROPS, Landscape, Layout, draw
from data_engine.objects import CATEGORIES, Stage, covered, place_objects, replace_objects
from data_engine.samples import PASSES, PLACES, REAL_SAMPLE, sample_landscape, write_samples, write_scene
from data_engine.shapes import fractal, patchwork
from data_engine.simulate import KINDS, LOOKS, beyond_swath, change, clouded, simulate
from data_engine.spectra import CODE, FINE_NM, SURFACES, WAVELENGTHS_NM, codes_of_cover, reflectances
from rsvlm.errors import BandError, ConfigError
from rsvlm.raster import open_raster, read_scene
from rsvlm.scene import Grid
from rsvlm.sensors import SENSORS

S2, S1, HLS, NAIP = (SENSORS[name] for name in ("sentinel-2-l2a", "sentinel-1-grd", "hls", "naip"))
LAYOUT = Layout(forest=0.25, river_m=80, lakes=0.03, towns=1, roads=1)
WORLDCOVER = {
    10: "tree cover",
    20: "shrubland",
    30: "grassland",
    40: "cropland",
    50: "built-up",
    60: "bare or sparse vegetation",
    80: "permanent water",
    90: "herbaceous wetland",
}


def grid_of(size=160, pixel_m=10.0):
    return Grid(size, size, Affine(pixel_m, 0, 500000, 0, -pixel_m, 5600000), pyproj.CRS.from_epsg(32633))


def flat(name, size=96):
    """Ground of one surface: one parcel, no relief."""
    shape = (size, size)
    empty = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    return Landscape(np.full(shape, CODE[name], np.uint8), *empty, grid_of(size), seed=1)


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def ground():
    return draw(LAYOUT, grid_of(), seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return write_samples(folder, seed=0), json.loads((folder / "truth.json").read_text())


def test_the_same_seed_gives_the_same_ground_and_pixels(ground):
    again = draw(LAYOUT, grid_of(), seed=3)
    other = draw(LAYOUT, grid_of(), seed=4)
    ours, theirs = (digest(each.surfaces, each.parcels, each.relief_m) for each in (ground, again))
    assert ours == theirs != digest(other.surfaces, other.parcels, other.relief_m)
    for sensor in (S2, S1):
        first = simulate(ground, sensor, seed=1, clouds=0.2).pixels
        assert digest(first) == digest(simulate(again, sensor, seed=1, clouds=0.2).pixels)
        assert digest(first) != digest(simulate(again, sensor, seed=2, clouds=0.2).pixels)


def test_fractions_agree_with_the_map_counted_pixel_by_pixel(ground):
    counted = {}
    for code in ground.surfaces.ravel().tolist():
        counted[SURFACES[code].cover] = counted.get(SURFACES[code].cover, 0) + 1
    fractions = ground.cover_fractions()
    assert fractions == pytest.approx({cover: n / ground.surfaces.size for cover, n in counted.items()})
    assert list(fractions.values()) == sorted(fractions.values(), reverse=True)


@pytest.mark.parametrize(("wish", "cover"), [("forest", "tree cover"), ("lakes", "permanent water")])
def test_a_layout_gets_the_share_it_asks_for(wish, cover):
    plain = Layout(towns=0, roads=0, wild=True, forest=0.0)
    ground = draw(replace(plain, **{wish: 0.3}), grid_of(), seed=5)
    assert ground.cover_fractions()[cover] == pytest.approx(0.3, abs=0.05)


def test_the_sea_lies_on_one_side_and_the_river_crosses_the_scene():
    sea = draw(Layout(sea=0.4, towns=0, roads=0, forest=0), grid_of(), seed=2).is_any("clear water", "turbid water")
    assert sea.mean() == pytest.approx(0.4, abs=0.02)
    assert np.bincount(ndimage.label(sea)[0].ravel())[1:].max() > 0.9 * sea.sum()
    river = draw(Layout(river_m=80, towns=0, roads=0), grid_of(), seed=2).is_any("turbid water")
    rows, cols = np.nonzero(river)
    assert max(np.ptp(rows), np.ptp(cols)) >= 158


def test_fields_have_one_crop_each_and_follow_the_season():
    quiet = Layout(towns=0, roads=0, forest=0.0, season="winter")
    ground = draw(quiet, grid_of(), seed=6)
    crops = np.isin(ground.surfaces, [CODE[name] for name in CROPS if name != "grassland"])
    for parcel in np.unique(ground.parcels[crops]):
        assert len(np.unique(ground.surfaces[crops & (ground.parcels == parcel)])) == 1
    assert not ground.is_any("ripe crop").any()
    assert draw(replace(quiet, season="summer"), grid_of(), seed=6).is_any("ripe crop").mean() > 0.1


def test_a_layout_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="known are spring"):
        Layout(season="monsoon")
    with pytest.raises(ConfigError, match="forest is a share"):
        Layout(forest=1.2)


def test_fractal_noise_is_standard_and_smoother_for_a_steeper_slope():
    rough, smooth = (fractal(np.random.default_rng(0), (90, 130), scale=40, slope=s) for s in (1.0, 3.0))
    for field in (rough, smooth):
        assert field.shape == (90, 130)
        assert (field.mean(), field.std()) == pytest.approx((0, 1), abs=1e-3)
    assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(rough)).mean()


def test_parcels_are_numbered_without_gaps_and_stay_in_their_block():
    land = patchwork(np.random.default_rng(0), (100, 100), block=40, length=20, width=10)
    assert np.unique(land.parcels).tolist() == list(range(land.parcels.max() + 1))
    assert all(len(np.unique(land.blocks[land.parcels == parcel])) == 1 for parcel in np.unique(land.parcels))


def test_resampling_to_bands_equals_the_response_summed_by_hand():
    got = reflectances(S2.bands)
    for name, band_name in (("snow", "B11"), ("growing crop", "B05"), ("sand", "B02")):
        band = S2.band(band_name)
        sigma = band.fwhm_nm / 2.354820045
        total = weight_sum = 0.0
        for nm in FINE_NM:
            weight = np.exp(-((nm - band.wavelength_nm) ** 2) / (2 * sigma**2))
            total += weight * np.interp(nm, WAVELENGTHS_NM, SURFACES[CODE[name]].reflectance)
            weight_sum += weight
        assert got[CODE[name], S2.bands.index(band)] == pytest.approx(total / weight_sum, rel=1e-4)


def test_thermal_bands_are_left_out_and_bands_beyond_the_spectra_refused():
    landsat = SENSORS["landsat-8-c2l2"]
    assert simulate(flat("sand", 32), landsat, seed=0).band_names == tuple(b.name for b in landsat.bands[:-1])
    with pytest.raises(BandError, match="400 to 2400 nm"):
        reflectances([replace(S2.bands[0], wavelength_nm=3500)])


@pytest.mark.parametrize(
    ("name", "ndvi", "ndwi"),
    [
        ("clear water", (-0.9, -0.1), (0.3, 1.0)),
        ("turbid water", (-0.6, 0.0), (0.2, 0.8)),
        ("flood water", (-0.6, 0.0), (0.1, 0.8)),
        ("growing crop", (0.45, 0.9), (-0.85, -0.5)),
        ("stubble", (0.1, 0.4), (-0.6, -0.25)),
        ("ploughed field", (0.1, 0.35), (-0.55, -0.25)),
        ("grassland", (0.35, 0.75), (-0.75, -0.4)),
        ("broadleaved forest", (0.6, 0.92), (-0.85, -0.55)),
        ("coniferous forest", (0.5, 0.9), (-0.85, -0.5)),
        ("asphalt", (0.0, 0.25), (-0.35, -0.05)),
        ("tiled roof", (0.0, 0.3), (-0.5, -0.2)),
        ("sand", (0.0, 0.2), (-0.35, -0.1)),
        ("snow", (-0.1, 0.05), (-0.05, 0.15)),
        ("burnt ground", (0.05, 0.4), (-0.6, -0.2)),
    ],
)
def test_indices_of_a_surface_lie_where_they_do_on_real_ground(name, ndvi, ndwi):
    scene = simulate(flat(name, 48), S2, seed=0)
    green, red, nir = (scene.band(band) for band in ("B03", "B04", "B08"))
    assert ndvi[0] <= np.median((nir - red) / (nir + red)) <= ndvi[1]
    assert ndwi[0] <= np.median((green - nir) / (green + nir)) <= ndwi[1]


def test_speckle_has_the_looks_of_sentinel_1(ground):
    first, second = (simulate(ground, S1, seed=seed).pixels for seed in (1, 2))
    ratio = (first - second) * np.log(10) / 10  # the ground cancels, two independent log-gammas stay
    looks = np.linspace(1, 12, 1101)
    for band in ratio:
        found = looks[np.argmin(np.abs(2 * polygamma(1, looks) - band.var()))]
        assert found == pytest.approx(LOOKS, rel=0.05)
    assert abs(np.corrcoef(ratio[0].ravel(), ratio[1].ravel())[0, 1]) < 0.03


def test_backscatter_means_are_those_of_the_library():
    scene = simulate(flat("growing crop", 256), S1, seed=0)
    power = (10 ** (scene.pixels / 10)).mean(axis=(1, 2))
    # one parcel's level moves both polarisations by the same number of decibels
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(6.0, abs=0.1)
    assert abs(10 * np.log10(power[0]) + 10.0) < 3 * 8 * SURFACES[CODE["growing crop"]].tint


def test_clouds_cover_the_share_asked_for_and_cast_shadows(ground):
    clear, cloudy = (simulate(ground, S2, seed=1, clouds=share).band("B02") for share in (0.0, 0.3))
    assert (cloudy > clear + 0.02).mean() == pytest.approx(0.3, abs=0.05)
    assert 0.05 < (cloudy < 0.8 * clear).mean() < 0.4
    assert np.array_equal(simulate(ground, S1, seed=1).pixels, simulate(ground, S1, seed=1, clouds=0.3).pixels)
    with pytest.raises(ConfigError, match="clouds is a share"):
        simulate(ground, S2, seed=1, clouds=30)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_truth_of_a_change_is_where_the_surface_differs(kind, ground):
    before = ground.surfaces.copy()
    after, truth = change(ground, kind, seed=1)
    again, _ = change(ground, kind, seed=1)
    assert np.array_equal(ground.surfaces, before), "the landscape before must stay as it was"
    assert np.array_equal(truth, after.surfaces != before)
    assert digest(after.surfaces) == digest(again.surfaces)
    assert 0.004 < truth.mean() < 0.95
    new = {SURFACES[code].name for code in np.unique(after.surfaces[truth])}
    single = {"flood": {"flood water"}, "burn": {"burnt ground"}, "clear-cut": {"felled forest"}, "snowfall": {"snow"}}
    single["harvest"] = {"stubble"}
    assert new == single[kind] if kind in single else new & {"pale roof", "tiled roof"}


def test_floods_spare_roofs_and_fellings_take_only_forest(ground):
    _, flooded = change(ground, "flood", seed=1)
    assert not (flooded & ground.is_any("pale roof", "tiled roof", "broadleaved forest", "coniferous forest")).any()
    _, felled = change(ground, "clear-cut", seed=1)
    assert ground.is_any("broadleaved forest", "coniferous forest")[felled].all()
    with pytest.raises(ConfigError, match="known are flood, burn"):
        change(ground, "meteor", seed=1)


@pytest.mark.parametrize(("kind", "sensor"), [("flood", S2), ("flood", S1), ("new buildings", S2)])
def test_ground_that_did_not_change_looks_the_same_on_both_dates(kind, sensor, ground):
    after, truth = change(ground, kind, seed=1)
    first, second = (simulate(each, sensor, seed=9).pixels for each in (ground, after))
    far = ~ndimage.binary_dilation(truth, np.ones((3, 3)), iterations=8)  # beyond the reach of the blur of 60 m bands
    assert far.sum() > 1000
    assert np.allclose(first[:, far], second[:, far], atol=1e-5)
    assert np.abs(first[..., truth] - second[..., truth]).mean() > 0.01


def test_harvest_cuts_whole_ripe_parcels_and_nothing_else(ground):
    ripe = ground.is_any("ripe crop")
    after, cut = change(ground, "harvest", seed=2)
    assert ripe[cut].all()
    assert 0.2 < cut.sum() / ripe.sum() < 0.95
    for parcel in np.unique(ground.parcels[cut]):
        assert cut[ripe & (ground.parcels == parcel)].all()
    winter = draw(replace(LAYOUT, season="winter"), grid_of(64), seed=3)
    assert not change(winter, "harvest", seed=2)[1].any()
    assert not after.is_any("flood water").any()


@pytest.mark.parametrize(("name", "power"), [("clear water", 6.0), ("coniferous forest", 2.0), ("pale roof", 0.5)])
def test_backscatter_falls_with_incidence_by_the_cosine_power_of_its_surface(name, power):
    near, far = 30.0, 46.0
    scene = simulate(flat(name, 256), S1, seed=0, incidence_deg=(near, far))
    level = simulate(flat(name, 256), S1, seed=0)  # the same ground and speckle at 38 degrees throughout
    gained = (scene.pixels - level.pixels).mean(axis=1)
    for column in (0, 60, 255):
        angle = np.radians(near + (far - near) * column / 255)
        expected = power * 10 * np.log10(np.cos(angle) / np.cos(np.radians(38)))
        assert gained[:, column] == pytest.approx(expected, abs=0.02)
    # 30 to 46 degrees: cos falls from 0.8660 to 0.6947, or by 0.957 dB, power times
    assert gained[0, 0] - gained[0, -1] == pytest.approx(0.957 * power, abs=0.02)


def test_impossible_incidence_is_refused(ground):
    with pytest.raises(ConfigError, match="from 0 to below 80"):
        simulate(ground, S1, seed=0, incidence_deg=(30, 95))


@pytest.mark.parametrize("sensor", [S2, S1], ids=lambda sensor: sensor.name)
def test_the_wedge_beyond_the_swath_is_invalid_empty_slanted_and_at_one_side(sensor, ground):
    whole = simulate(ground, sensor, seed=1)
    sides = set()
    for seed in range(6):
        scene = beyond_swath(whole, 0.2, seed=seed)
        assert (~scene.valid).mean() == pytest.approx(0.2, abs=0.01)
        assert (scene.pixels[:, ~scene.valid] == 0).all()
        assert np.array_equal(scene.pixels[:, scene.valid], whole.pixels[:, scene.valid])
        missing = (~scene.valid).sum(axis=1)
        assert abs(int(missing[0]) - int(missing[-1])) > 20  # tan 8 degrees of 160 rows is 22 pixels
        gone = ~scene.valid[np.argmax(missing)]
        sides.add(bool(gone[0]))
        assert gone[0] != gone[-1]
    assert sides == {True, False}
    with pytest.raises(ConfigError, match="below 1"):
        beyond_swath(whole, 1.0, seed=0)


def test_the_cloud_mask_is_where_the_scene_is_clouded(ground):
    clear, cloudy = (simulate(ground, S2, seed=1, clouds=share).band("B02") for share in (0.0, 0.3))
    mask = clouded(ground, 0.3, seed=1)
    assert 0.02 < mask.mean() < 0.3
    assert (cloudy[mask] > clear[mask] + 0.1).mean() > 0.95
    assert not clouded(ground, 0.0, seed=1).any()


SHORE = Layout(sea=0.55, towns=0, roads=0, forest=0.05, field_m=150, relief_m=0.5)
COUNTS = {"ship": 4, "aircraft": 3, "storage tank": 5, "building": 6, "greenhouse": 2}


@pytest.fixture(scope="module")
def shore():
    return draw(SHORE, grid_of(400, 1.0), seed=5)


@pytest.fixture(scope="module")
def stage(shore):
    return place_objects(shore, COUNTS, seed=4)


def test_exactly_the_objects_asked_for_are_placed_apart_and_inside(stage, shore):
    found = [thing.category for thing in stage.things]
    assert {kind: found.count(kind) for kind in COUNTS} == COUNTS
    outlines = [Polygon(thing.polygon) for thing in stage.things]
    scene = box(0, 0, 400, 400)
    assert all(each.is_valid and scene.contains(each) for each in outlines)
    assert all(not a.intersects(b) for number, a in enumerate(outlines) for b in outlines[:number])
    for thing in stage.things:
        where = covered(thing.polygon, shore.grid.shape)
        assert shore.is_any(*CATEGORIES[thing.category].stands_on)[where].all()


def test_outlines_are_the_pixels_of_the_objects_counted_one_by_one(stage):
    """The slow twin asks shapely of every pixel centre."""
    surfaces = stage.landscape().surfaces
    grounds = stage.ground.surfaces
    covered_by_any = np.zeros(surfaces.shape, dtype=bool)
    for thing in stage.things:
        rows, cols = np.nonzero(covered(thing.polygon, surfaces.shape))
        outline = Polygon(thing.polygon)
        x0, y0, x1, y1 = (int(v) for v in outline.bounds)
        slow = {
            (r, c) for r in range(y0, y1 + 1) for c in range(x0, x1 + 1) if outline.contains(Point(c + 0.5, r + 0.5))
        }
        assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == slow
        assert (surfaces[rows, cols] == CODE[thing.surface]).all()
        assert (grounds[rows, cols] != CODE[thing.surface]).all()
        covered_by_any[rows, cols] = True
    assert len(np.unique(surfaces[~covered_by_any & (surfaces != grounds)])) <= 1  # wakes at most


def test_objects_have_the_size_and_colour_they_are_said_to_have(stage):
    for thing in stage.things:
        kind = CATEGORIES[thing.category]
        assert kind.colours[thing.colour] == thing.surface
        points = np.array(thing.polygon)
        length = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)).max()  # pixels are metres here
        assert kind.finest_px <= length
        if thing.category in ("ship", "storage tank"):  # whose longest chord is their length
            wanted = "large" if length >= kind.large_m else "medium" if length >= kind.medium_m else "small"
            assert thing.size == wanted


def test_every_sensor_shows_the_objects(shore, stage):
    ground = stage.landscape()
    tall = np.zeros(ground.grid.shape, dtype=bool)
    for thing in stage.things:
        if thing.category == "ship":
            tall |= ndimage.binary_erosion(covered(thing.polygon, ground.grid.shape))
    assert tall.sum() > 50
    for sensor in (NAIP, S1):
        empty, seen = (simulate(each, sensor, seed=1).pixels for each in (shore, ground))
        assert np.abs(seen - empty)[:, tall].mean() > (0.1 if sensor is NAIP else 10), sensor.name
    assert seen[0, tall].mean() > 0 > empty[0, tall].mean() + 15  # ships shine in radar, water does not
    large = place_objects(draw(SHORE, grid_of(160), seed=5), {"ship": 2}, seed=1)
    radar = simulate(large.landscape(), S1, seed=1).band("VV")
    for thing in large.things:
        assert radar[covered(thing.polygon, radar.shape)].mean() > -4


def test_houses_and_ships_throw_shadows_to_the_north_west(stage):
    ground, bare = stage.landscape(), stage.ground
    lit, dark = (simulate(each, NAIP, seed=1).pixels.mean(axis=0) for each in (bare, ground))
    tank = next(thing for thing in stage.things if thing.category == "storage tank")
    where = covered(tank.polygon, dark.shape)
    shadow = np.roll(where, (-5, -5), (0, 1)) & ~where & (ground.surfaces == bare.surfaces)
    away = np.roll(where, (5, 5), (0, 1)) & ~where & (ground.surfaces == bare.surfaces)
    assert (dark / lit)[shadow].mean() < 0.8
    assert (dark / lit)[away].mean() > 0.95


def test_objects_are_the_same_for_the_same_seed_and_others_for_another(stage, shore):
    assert place_objects(shore, COUNTS, seed=4).things == stage.things
    assert place_objects(shore, COUNTS, seed=5).things != stage.things
    assert place_objects(shore, {}, seed=4) == Stage(shore)


def test_objects_come_and_go_and_the_others_stay_as_they_were(stage):
    later = replace_objects(stage, lost=3, new={"ship": 2, "building": 1}, seed=1)
    gone, new = set(stage.things) - set(later.things), set(later.things) - set(stage.things)
    assert len(gone) == 3
    assert sorted(thing.category for thing in new) == ["building", "ship", "ship"]
    before, after = stage.landscape(), later.landscape()
    for thing in gone | new:
        where = covered(thing.polygon, before.grid.shape)
        assert (before.surfaces[where] != after.surfaces[where]).all()
    first, second = (simulate(each, NAIP, seed=9).pixels for each in (before, after))
    for thing in set(stage.things) & set(later.things):
        inside = ndimage.binary_erosion(covered(thing.polygon, before.grid.shape), iterations=2)
        assert np.allclose(first[:, inside], second[:, inside], atol=1e-3)  # tint and all
    with pytest.raises(ConfigError, match="cannot be lost"):
        replace_objects(stage, lost=99, new={}, seed=1)


def test_objects_that_have_no_room_or_no_name_are_refused(shore):
    with pytest.raises(ConfigError, match="known are ship"):
        place_objects(shore, {"unicorn": 1}, seed=0)
    with pytest.raises(ConfigError, match="no room for 500"):
        place_objects(shore, {"building": 500}, seed=0)
    with pytest.raises(ConfigError, match="no room for 1"):
        place_objects(flat("grassland"), {"ship": 1}, seed=0)
    with pytest.raises(ConfigError, match="do not show"):
        place_objects(flat("grassland"), {"aircraft": 1}, seed=0)


def test_class_medians_are_those_of_real_hls_chips(data_dir):
    """Stated tolerance, per band: within the middle 80 percent of real pixels, and within 0.07 of the real median.

    Bare ground need only lie within the range: the real class is mostly wet flats, dark in the short-wave infrared,
    which no simulated landscape has.
    """
    real = {cover: [] for cover in WORLDCOVER.values()}
    for line in (data_dir / "hls_worldcover" / "index.jsonl").read_text().splitlines():
        with rasterio.open(data_dir / "hls_worldcover" / json.loads(line)["chip"]) as chip:
            values = chip.read()[:, ::4, ::4]
        usable = ((values[:7] > -200) & (values[:7] < 10000)).all(axis=0) & (values[:7] != 0).any(axis=0)
        for code, cover in WORLDCOVER.items():
            real[cover].append(values[:7, usable & (values[7] == code)] / 1e4)
    simulated = {cover: [] for cover in WORLDCOVER.values()}
    grounds = [sample_landscape(name) for name in ("river_farmland", "dry_hills", "coast", "lake_district")]
    grounds.append(draw(Layout(shrubs=0.5, lakes=0.2, marsh_m=120, wild=True), grid_of(pixel_m=30.0), seed=1))
    for ground in grounds:
        pixels = simulate(ground, HLS, seed=1).pixels
        for cover, found in simulated.items():
            found.append(pixels[:, np.isin(ground.surfaces, codes_of_cover(cover))])
    for cover, chips in real.items():
        low, middle, high = np.percentile(np.concatenate(chips, axis=1), (10, 50, 90), axis=1)
        median = np.median(np.concatenate(simulated[cover], axis=1), axis=1)
        assert ((low <= median) & (median <= high)).all(), f"{cover}: {median} outside {low} to {high}"
        near = np.abs(median - middle).max() < 0.07
        assert near or cover == "bare or sparse vegetation", f"{cover}: {median} against {middle}"


@pytest.mark.parametrize("sensor", [S2, S1, HLS, NAIP], ids=lambda sensor: sensor.name)
def test_a_written_scene_reads_back_as_it_was(sensor, tmp_path):
    ground = draw(LAYOUT, grid_of(64, {"naip": 1.0, "hls": 30.0}.get(sensor.name, 10.0)), seed=3)
    scene = simulate(ground, sensor, seed=1, acquired=datetime(2020, 6, 1, 10, 36, 29))
    write_scene(tmp_path / "scene.tif", scene, "SIMULATED by rsvlm")
    back = read_scene(tmp_path / "scene.tif")
    assert back.sensor.name == sensor.name
    assert back.band_names == scene.band_names
    assert back.grid.transform == scene.grid.transform
    assert back.valid.all()
    step = max(abs(band.scale) for band in sensor.bands) if sensor is not S1 else 1e-6
    assert np.allclose(back.pixels, scene.pixels, atol=0.51 * step + 1e-6)


def test_samples_are_stored_as_the_real_products_are(written):
    paths, truth = written
    assert [path.name for path in paths] == [*(f"{p.place}_{p.label}.tif" for p in PASSES), REAL_SAMPLE]
    assert list(truth["samples"]) == [path.name for path in paths]
    for path, each in zip(paths, PASSES, strict=False):
        with rasterio.open(path) as file:
            assert file.dtypes[0] == {"sentinel-1-grd": "float32", "naip": "uint8", "hls": "int16"}.get(
                each.sensor, "uint16"
            )
            assert file.crs.to_epsg() == PLACES[each.place].epsg
            assert file.descriptions == tuple(band.name for band in SENSORS[each.sensor].bands)
            assert file.tags()["TIFFTAG_IMAGEDESCRIPTION"].startswith("SIMULATED by rsvlm")
            assert file.tags()["TIFFTAG_DATETIME"] == each.acquired.replace("-", ":").replace("T", " ")


def test_every_sample_is_recognised_and_dated_by_the_door(written):
    paths, truth = written
    for path in paths:
        known = truth["samples"][path.name]
        with open_raster(path) as raster:
            assert raster.sensor.name == known["sensor"]
            found = raster.acquired.replace(tzinfo=None).isoformat() if raster.acquired else None
            assert found == known.get("acquired")


def test_captions_and_fractions_of_the_samples_are_those_of_the_ground(written):
    _, truth = written
    entry = truth["samples"]["river_farmland_after_flood_s2.tif"]
    before = sample_landscape("river_farmland")
    after, mask = change(before, "flood", seed=0)
    assert entry["cover"] == pytest.approx(after.cover_fractions(), abs=1e-4)
    assert entry["change"]["hectares"] == pytest.approx(mask.sum() / 100)
    share = round(100 * mask.mean())
    assert f"flood water ({share} percent)" in entry["caption"]
    for each in truth["samples"].values():
        assert sum(each.get("cover", {"all": 1}).values()) == pytest.approx(1, abs=0.002)


def test_water_measured_by_ndwi_in_a_sample_is_the_water_that_is_there(written):
    paths, truth = written
    for path in paths:
        entry = truth["samples"][path.name]
        if not path.stem.endswith("_s2") or "cloudy" in path.stem or "snow" in path.stem:
            continue
        scene = read_scene(path)
        green, nir = scene.band("B03"), scene.band("B08")
        wet = ((green - nir) / (green + nir) > 0).mean()
        water = entry["cover"].get("permanent water", 0) + entry["cover"].get("flood water", 0)
        assert wet == pytest.approx(water, abs=0.015), path.name


def test_the_real_sample_is_the_chip_of_its_package(written):
    spyndex = pytest.importorskip("spyndex")
    scene = read_scene(written[0][-1])
    assert scene.sensor.name == "sentinel-2-l2a"
    assert scene.band_names == ("B02", "B03", "B04", "B08")
    assert scene.grid.crs is None
    assert np.allclose(scene.pixels, spyndex.datasets.open("sentinel").values / 1e4, atol=1e-6)
