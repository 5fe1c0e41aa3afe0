"""What `rsvlm-data.toml` says about a folder of your own imagery and labels, and what holds without it."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from data_engine.sources.hls_worldcover import WORLDCOVER
from rsvlm.errors import DatasetError
from rsvlm.files import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "rsvlm-data.toml"
MAX_CONFIG_BYTES = 2**20
MAX_CODE = 2**31 - 2
POLYGON_SUFFIXES = (".gpkg", ".geojson", ".json")
NAMED_CODES = {"worldcover": WORLDCOVER}
TEXT_KEYS = ("sensor", "labels", "polygons", "layer", "column", "terms", "captions", "images", "codes")
SHAPES = {
    "images": 'a pattern such as "images/*.tif", or a list of them',
    "sensor": 'a name such as "sentinel-2-l2a", or your own .toml file',
    "bands": 'a list of band names in file order, such as ["B04", "B03", "B02"]',
    "labels": 'a raster such as "landcover.tif", or one an image as "labels/*.tif"',
    "labels_band": "a whole number from 1",
    "codes": 'a table such as {10 = "tree cover", 20 = "shrubland"}, or "worldcover"',
    "ignore": "a list of codes such as [0, 255]",
    "polygons": 'a .gpkg or .geojson file such as "landuse.gpkg"',
    "layer": "the name of a layer of the GeoPackage",
    "column": "the name of the column that holds the class",
    "objects": "true (single things to find) or false (areas)",
    "chip": "a whole number of pixels, 32 to 4096, or 0 for whole images",
    "least_labelled": "a share from 0 to 1",
    "captions": 'a CSV file with the columns image and caption, such as "captions.csv"',
    "terms": "the licence of the data as text",
}


@dataclass(frozen=True, slots=True)
class FolderConfig:
    """A folder's images and the labels that go with them; all paths are relative to the folder.

    Stars in `labels` are filled with what the stars in `images` stood for, so "images/*_s2.tif" finds
    "labels/*_lc.tif". `codes` names the values of the raster, or of the polygons' column. `chip` cuts images into
    pieces of so many pixels. Images of which less than `least_labelled` has a class are passed over.
    """

    images: tuple[str, ...]
    sensor: str = ""
    bands: tuple[str, ...] = ()
    labels: str = ""
    labels_band: int = 1
    codes: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    polygons: str = ""
    layer: str = ""
    column: str = ""
    objects: bool = False
    chip: int = 0
    least_labelled: float = 0.1
    captions: str = ""
    terms: str = ""


def read_config(folder: Path) -> FolderConfig:
    """The folder's `rsvlm-data.toml`, with what is usual where it says nothing or is not there.

    Usual are images/* with labels/*, or any image in the folder with landcover.tif or the one GeoPackage or GeoJSON,
    and captions.csv. Raises DatasetError for keys that are not known, values of the wrong type and labels that
    cannot be told.
    """
    table = _table(folder / CONFIG) if (folder / CONFIG).exists() else {}
    known = [f.name for f in fields(FolderConfig)]
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise DatasetError(f"{folder / CONFIG} has the unknown key {key!r}; {hint}")
        if not _fits(key, value):
            raise DatasetError(f"{folder / CONFIG} needs {SHAPES[key]} in {key!r}, got {value!r:.80}")
    values = _usual(folder, table) | table
    return _checked(FolderConfig(**{key: _plain(key, value) for key, value in values.items()}), folder)


def _table(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
            raise DatasetError(f"{path} is no file of at most {MAX_CONFIG_BYTES:,} bytes; write it anew")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not TOML ({error}); mend it there") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def _fits(key: str, value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key == "objects":
        return isinstance(value, bool)
    if key == "labels_band":
        return whole and value >= 1
    if key == "chip":
        return whole and (value == 0 or 32 <= value <= 4096)
    if key == "least_labelled":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if key == "ignore":
        return isinstance(value, list) and all(type(one) in (int, str) for one in value)
    if key == "codes" and isinstance(value, dict):
        return bool(value) and all(isinstance(name, str) for name in value.values())
    if key == "codes":
        return isinstance(value, str) and value in NAMED_CODES
    if key == "bands" or (key == "images" and isinstance(value, list)):
        return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)
    return key in TEXT_KEYS and isinstance(value, str)


def _plain(key: str, value: Any) -> Any:
    if key == "images":
        return (value,) if isinstance(value, str) else tuple(value)
    if key == "ignore":
        return tuple(str(code) for code in value)
    if key == "codes":
        return {str(code): class_name(name, str(code)) for code, name in NAMED_CODES.get(str(value), value).items()}
    return tuple(value) if key == "bands" else value


def class_name(name: str, code: str) -> str:
    """A class name with underscores as spaces; raises DatasetError where it is empty or a number."""
    words = " ".join(name.replace("_", " ").split())
    if not any(letter.isalpha() for letter in words):
        raise DatasetError(f"the class of code {code} is called {name!r}; give it a name in words in 'codes'")
    return words


def _usual(folder: Path, table: dict[str, Any]) -> dict[str, Any]:
    """What is there by convention; labels only where the config names neither a raster nor polygons."""
    nested = (folder / "images").is_dir()
    found: dict[str, Any] = {"images": [f"{'images/' if nested else ''}*{ending}" for ending in SUFFIXES]}
    if (folder / "captions.csv").is_file():
        found["captions"] = "captions.csv"
    if "labels" in table or "polygons" in table:
        return found
    rasters = [folder / f"landcover{ending}" for ending in (".tif", ".tiff")]
    raster = next((path.name for path in rasters if path.is_file()), "")
    if any((folder / "labels").glob("*")) and not raster:
        endings = {path.suffix for path in (folder / "labels").iterdir() if path.suffix.lower() in SUFFIXES}
        raster = f"labels/*{min(endings)}" if endings else ""
    # a .json beside images is more often a STAC item, so it must be named
    vectors = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in POLYGON_SUFFIXES[:2] and p.name[0] != ".")
    if raster and not vectors:
        return found | {"labels": raster}
    if len(vectors) == 1 and not raster:
        return found | {"polygons": vectors[0]}
    if raster or vectors:
        raise DatasetError(
            f"{folder} holds {', '.join(vectors + [raster] * bool(raster))} and nothing says which are the labels; "
            f'write labels = "..." or polygons = "..." in {CONFIG} there'
        )
    return found


def _checked(config: FolderConfig, folder: Path) -> FolderConfig:
    where = folder / CONFIG
    for path in (*config.images, config.labels, config.polygons, config.captions):
        if path and (refused := refusal(path)):
            raise DatasetError(f"{where} names {path!r:.120}, which {refused}; name what lies inside the folder")
    if not (config.labels or config.polygons or config.captions):
        raise DatasetError(
            f"{folder} has no labels: no raster landcover.tif or labels/*.tif, no .gpkg or .geojson, no captions.csv; "
            f"add one, or name it in {CONFIG} there"
        )
    if config.labels and config.polygons and not config.objects:
        raise DatasetError(f"{where} has areas both in 'labels' and in 'polygons'; give one, or set objects = true")
    if config.captions and config.chip:
        raise DatasetError(f"{where} has captions of whole images and cuts them by 'chip'; leave one of the two out")
    codes = [*config.codes, *config.ignore]
    odd = [code for code in codes if not re.fullmatch(r"-?\d{1,10}", code) or abs(int(code)) > MAX_CODE]
    if config.labels and odd:
        raise DatasetError(f"{where} has {odd[0]!r} for a code of the raster; codes are whole numbers of 32 bits")
    both = sorted(set(config.codes) & set(config.ignore))
    if both:
        raise DatasetError(f"{where} names the code {both[0]} and ignores it too; do one of the two")
    return config


def refusal(path: str) -> str:
    """Why a path of the config is refused; "" where it is not."""
    if re.search(r"[\x00-\x1f\x7f<\\]|^[A-Za-z][A-Za-z0-9+._-]*:|^/*vsi", path):
        return "is no plain file name (no URLs, GDAL prefixes, drives or backslashes)"
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        return "leads out of the folder"
    if "**" in path or re.search(r"[?\[]", path):
        return "uses more than single stars as a pattern"
    return ""
