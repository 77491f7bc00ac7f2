"""Preprocessing: from a picture file to the network's pixels. The only code in the project that does this.

What comes in is a picture in any common encoding; what goes out is ``(H, W, 3)`` uint8 RGB at the bundle's input size.
Training, evaluation, calibration and the device all call `decode` and `prepare`, so they see the same pixels, bit for
bit. Scaling and normalisation are not done here: they are inside the exported graph.
"""

from __future__ import annotations

import io
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .demands import admitted
from .errors import ImageError, UsageError

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, 0..255."""

Box = tuple[int, int, int, int]
"""(left, top, width, height) in pixels of the upright picture."""

MAX_PICTURE_PIXELS = 178_000_000
"""A picture with more pixels than this is refused before it is decoded: 178 megapixels need 0.7 GB as RGB. Pillow
refuses a little more, 2 x 89.5 megapixels, by itself."""

MAX_FILE_BYTES = 512 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")  # a phone's MPO is a JPEG to Pillow
_CHUNK_BYTES = 4 * 1024 * 1024

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


CROPS = ("centre-square",)
RESAMPLES = ("bilinear",)
BACKGROUNDS = ("keep", "neutral-cell", "neutral-field")
STAINS = ("keep", "reinhard")


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes pixels; part of the weights' identity and stored in the bundle.

    Attributes:
        input_px: height and width of the network's input, pixels.
        crop: "centre-square": the largest square in the middle of the picture (or box).
        resample: "bilinear": Pillow's bilinear filter, whose support grows with the reduction, so it does not alias.
        background: "keep"; or a constant colour outside the white cell in the middle ("neutral-cell", for crops) or
            outside all white cells ("neutral-field"), see `edge_runtime.standardise`.
        stain: "keep"; or "reinhard": moved to a fixed reference by that method.

    Raises:
        UsageError: a value that is not in its table.
    """

    input_px: int
    crop: str = "centre-square"
    resample: str = "bilinear"
    background: str = "keep"
    stain: str = "keep"

    def __post_init__(self) -> None:
        for name, known in (("crop", CROPS), ("resample", RESAMPLES), ("background", BACKGROUNDS), ("stain", STAINS)):
            if getattr(self, name) not in known:
                raise UsageError(f"preprocess.{name}", got=repr(getattr(self, name)), expected=" or ".join(known))

    @property
    def standardises(self) -> bool:
        """Whether pixels are changed after the resize."""
        return self.background != "keep" or self.stain != "keep"

    @property
    def plain(self) -> Preprocess:
        """The same without standardisation."""
        return replace(self, background="keep", stain="keep")


