"""The door for imagery: which paths and files are let in, with which one driver, and how large they may be."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvlm.errors import ImageryError, ImageryTooLargeError, UnsafeImageryError

MAGIC = (
    (re.compile(rb"(II[*+]\x00|MM\x00[*+])"), "GTiff"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"(\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)"), "JP2OpenJPEG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
)
PICTURES = ("PNG", "JPEG", "WEBP")  # decoded from the first line on, so a window costs as much as the whole
READABLE = "GeoTIFF, JPEG 2000, PNG, JPEG or WebP"
REFUSED_IN_PATHS = re.compile(r"[\x00-\x1f\x7f<]|^[A-Za-z][A-Za-z0-9+._-]*:|^/+vsi")
# Without these GDAL follows .aux.xml, .ovr and .msk files beside an image, which may be VRT in disguise.
CLOSED = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # else a cut-off JPEG comes back as grey
}
MAX_PNG_TEXT_BYTES = 2**18  # compressed; one byte may unpack to a thousand


@dataclass(frozen=True)
class Door:
    """What is let in. `roots` None means any regular local file; `trust` also lets in URLs, VRT and any driver."""

    roots: tuple[Path, ...] | None = None
    trust: bool = False
    max_pixels: int = 2**31  # in one band
    max_picture_pixels: int = 2**28  # in one band of a PNG, JPEG or WebP
    max_bands: int = 512
    max_block_bytes: int = 2**29
    max_read_values: int = 2**31  # bands x pixels in one read

    @property
    def environment(self) -> dict[str, Any]:
        """GDAL options that must hold while a file is opened and while it is read."""
        return {} if self.trust else dict(CLOSED)

    def admit(self, path: str | os.PathLike[str]) -> tuple[Path, str]:
        """The resolved path of a local image and its GDAL driver; raises ImageryError or UnsafeImageryError."""
        shown = in_short(path)
        _refuse_tricks(os.fspath(path), shown)
        try:
            real = Path(path).resolve(strict=True)
            allowed = self.roots is None or any(real.is_relative_to(root.resolve()) for root in self.roots)
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be a path"
            raise ImageryError(f"there is no image file {shown}: {reason}; check the path") from error
        _refuse_tricks(str(real), shown)
        if not allowed:
            raise UnsafeImageryError(
                f"{shown} lies outside the folders imagery may come from; move it into one of them"
            )
        head = _first_bytes(real, shown)
        for pattern, driver in MAGIC:
            if pattern.match(head):
                if driver == "PNG":
                    _check_png(real, shown)
                return real, driver
        raise ImageryError(
            f"{shown} is {'empty' if not head else 'no image this project reads'}; give a {READABLE} file"
        )

    def check_size(self, name: str, driver: str, *, width: int, height: int, count: int, block_bytes: int) -> None:
        """Refuse a header that announces more than the caps; raises ImageryTooLargeError."""
        most = self.max_picture_pixels if driver in PICTURES else self.max_pixels
        if width * height > most:
            raise ImageryTooLargeError(
                f"{name} announces {width} x {height} pixels, more than the {most:,} allowed; "
                "cut it into parts, or open it with a Door that allows more"
            )
        if count > self.max_bands:
            raise ImageryTooLargeError(
                f"{name} announces {count:,} bands, more than the {self.max_bands} allowed; keep the bands you need"
            )
        if block_bytes > self.max_block_bytes:
            raise ImageryTooLargeError(
                f"{name} is stored in blocks of {block_bytes:,} bytes, more than the {self.max_block_bytes:,} allowed; "
                "rewrite it as a tiled GeoTIFF"
            )


def in_short(path: str | os.PathLike[str]) -> str:
    """A path for a message: one printable line of bounded length, odd characters escaped."""
    text = os.fspath(path).encode("unicode_escape").decode("ascii")
    return text if len(text) <= 120 else f"{text[:40]}...{text[-77:]}"


def _refuse_tricks(text: str, shown: str) -> None:
    if not text or REFUSED_IN_PATHS.search(text):
        raise UnsafeImageryError(
            f"{shown or 'an empty name'} is not the path of a local file; URLs, GDAL prefixes and control characters "
            "are refused unless the source is explicitly trusted"
        )


def _first_bytes(real: Path, shown: str) -> bytes:
    try:
        handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO without a writer must not block us
    except OSError as error:
        raise ImageryError(f"{shown} cannot be opened: {error.strerror}; check its permissions") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafeImageryError(f"{shown} is a folder, pipe or device; give a regular {READABLE} file")
        return os.read(handle, 16)
    except OSError as error:
        raise ImageryError(f"{shown} cannot be read: {error.strerror}; fetch it again") from error
    finally:
        os.close(handle)


def _check_png(real: Path, shown: str) -> None:
    """Walk the chunks of a PNG: GDAL unpacks all its text on opening, and reads a cut-off one without complaint."""
    text, kind = 0, b""
    with real.open("rb") as file:
        file.seek(8)
        while kind != b"IEND" and len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            text += length if kind in (b"zTXt", b"iTXt", b"iCCP") else 0
            file.seek(length + 4, os.SEEK_CUR)
    if text > MAX_PNG_TEXT_BYTES:
        raise ImageryTooLargeError(
            f"{shown} carries more than {MAX_PNG_TEXT_BYTES:,} bytes of compressed text; save it again without metadata"
        )
    if kind != b"IEND":
        raise ImageryError(f"{shown} is a PNG that is cut short; fetch it again")
