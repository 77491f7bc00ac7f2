"""Make the seeds: small rendered pictures in every form that the five formats have and a decoder may stumble over.

What comes in is the renderer; what goes out are the files of ``seeds/``, which are committed, so that a case number
means the same case everywhere. Pillow and tifffile write what they can; Adam7 and 16-bit RGB PNGs, and the rarer BMPs,
are put together here. ``python -m tests.fuzz.make_seeds`` writes them anew.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SEEDS = Path(__file__).parent / "seeds"
WIDTH, HEIGHT = 64, 48


def rendered(number: int = 0) -> Image.Image:
    """Return a rendered field, `WIDTH` x `HEIGHT` RGB."""
    from train.render import render_field

    pixels = render_field("Early", np.random.default_rng(number), 64).pixels
    return Image.fromarray(pixels).crop((0, 0, WIDTH, HEIGHT))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return what Pillow writes."""
    stream = io.BytesIO()
    picture.copy().save(stream, kind, **options)  # a copy: Pillow leaves a JPEG's settings on what it saved
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(bits: int, interlaced: bool, rows: bytes) -> bytes:
    """Return an RGB PNG of filtered rows."""
    stated = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", stated) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def adam7(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 as the seven passes of an interlaced PNG, unfiltered."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    return b"".join(b"\0" + row.tobytes() for y, dy, x, dx in passes for row in pixels[y::dy, x::dx])


def bmp(bits: int, compression: int, content: bytes, height: int = HEIGHT, palette: bytes = b"") -> bytes:
    """Return a BMP with a header of 40 bytes."""
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start)
    sides = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(content), 2835, 2835, 0, 0)
    return head + sides + palette + content


def rle8(indices: np.ndarray) -> bytes:
    """Return (H, W) uint8 as runs, the lowest row first."""
    found = bytearray()
    for row in indices[::-1]:
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        for start, end in itertools.pairwise(edges):
            found += bytes((end - start, row[start]))
        found += b"\0\0"
    return bytes(found + b"\0\1")


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """Return what tifffile writes."""
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def with_text() -> PngImagePlugin.PngInfo:
    """Return texts of all three kinds."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "rendered")
    texts.add_text("Comment", "many words " * 20, zip=True)
    texts.add_itxt("Description", "gerendert, nicht gesehen", "de", "Beschreibung", zip=True)
    return texts


def seeds() -> dict[str, Callable[[], bytes]]:
    """Return name of the file -> what makes it."""
    field, other = rendered(), rendered(1)
    pixels, grey = np.asarray(field), field.convert("L")
    few = grey.quantize(8)
    alpha = field.convert("RGBA")
    alpha.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "nobody"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = (np.asarray(grey).astype(np.uint16) << 8) + 7
    wide_rgb = (pixels.astype(">u2") << 8) + 7
    palette = bytes(n for level in range(256) for n in (level, level, level, 0))
    five = ((pixels[::-1].astype("<u2") >> 3) @ np.array([1024, 32, 1], "<u2")).astype("<u2").tobytes()
    frames = {"save_all": True, "append_images": [other, field, other], "duration": 40}
    return {
        "baseline.jpg": lambda: saved(field, "JPEG", quality=85),
        "progressive.jpg": lambda: saved(field, "JPEG", quality=85, progressive=True),
        "restarts.jpg": lambda: saved(field, "JPEG", quality=85, restart_marker_blocks=2, subsampling=0),
        "grey.jpg": lambda: saved(grey, "JPEG"),
        "cmyk.jpg": lambda: saved(field.convert("CMYK"), "JPEG"),
        "turned.jpg": lambda: saved(field, "JPEG", exif=turned),
        "profile.jpg": lambda: saved(field, "JPEG", icc_profile=profile, comment=b"rendered"),
        "phone.jpg": lambda: saved(field, "MPO", save_all=True, append_images=[other.copy()]),
        "rgb.png": lambda: saved(field, "PNG"),
        "palette.png": lambda: saved(few, "PNG", transparency=3),
        "bilevel.png": lambda: saved(grey.convert("1"), "PNG"),
        "grey16.png": lambda: saved(Image.fromarray(wide), "PNG"),
        "rgb16.png": lambda: png(16, False, b"".join(b"\0" + row.tobytes() for row in wide_rgb)),
        "adam7.png": lambda: png(8, True, adam7(pixels)),
        "alpha.png": lambda: saved(alpha, "PNG"),
        "grey-trns.png": lambda: saved(grey, "PNG", transparency=200),
        "texts.png": lambda: saved(field, "PNG", pnginfo=with_text(), exif=turned, icc_profile=profile, dpi=(96, 96)),
        "animated.png": lambda: saved(few, "PNG", save_all=True, append_images=[few.rotate(180)], duration=40),
        "strips.tif": lambda: saved(field, "TIFF", strip_size=WIDTH * 3 * 16),
        "tiles.tif": lambda: tiff(pixels, tile=(16, 32), photometric="rgb"),
        "lzw.tif": lambda: saved(field, "TIFF", compression="tiff_lzw"),
        "deflate.tif": lambda: saved(field, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": lambda: saved(field, "TIFF", compression="jpeg"),
        "packbits.tif": lambda: saved(few, "TIFF", compression="packbits"),
        "group4.tif": lambda: saved(grey.convert("1"), "TIFF", compression="group4"),
        "pages.tif": lambda: saved(field, "TIFF", save_all=True, append_images=[other.copy()]),
        "big.tif": lambda: tiff(pixels, bigtiff=True, photometric="rgb"),
        "motorola.tif": lambda: tiff(pixels, byteorder=">", photometric="rgb", rowsperstrip=8),
        "grey16.tif": lambda: saved(Image.fromarray(wide), "TIFF"),
        "cmyk.tif": lambda: saved(field.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "planar.tif": lambda: tiff(np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate"),
        "turned.tif": lambda: saved(alpha, "TIFF", exif=turned, icc_profile=profile),
        "rgb.bmp": lambda: saved(field, "BMP"),
        "palette.bmp": lambda: saved(few, "BMP"),
        "bilevel.bmp": lambda: saved(grey.convert("1"), "BMP"),
        "runs.bmp": lambda: bmp(8, 1, rle8(np.asarray(few)), palette=palette),
        "top-down.bmp": lambda: bmp(24, 0, pixels[:, :, ::-1].tobytes(), -HEIGHT),
        "555.bmp": lambda: bmp(16, 0, five),
        "masks.bmp": lambda: bmp(32, 3, struct.pack("<III", 0xFF0000, 0xFF00, 0xFF) + saved(alpha, "BMP")[-12288:]),
        "lossy.webp": lambda: saved(field, "WEBP", quality=70),
        "lossless.webp": lambda: saved(field, "WEBP", lossless=True),
        "alpha.webp": lambda: saved(alpha, "WEBP", quality=70, exif=turned, icc_profile=profile),
        "animated.webp": lambda: saved(field, "WEBP", quality=50, **frames),
    }


def main() -> None:
    """Write all seeds."""
    SEEDS.mkdir(exist_ok=True)
    for name, make in seeds().items():
        (SEEDS / name).write_bytes(make())


if __name__ == "__main__":
    main()