def decode(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Decode a picture file to upright 8-bit RGB.

    EXIF orientation is applied; grey, palette and CMYK pictures become RGB; transparency is laid over white, the
    colour of an empty field; 16-bit grey keeps its upper 8 bits.

    Args:
        source: file, or the encoded bytes.
        name: what errors call it; default: the file's path, or "picture".

    Returns:
        Picture of mode RGB.

    Raises:
        ImageError: unreadable, empty, truncated, not a picture, larger than `MAX_PICTURE_PIXELS`, or one that
            `admitted` refuses.
    """
    name = name or (str(source) if isinstance(source, Path) else "picture")
    encoded = _read(source, name) if isinstance(source, Path) else source
    if not encoded:
        raise ImageError(f"{name}: empty", got="0 bytes", expected="a picture file")
    megapixels = f"at most {MAX_PICTURE_PIXELS // 1_000_000} megapixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: the limit here is ours, checked below
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PICTURE_PIXELS:
                    raise ImageError(
                        f"{name}: too large to decode",
                        got=f"{picture.width} x {picture.height} pixels",
                        expected=megapixels,
                        todo="cut it into fields",
                    )
                with admitted(picture, encoded, name):
                    picture.load()
                    return _to_rgb(_upright(picture), name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture", expected="JPEG, PNG, TIFF, BMP or WebP") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: too large to decode", expected=megapixels, todo="cut it into fields") from None
    except MemoryError:
        raise ImageError(f"{name}: too large for this machine's memory", todo="cut it into fields") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
        raise ImageError(f"{name}: damaged or truncated", got=f"{type(error).__name__}: {error}") from None


def _read(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name}: is a folder", expected="a picture file")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):  # /dev/zero has a size of 0 and never ends
            raise ImageError(f"{name}: is a device", expected="a picture file")
        with path.open("rb") as stream:
            return read_stream(stream, name)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        raise ImageError(f"{name}: no such file") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read", got=error.strerror or type(error).__name__) from None


def read_stream(stream: BinaryIO, name: str) -> bytes:
    """Read all of a file or pipe, but never more than `MAX_FILE_BYTES`: what a pipe holds is not known before.

    Raises:
        ImageError: it holds more.
    """
    chunks, size_bytes = [], 0
    while chunk := stream.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        if size_bytes > MAX_FILE_BYTES:
            raise ImageError(f"{name}: file too large", expected=f"at most {MAX_FILE_BYTES} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _upright(picture: Image.Image) -> Image.Image:
    with suppress(Exception):  # damaged EXIF must not cost the picture
        ImageOps.exif_transpose(picture, in_place=True)  # in place: else every upright picture is copied
    return picture


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        upper = np.asarray(picture) >> 8  # (H, W) uint16 or int32
        return Image.fromarray(np.clip(upper, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ImageError(f"{name}: floating-point picture", expected="8 or 16 bits per channel")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if picture.mode == "RGB":
        return picture  # `convert` would copy it
    return picture.convert("RGB")


def prepare(picture: Image.Image, preprocess: Preprocess, box: Box | None = None) -> Pixels:
    """Cut the centre square, resize it to the network's input and standardise it.

    Args:
        picture: RGB, upright (from `decode`).
        preprocess: the bundle's or run's preprocessing.
        box: part of the picture to take instead of the whole; parts outside the picture are cut off.

    Returns:
        (input_px, input_px, 3) uint8 RGB, 0..255.

    Raises:
        ImageError: the box lies outside the picture.
    """
    left, top, width, height = box or (0, 0, picture.width, picture.height)
    right, bottom = min(left + width, picture.width), min(top + height, picture.height)
    left, top = max(left, 0), max(top, 0)
    side = min(right - left, bottom - top)
    if side <= 0:
        raise ImageError("box outside the picture", got=box, expected=f"within {picture.width} x {picture.height}")
    x, y = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    # crop, then resize: resizing with a box would let the filter look at pixels outside it
    whole = picture.size == (side, side)
    square = picture if whole else picture.crop((x, y, x + side, y + side))
    resized = square.resize((preprocess.input_px, preprocess.input_px), Image.Resampling.BILINEAR)
    pixels = np.array(resized)  # (input_px, input_px, 3) uint8; a copy the caller may write to
    return standardised(pixels, preprocess)


def standardised(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Do the last step of `prepare`: (H, W, 3) uint8 -> the same shape; `pixels` itself where nothing is to be done."""
    if not preprocess.standardises:
        return pixels
    from .standardise import standardise  # most bundles need neither cells nor stains, and start without them

    return standardise(pixels, preprocess)


def from_picture(picture: Image.Image, name: str = "picture") -> Image.Image:
    """Take a picture that Pillow opened: upright and RGB, exactly as `decode` would have given it.

    Args:
        picture: of any mode.
        name: what errors call it.

    Raises:
        ImageError: it cannot be decoded or converted.
    """
    try:
        return _to_rgb(_upright(picture.copy()), name)  # a copy: the caller's picture stays as it is
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
        raise ImageError(f"{name}: damaged or truncated", got=f"{type(error).__name__}: {error}") from None


def from_array(array: npt.NDArray[Any], name: str = "array") -> Image.Image:
    """Take an RGB array as a picture.

    Args:
        array: (H, W, 3) uint8 RGB.
        name: what errors call it.

    Raises:
        ImageError: another shape or type.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"{name}: not RGB pixels", got=f"{array.dtype} {array.shape}", expected="uint8 (H, W, 3)")
    return Image.fromarray(array)
