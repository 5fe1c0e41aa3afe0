"""The leakage check names what both lists show, and nothing else."""

import json

import numpy as np
import pytest
from fakes import TinyEncoder, write_raster
from PIL import Image

from rsvlm.errors import EvaluationError
from rsvlm.leakage.likeness import near_hashes, turned
from rsvlm.leakage.pairs import Leak, LeakReport, Listed, _strongest, find_leaks


def picture(seed, side=96):
    """Seeded patches of many sizes, as fields, roofs and roads are: (side, side, 3)."""
    random = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 90, np.uint8)
    for _ in range(60):
        row, col, height, width = random.integers((0, 0, 4, 4), (side, side, side // 4, side // 4))
        pixels[row : row + height, col : col + width] = random.integers(0, 256, 3)
    return pixels


def save(path, pixels, **options):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


def rgb(*paths):
    return [Listed(path, "rgb") for path in paths]


def sentinel(*paths, place=""):
    return [Listed(path, "sentinel-2-l2a", place) for path in paths]


def check(train, held_out, **options):
    return find_leaks(train, held_out, progress=False, **options)


def of(report, reason):
    return [leak for leak in report.pairs if leak.reason == reason]


def test_empty_lists_give_an_empty_report(tmp_path):
    one = rgb(save(tmp_path / "a.png", picture(0)))
    for train, held_out in (([], []), (one, []), ([], one)):
        report = check(train, held_out, encoder=TinyEncoder())
        assert report.pairs == ()
        assert report.unreadable == {}
        assert report.listed == {"train": len(train), "held-out": len(held_out)}


def test_the_same_path_is_found_under_another_spelling(tmp_path):
    path = save(tmp_path / "a.png", picture(0))
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / ".." / "a.png"
    assert of(check(rgb(path), rgb(other)), "same file") == [Leak(str(path), str(other), "same file", "the same path")]


def test_equal_bytes_under_another_name_are_the_same_file_and_equal_sizes_are_not(tmp_path):
    first = save(tmp_path / "a.bmp", picture(0))
    copy, other = tmp_path / "b.bmp", save(tmp_path / "c.bmp", picture(1))
    copy.write_bytes(first.read_bytes())
    assert other.stat().st_size == first.stat().st_size
    found = of(check(rgb(first), rgb(copy, other)), "same file")
    assert found == [Leak(str(first), str(copy), "same file", "equal bytes")]


def test_overlapping_footprints_are_named_with_the_share_of_the_held_out_one(tmp_path):
    train = write_raster(tmp_path / "a.tif", seed=1, shape=(40, 40))
    right = write_raster(tmp_path / "b.tif", seed=2, shape=(40, 40), place=(500_300, 5_500_000))  # 30 of 40 columns on
    found = check(sentinel(train), sentinel(right)).pairs
    assert found == (Leak(str(train), str(right), "same place", "25 % of the held-out footprint"),)


def test_a_small_held_out_chip_inside_a_large_scene_is_found_and_the_other_way_round(tmp_path):
    large = write_raster(tmp_path / "a.tif", seed=1, shape=(160, 160))
    small = write_raster(tmp_path / "b.tif", seed=2, shape=(8, 8), place=(500_400, 5_499_600))
    assert of(check(sentinel(large), sentinel(small)), "same place")[0].detail == "100 % of the held-out footprint"
    assert of(check(sentinel(small), sentinel(large)), "same place")[0].detail == "0.25 % of the held-out footprint"


def test_overlap_is_found_between_coordinate_systems(tmp_path):
    train = write_raster(tmp_path / "a.tif", seed=1, shape=(40, 40))  # corner at 15 E, 49.65 N
    where = (1_669_792, 6_387_000)  # 15 E in web mercator, about 49.65 N
    held = write_raster(tmp_path / "b.tif", seed=2, shape=(400, 400), place=where, crs="EPSG:3857")
    assert [leak.train for leak in of(check(sentinel(train), sentinel(held)), "same place")] == [str(train)]


def test_adjacent_tiles_do_not_overlap(tmp_path):
    middle = write_raster(tmp_path / "a.tif", seed=1, shape=(40, 40))
    steps = ((400, 0), (-400, 0), (0, 400), (400, -400))
    around = [
        write_raster(tmp_path / f"{n}.tif", seed=2 + n, shape=(40, 40), place=(500_000 + x, 5_500_000 + y))
        for n, (x, y) in enumerate(steps)
    ]
    report = check(sentinel(middle), sentinel(*around))
    assert report.pairs == ()
    assert report.checked["same place: held-out"] == 4


def test_a_shared_name_of_a_place_is_found_without_coordinates_and_an_empty_one_is_none(tmp_path):
    a, b, c = (save(tmp_path / f"{n}.png", picture(n)) for n in range(3))
    report = check([Listed(a, "rgb", "Kyiv"), Listed(b, "rgb")], [Listed(c, "rgb", "Kyiv"), Listed(b, "rgb")])
    assert of(report, "same place") == [Leak(str(a), str(c), "same place", "both at Kyiv")]
    assert report.checked["same place: train"] == 1
    assert any("1 of 2 train images were not checked for same place" in note for note in report.notes)


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_and_compressed_copy_is_found_and_how_it_was_turned_is_said(tmp_path, turn):
    words = (
        *("", ", rotated by 90 degrees", ", rotated by 180 degrees", ", rotated by 270 degrees"),
        *(", mirrored", ", mirrored, rotated by 90 degrees"),
        *(", mirrored, rotated by 180 degrees", ", mirrored, rotated by 270 degrees"),
    )
    original = picture(3)
    undone = np.rot90(original, -(turn % 4))  # what `turn` brings back
    undone = undone[:, ::-1] if turn >= 4 else undone
    train = save(tmp_path / "a.png", original)
    held = save(tmp_path / "b.jpg", undone, quality=40)
    (leak,) = check(rgb(train), rgb(held)).pairs
    assert (leak.reason, leak.train, leak.held_out) == ("same picture", str(train), str(held))
    assert leak.detail.startswith("hash distance ")
    assert leak.detail.split(" of 64")[1] == words[turn]


def test_resized_and_cropped_copies_are_found(tmp_path):
    original = picture(4)
    train = save(tmp_path / "a.png", original)
    half = save(tmp_path / "b.png", np.asarray(Image.fromarray(original).resize((48, 48))))
    cropped = save(tmp_path / "c.png", original[2:-2, 2:-2])
    found = check(rgb(train), rgb(half, cropped)).pairs
    assert [(leak.held_out, leak.reason) for leak in found] == [
        (str(half), "same picture"),
        (str(cropped), "same picture"),
    ]


def test_a_picture_of_a_multispectral_scene_is_found(tmp_path):
    scene = write_raster(tmp_path / "a.tif", seed=5, shape=(96, 96))
    copy = write_raster(tmp_path / "b.tif", seed=5, shape=(96, 96), crs=None, note="other bytes")
    (leak,) = check(sentinel(scene), sentinel(copy)).pairs
    assert leak.reason == "same picture"


def test_different_pictures_are_not_flagged(tmp_path):
    paths = [save(tmp_path / f"{n}.png", picture(n)) for n in range(40)]
    report = check(rgb(*paths[:20]), rgb(*paths[20:]))
    assert report.pairs == ()
    assert report.checked["same picture: train"] == 20


def test_flat_shaded_and_empty_pictures_are_not_flagged(tmp_path):
    random = np.random.default_rng(0)
    slope = np.linspace(60, 160, 96)[None, :, None]
    kinds = {
        "sea": lambda: 40 + random.normal(0, 1, (96, 96, 3)),
        "dune": lambda: slope + random.normal(0, 8, (96, 96, 3)),
        "black": lambda: np.zeros((96, 96, 3)),
    }
    made = {
        (kind, n): save(tmp_path / f"{kind}{n}.png", make().clip(0, 255).astype(np.uint8), compress_level=n)
        for kind, make in kinds.items()
        for n in (1, 9)
    }
    report = check(*(rgb(*(made[kind, n] for kind in kinds)) for n in (1, 9)))
    assert of(report, "same picture") == []
    assert any("without detail" in note for note in report.notes)


def test_missing_edges_of_one_shape_are_not_what_makes_pictures_alike(tmp_path):
    import rasterio

    paths = [write_raster(tmp_path / f"{n}.tif", seed=n, shape=(96, 96), crs=None) for n in (1, 2)]
    wedge = np.tril(np.ones((96, 96), bool), -20)
    for path in paths:
        with rasterio.open(path, "r+") as file:
            file.write(np.where(wedge, 0, file.read()))
    assert check(sentinel(paths[0]), sentinel(paths[1])).pairs == ()


def test_similar_vectors_are_found_within_one_sensor_only(tmp_path):
    first = save(tmp_path / "a.png", picture(6))
    mixed = picture(6).reshape(-1, 3)
    np.random.default_rng(0).shuffle(mixed)  # the same colours elsewhere: all the tiny encoder sees
    other = save(tmp_path / "b.png", mixed.reshape(96, 96, 3))
    scene = write_raster(tmp_path / "c.tif", seed=5, shape=(96, 96))
    train = [*rgb(first), *sentinel(scene)]
    assert check(train, rgb(other)).pairs == ()
    report = check(train, rgb(other), encoder=TinyEncoder(), cosine=0.99)
    assert report.pairs == (Leak(str(first), str(other), "similar embedding", "cosine 1.000"),)
    everything = check(train, rgb(other), encoder=TinyEncoder(), cosine=-1)
    assert [leak.train for leak in everything.pairs] == [str(first)]


def test_what_the_encoder_spoils_is_listed_and_the_rest_of_its_batch_is_checked(tmp_path):
    class Picky(TinyEncoder):
        def encode_scenes(self, scenes):
            if any(scene.sensor.name != "rgb" for scene in scenes):
                raise EvaluationError("only rgb")
            return super().encode_scenes(scenes)

    first, scene = save(tmp_path / "a.png", picture(6)), write_raster(tmp_path / "c.tif", seed=5, shape=(96, 96))
    report = check([*rgb(first), *sentinel(scene)], rgb(first), encoder=Picky())
    assert report.unreadable == {str(scene): "cannot be encoded: only rgb"}
    assert report.checked["similar embedding: train"] == 1
    assert len(of(report, "similar embedding")) == 1


def test_unreadable_files_are_listed_and_the_others_checked(tmp_path):
    good = save(tmp_path / "a.png", picture(7))
    missing, text, cut = tmp_path / "none.png", tmp_path / "t.png", tmp_path / "cut.png"
    text.write_text("no image")
    cut.write_bytes(good.read_bytes()[:600])
    report = check(rgb(good, missing, text), rgb(good, cut, text))
    assert list(report.unreadable) == sorted(map(str, (cut, missing, text)))
    assert "No such file" in report.unreadable[str(missing)]
    assert [leak.detail for leak in of(report, "same file")] == ["the same path", "the same path"]
    assert report.checked["same file: train"] == 2
    assert report.checked["same picture: train"] == 1


def test_the_order_does_not_depend_on_the_order_of_the_lists(tmp_path):
    paths = [save(tmp_path / f"{n}.png", picture(n)) for n in range(6)]
    copies = [save(tmp_path / f"copy{n}.jpg", picture(n), quality=60) for n in range(6)]
    one = check(rgb(*paths), rgb(*copies, *paths[:2]))
    other = check(rgb(*paths[::-1]), rgb(*paths[1::-1], *copies[::-1]))
    assert one == other
    assert len(one.pairs) == 6 + 2 * 2  # every copy, and two files as file and as picture


def test_an_image_that_a_list_names_often_counts_once(tmp_path):
    path = save(tmp_path / "a.png", picture(0))
    report = check(rgb(path, path, path), rgb(path, path))
    assert report.listed == {"train": 1, "held-out": 1}
    assert report.counts == {"same file": 1, "same place": 0, "same picture": 1, "similar embedding": 0}


def test_one_image_names_at_most_twenty_partners_and_counts_the_others(tmp_path):
    paths = [save(tmp_path / f"{n}.png", picture(n, side=24)) for n in range(26)]
    report = check([Listed(path, "rgb", "Kyiv") for path in paths[1:]], [Listed(paths[0], "rgb", "Kyiv")])
    assert len(of(report, "same place")) == 20
    assert report.unnamed["same place"] == 5
    assert "5 more pairs for same place are not named" in report.notes


def test_the_report_survives_json(tmp_path):
    path = save(tmp_path / "a.png", picture(0))
    report = check(rgb(path, tmp_path / "none.png"), rgb(path))
    assert LeakReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    with pytest.raises(EvaluationError, match="leakage report"):
        LeakReport.from_json({"pairs": [], "other": 1})


@pytest.mark.parametrize("options", [{"hash_distance": 65}, {"hash_distance": -1}, {"cosine": 1.5}])
def test_a_threshold_out_of_range_is_refused(options):
    with pytest.raises(EvaluationError, match="hash distance is 0 to 64"):
        check([], [], **options)


def test_hashes_in_blocks_equal_the_slow_comparison(monkeypatch):
    random = np.random.default_rng(0)
    columns = random.integers(0, 2**64, 50, dtype=np.uint64)
    rows = random.integers(0, 2**64, (9, 8), dtype=np.uint64)
    rows[4, 3], rows[8, 0], rows[8, 1] = columns[7] ^ np.uint64(0b1011), columns[0], columns[0]
    slow = [
        (row, column, turn, bin(int(rows[row, turn]) ^ int(columns[column])).count("1"))
        for row in range(9)
        for turn in range(8)
        for column in range(50)
    ]
    wanted = [each for each in slow if each[3] <= 20]
    assert {(4, 7, 3, 3), (8, 0, 0, 0), (8, 0, 1, 0)} <= set(wanted)
    for cells in (1, 1000, 2**22):
        monkeypatch.setattr("rsvlm.leakage.likeness.CELLS", cells)
        found = [each for block in near_hashes(rows, columns, 20) for each in zip(*map(list, block), strict=True)]
        assert found == wanted


def test_the_strongest_of_a_row_stay():
    rows, columns = np.array([0, 0, 0, 2, 2, 2]), np.array([4, 3, 1, 9, 8, 7])
    strength = np.array([0.1, 0.9, 0.5, 0.2, 0.2, 0.2])
    kept = _strongest(rows, columns, strength, 2)
    assert [(int(rows[i]), int(columns[i])) for i in kept] == [(0, 3), (0, 1), (2, 7), (2, 8)]
    assert len(_strongest(rows[:0], columns[:0], strength[:0])) == 0


def test_the_eight_views_are_different_and_the_first_is_the_picture():
    square = np.arange(16, dtype=np.uint8).reshape(4, 4)
    views = turned(square)
    assert np.array_equal(views[0], square)
    assert len({view.tobytes() for view in views}) == 8


def test_copies_of_real_images_are_found_and_real_neighbours_are_not(data_dir, tmp_path):
    folder = data_dir / "rsicd_aid"
    if not folder.is_dir():
        pytest.skip("RSVLM_DATA holds no rsicd_aid")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    train = [folder / row["image"] for row in rows if row["split"] == "train"][::300]
    held = [folder / row["image"] for row in rows if row["split"] == "val"][::60]
    assert check(rgb(*train), rgb(*held)).pairs == ()
    copies = []
    for number, path in enumerate(train):
        copy = np.rot90(np.asarray(Image.open(path).convert("RGB")), number % 4)
        copies.append(save(tmp_path / f"{number}.jpg", copy, quality=40))
    found = check(rgb(*train), rgb(*copies)).pairs
    assert {(leak.train, leak.held_out) for leak in found} == {
        (str(a), str(b)) for a, b in zip(train, copies, strict=True)
    }
