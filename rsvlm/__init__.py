"""Ask questions of satellite imagery, get answers that can be checked."""

from typing import TYPE_CHECKING

from rsvlm.lazy import lazily

if TYPE_CHECKING:
    from rsvlm.assistant import Assistant
    from rsvlm.raster import open_raster, read_scene

__all__ = ["Assistant", "open_raster", "read_scene"]
__getattr__ = lazily(
    __name__, {"Assistant": "rsvlm.assistant", "open_raster": "rsvlm.raster", "read_scene": "rsvlm.raster"}
)
