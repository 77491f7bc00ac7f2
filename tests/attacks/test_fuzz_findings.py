"""What fuzzing found (``tests/fuzz``), each as the smallest file that shows it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_maker import TINY_IO, encoded, replace_file, smear, tiny
from PIL import Image

from edge_runtime import demands
from edge_runtime.bundle import open_bundle
from edge_runtime.engines import open_engine
from edge_runtime.errors import BundleError, ImageError
from edge_runtime.golden import parse_expected
from edge_runtime.preprocess import decode
from tests.fuzz.cases import command

FIELD = Image.fromarray(smear(48, 1))


def flat_webp(side: int) -> bytes:
    """Return a lossless WebP of one colour, 30 bytes whatever its size."""
    value = 0x2F | (side - 1) << 8 | (side - 1) << 22 | 0b0001_0001_0001_0001_0001_000 << 40
    return b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0" + value.to_bytes(10, "little")


def test_thirty_bytes_do_not_take_two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebP of one colour is 30 bytes at any size, and 13 000 x 13 000 took 2.6 GB: the kernel killed the program."""
    assert decode(flat_webp(100)).size == (100, 100)
    monkeypatch.setattr(demands, "room_bytes", lambda: 900_000_000)
    began_s = time.process_time()
    with pytest.raises(ImageError, match=r"too large for this machine's memory: got 13000 x 13000 pixels, about"):
        decode(flat_webp(13_000))
    assert time.process_time() - began_s < 0.5


def with_scans(count: int) -> bytes:
    """Return a progressive JPEG with its last scan's header `count` times more, each without data."""
    whole = encoded(FIELD, "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last : last + 10] * count + b"\xff\xd9"


def test_a_jpeg_of_endless_passes_is_refused_at_once() -> None:
    """Ten bytes are one more pass over all pixels: a thousand over 13 000 x 13 000 took 9 s, a megabyte minutes."""
    assert decode(with_scans(80)).size == FIELD.size
    with pytest.raises(ImageError, match="x: too slow to decode: got 5010 scans, expected at most 100"):
        decode(with_scans(5000), "x")


def spoilt_tiff() -> bytes:
    """Return a TIFF whose compressed strip says nonsense, so that libtiff complains."""
    whole = bytearray(encoded(FIELD, "TIFF", compression="tiff_lzw"))
    whole[200:260] = b"\xff" * 60
    return bytes(whole)


def test_libtiff_does_not_write_between_the_lines(bundle_folder: Path, tmp_path: Path) -> None:
    """It writes to file descriptor 2 by itself: a bad picture had two lines, and one of them was nobody's."""
    path = tmp_path / "spoilt.tif"
    path.write_bytes(spoilt_tiff())
    findings: list[str] = []
    assert command(["classify", "--model", str(bundle_folder), str(path)], findings) == 1
    assert command(["scan", str(path)], findings) == 1
    replace_file(bundle_folder, "golden/0.png", spoilt_tiff())
    assert command(["verify", str(bundle_folder)], findings) == 1
    assert findings == []


def test_libtiff_does_write_where_it_is_not_kept_from_it(capfd: pytest.CaptureFixture[str]) -> None:
    """The test above would pass without a complaint to suppress."""
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(spoilt_tiff())
    assert capfd.readouterr().err


_QUIET = """
import os, sys
from edge_runtime.commands.opening import quiet_libraries
from edge_runtime.guard import complain
with quiet_libraries():
    with quiet_libraries():
        os.write(2, b"a library's line\\n")
        complain("inside")
    os.write(2, b"a library's line\\n")
    complain("between")
os.write(2, b"a library's line again\\n")
complain("behind")
"""


def test_what_python_writes_is_not_kept_off_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", _QUIET], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["error: inside", "error: between", "a library's line again", "error: behind"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": ' + b"1" * 5000 + b"e5000}", "not a number of JSON: got 111"),
        (b'{"%s": 1, "%s": 2}' % (b"k" * 5000, b"k" * 5000), "stands there twice"),
        (
            b'{"label": "%s", "pixels_sha256": "", "logits": [0, 0], "class_map": [[[0, 0]]]}' % (b"a" * 5000),
            "label: got",
        ),
    ],
)
def test_what_is_quoted_stays_short(text: bytes, says: str) -> None:
    """A number, a key or a label of a megabyte was quoted whole: a line of a megabyte."""
    with pytest.raises(BundleError, match=says) as caught:
        parse_expected(text, ("a", "b"), (1, 1), "golden/0.json")
    assert len(str(caught.value)) < 500


def test_a_model_with_long_names_is_refused_in_a_short_line() -> None:
    """What a model calls its tensors is quoted, too."""
    onnx = pytest.importorskip("onnx", reason="this hostile model is made with onnx")
    model, name = onnx.load_from_string(tiny("onnx")), "p" * 5000
    for node in model.graph.node:
        node.input[:] = [name if entry == "pixels" else entry for entry in node.input]
    model.graph.input[0].name = name
    with pytest.raises(BundleError, match=r"wrong input: got 'ppp.*\.\.\., expected 'pixels' alone") as caught:
        open_engine("onnxruntime", model.SerializeToString(), TINY_IO)
    assert len(str(caught.value)) < 500


def test_a_manifest_that_leads_to_an_impossible_name_is_one_line(bundle_folder: Path) -> None:
    """``Path.exists`` raises OSError for it: a traceback in a library, a line without advice on the command line."""
    (bundle_folder / "manifest.json").unlink()
    (bundle_folder / "manifest.json").symlink_to("a" * 300)
    with pytest.raises(BundleError, match=r"not a bundle: expected a folder with manifest\.json"):
        open_bundle(bundle_folder)
