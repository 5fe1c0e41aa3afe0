"""Ask questions of satellite imagery, get answers that can be checked."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsvlm.assistant import Assistant
    from rsvlm.raster import open_raster, read_scene

__all__ = ["Assistant", "open_raster", "read_scene"]
_HOMES = {"Assistant": "rsvlm.assistant", "open_raster": "rsvlm.raster", "read_scene": "rsvlm.raster"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import rsvlm` costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rsvlm' has no attribute {name!r}; it has {', '.join(__all__)}")
