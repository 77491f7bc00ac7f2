"""Pictures that would take too much time or memory are refused by their headers; the estimate is not too low."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from bundle_maker import encoded, smear
from PIL import Image

from edge_runtime import demands, preprocess
from edge_runtime.demands import jpeg_scans
from edge_runtime.errors import ImageError
from edge_runtime.preprocess import decode

FIELD = Image.fromarray(smear(48, 3))


def test_a_picture_larger_than_the_memory_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    large = encoded(Image.new("L", (6000, 6000)), "PNG")
    monkeypatch.setattr(demands, "room_bytes", lambda: 100_000_000)
    monkeypatch.setattr(Image.Image, "load", lambda picture: pytest.fail("decoded"))
    with pytest.raises(ImageError) as caught:
        decode(large, "x")
    assert str(caught.value) == (
        "x: too large for this machine's memory: got 6000 x 6000 pixels, about 212 MB, "
        "expected at most the 100 MB that are free (cut it into fields)"
    )


def test_small_pictures_are_decoded_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "room_bytes", lambda: pytest.fail("asked"))
    assert decode(encoded(FIELD)).size == (48, 48)


def test_where_nobody_says_how_much_there_is_everything_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "room_bytes", lambda: None)
    monkeypatch.setattr(demands, "FREE_BYTES", 1)
    assert decode(encoded(FIELD)).size == (48, 48)


def test_large_pictures_are_asked_for_and_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    large, inside, most = encoded(Image.new("L", (4500, 4000)), "JPEG"), [0], [0]

    def asked() -> int:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        return 10**9

    def upright(picture: Image.Image) -> Image.Image:
        inside[0] -= 1
        return picture

    monkeypatch.setattr(demands, "room_bytes", asked)
    monkeypatch.setattr(preprocess, "_upright", upright)
    with ThreadPoolExecutor(4) as pool:
        assert [picture.size for picture in pool.map(decode, 4 * [large])] == 4 * [(4500, 4000)]
    assert most == [1], "else all of them would be promised the same memory"


@pytest.mark.parametrize(
    ("options", "scans"), [({}, 1), ({"progressive": True}, 10), ({"restart_marker_blocks": 1}, 1)]
)
def test_scans_are_counted(options: dict[str, object], scans: int) -> None:
    assert jpeg_scans(encoded(FIELD, "JPEG", **options)) == scans


def test_what_looks_like_a_scan_elsewhere_is_none() -> None:
    many = b"\xff\xda" * 200
    assert jpeg_scans(encoded(FIELD, "JPEG", comment=many)) == 1
    motion = encoded(FIELD, "JPEG", comment=many) + many  # a phone's film behind the picture
    assert jpeg_scans(motion) == 1 and decode(motion).size == (48, 48)
    for start in range(len(motion) - 2):
        assert jpeg_scans(motion[:start] + b"\xff") <= 1  # cut anywhere, it ends


_PEAK = """
import io, sys
from PIL import Image
from edge_runtime.demands import bytes_per_pixel, jpeg_scans
from edge_runtime.preprocess import Preprocess, decode, prepare
def kib(key):
    return int(next(row for row in open("/proc/self/status") if row.startswith(key)).split()[1])
content = sys.stdin.buffer.read()
with Image.open(io.BytesIO(content)) as picture:
    scans = jpeg_scans(content) if picture.format == "JPEG" else 1
    estimate, pixels = bytes_per_pixel(picture, scans), picture.width * picture.height
before = kib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
prepare(decode(content), Preprocess(32))
print(estimate, 1024 * (kib("VmHWM") - before) / pixels)
"""

WIDE = Image.fromarray(np.full((3000, 4000), 1000, np.uint16))
LARGE = Image.fromarray(smear(1000, 1)).resize((3000, 2000))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def _alpha() -> Image.Image:
    alpha = LARGE.convert("RGBA")
    alpha.putalpha(LARGE.convert("L"))
    return alpha


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not tell the peak")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: encoded(LARGE, "JPEG"), id="a phone's JPEG"),
        pytest.param(lambda: encoded(LARGE, "JPEG", exif=TURNED), id="turned JPEG"),
        pytest.param(lambda: encoded(LARGE.crop((0, 0, 2000, 2000)), "JPEG"), id="square JPEG"),
        pytest.param(lambda: encoded(LARGE.convert("L"), "JPEG"), id="grey JPEG"),
        pytest.param(lambda: encoded(LARGE, "JPEG", progressive=True, subsampling=0), id="progressive JPEG"),
        pytest.param(lambda: encoded(LARGE.convert("CMYK"), "JPEG"), id="CMYK JPEG"),
        pytest.param(lambda: encoded(_alpha(), "PNG", compress_level=1), id="PNG with transparency"),
        pytest.param(lambda: encoded(WIDE, "TIFF", compression="tiff_adobe_deflate"), id="16-bit TIFF"),
        pytest.param(lambda: encoded(_alpha(), "WEBP", quality=10, method=0), id="WebP with transparency"),
    ],
)
def test_the_estimate_is_not_below_what_decoding_takes(content: object) -> None:
    done = subprocess.run([sys.executable, "-c", _PEAK], input=content(), capture_output=True, check=True)  # type: ignore[operator]
    estimate, peak = (float(word) for word in done.stdout.split())
    assert 0.75 * estimate < peak <= estimate + 0.7  # the rest is code that is loaded on the way


@pytest.mark.parametrize(
    ("size", "options", "megabytes"),
    [
        ((4000, 3000), {}, 116),
        ((8160, 6120), {}, 382),
        ((4000, 3000), {"exif": TURNED}, 128),
        ((4000, 3000), {"comment": b"\xff\xda"}, 116),  # as in the small picture that comes along with most
        ((4000, 3000), {"progressive": True}, 152),
    ],
)
def test_a_phones_picture_is_not_refused_without_need(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], options: dict[str, object], megabytes: int
) -> None:
    """A board with 400 MB that are free takes 50 megapixels."""
    content = encoded(Image.new("RGB", size), "JPEG", **options)
    for free, refused in ((megabytes, False), (megabytes - 1, True)):
        monkeypatch.setattr(demands, "room_bytes", lambda free=free: 1_000_000 * free)
        with Image.open(io.BytesIO(content)) as picture:
            told = pytest.raises(ImageError, match="too large for this machine's memory") if refused else nullcontext()
            with told, demands.admitted(picture, content, "x"):
                assert not refused
