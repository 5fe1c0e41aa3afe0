"""What the header of an open image says: whether it may be read at all, how it lies, what its layers are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.io import MemoryFile

from rsvlm.bands import Header
from rsvlm.door import Door, in_short
from rsvlm.errors import GeoreferenceError, ImageryError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from rsvlm.scene import Grid
    from rsvlm.stac import Item

TURNED = {  # EXIF orientation: what makes the stored rows and columns upright
    2: lambda a: a[:, :, ::-1],
    3: lambda a: a[:, ::-1, ::-1],
    4: lambda a: a[:, ::-1],
    5: lambda a: a.transpose(0, 2, 1),
    6: lambda a: a.transpose(0, 2, 1)[:, :, ::-1],
    7: lambda a: a.transpose(0, 2, 1)[:, ::-1, ::-1],
    8: lambda a: a.transpose(0, 2, 1)[:, ::-1],
}


def check_header(dataset: Any, name: str, door: Door) -> None:
    """Refuse by header alone, before any pixel is read."""
    if dataset.count == 0:
        raise ImageryError(f"{name} holds no raster bands; give one of the images inside it")
    sizes = [np.dtype(dtype).itemsize for dtype in dataset.dtypes[: door.max_bands] if "complex" not in dtype]
    height, width = dataset.block_shapes[0]
    together = dataset.count if dataset.interleaving is not None and dataset.interleaving.name == "pixel" else 1
    door.check_size(
        name,
        dataset.driver,
        width=dataset.width,
        height=dataset.height,
        count=dataset.count,
        block_bytes=height * width * together * max(sizes, default=1),
    )
    if len(sizes) < dataset.count:
        raise ImageryError(f"{name} holds complex samples; give detected backscatter (intensity or dB) instead")
    if dataset.count == 1 and dataset.colorinterp[0].name == "palette":
        raise ImageryError(
            f"{name} holds palette codes, not measured values; expand it first (gdal_translate -expand rgb)"
        )


def upright(dataset: Any, stack: ExitStack) -> Any:
    """A picture whose EXIF says that it lies on its side or is mirrored, turned in memory."""
    turn = TURNED.get(int(dataset.tags().get("EXIF_Orientation", "1").strip() or 1)) if _is_jpeg(dataset) else None
    if turn is None:
        return dataset
    pixels = turn(dataset.read())
    memory = stack.enter_context(MemoryFile())
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with memory.open(driver="GTiff", photometric="RGB" if count == 3 else "MINISBLACK", **shape) as upright:
        upright.write(pixels)
    return stack.enter_context(memory.open(driver="GTiff"))


def _is_jpeg(dataset: Any) -> bool:
    return bool(dataset.driver == "JPEG") and dataset.tags().get("EXIF_Orientation", "1").strip().isdigit()


def header_of(dataset: Any, path: Path, item: Item, grid: Grid) -> Header:
    """The layers of an open image with their names, type, colours and pixel size."""
    colors = [color.name for color in dataset.colorinterp]
    layers = tuple(layer for layer, color in enumerate(colors) if color != "alpha")
    descriptions = tuple(_description(dataset, layer) for layer in layers)
    shown = tuple(colors[layer] for layer in layers)
    if not any(descriptions) and sorted(shown) == ["blue", "green", "red"] and dataset.dtypes[0] == "uint8":
        descriptions = shown
    try:
        pixel_size = grid.pixel_size_m
    except GeoreferenceError:
        pixel_size = None
    words = " ".join([*path.parts[-8:], item.words, *(str(tag)[:500] for tag in dataset.tags().values())])
    kind = str(np.result_type(*(dataset.dtypes[layer] for layer in layers or (0,))))
    return Header(in_short(path.name), dataset.count, layers, kind, pixel_size, descriptions, shown, words)


def _description(dataset: Any, layer: int) -> str:
    """What a layer is called: its description, else a tag of its own, else `Band_n` among the file's tags."""
    tags = {key.upper(): value for key, value in dataset.tags(layer + 1).items()}
    named = [tags[key] for key in ("NAME", "BAND", "BAND_NAME", "BANDNAME", "LONG_NAME", "POLARIZATION") if key in tags]
    return str(dataset.descriptions[layer] or (named or [dataset.tags().get(f"Band_{layer + 1}", "")])[0])
