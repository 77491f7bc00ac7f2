"""Pictures of every kind become the right upright RGB pixels, and every bad one gets an `ImageError` of one line."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import bomb, encoded, smear
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime import preprocess
from edge_runtime.errors import ImageError
from edge_runtime.preprocess import Preprocess, decode, from_array, from_picture, prepare

FIELD = Image.fromarray(smear(48, 3)).crop((0, 0, 48, 36))  # not square: a wrong turn shows


def refusal(source: object, name: str | None = None) -> str:
    """Return the one line with which a picture is refused."""
    with pytest.raises(ImageError) as caught:
        decode(source, name)  # type: ignore[arg-type]
    line = str(caught.value)
    assert line and "\n" not in line and "Traceback" not in line
    return line


TURNS = {  # EXIF orientation -> what the stored picture needs to stand upright
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_270],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_90],
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(FIELD, kind, exif=exif)
    upright = Image.open(io.BytesIO(encoded(FIELD, kind))).convert("RGB")  # Pillow turns a TIFF by itself
    for turn in TURNS[orientation]:
        upright = upright.transpose(turn)
    if orientation > 4:
        assert upright.size == (36, 48)
    assert np.array_equal(np.asarray(decode(stored)), np.asarray(upright))


def test_damaged_exif_does_not_cost_the_picture() -> None:
    stored = encoded(FIELD, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(stored).size == FIELD.size


def test_grey_palette_and_bilevel_become_rgb() -> None:
    for mode in ("L", "P", "1"):
        wanted = FIELD.convert(mode).convert("RGB")
        assert np.array_equal(np.asarray(decode(encoded(FIELD.convert(mode)))), np.asarray(wanted)), mode


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode: str) -> None:
    picture = FIELD.convert(mode)
    alpha = np.full((36, 48), 255, dtype=np.uint8)
    alpha[:, :24], alpha[:, 24:30] = 0, 128
    picture.putalpha(Image.fromarray(alpha))
    pixels = np.asarray(decode(encoded(picture)))
    opaque = np.asarray(FIELD.convert(mode[:-1]).convert("RGB"))
    assert (pixels[:, :24] == 255).all()
    assert np.array_equal(pixels[:, 30:], opaque[:, 30:])
    assert np.abs(pixels[:, 24:30] - (255 + opaque[:, 24:30].astype(int)) / 2).max() <= 1


def test_transparent_palette_colour_lies_over_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    pixels = np.asarray(decode(encoded(palette, transparency=0)))
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [40, 50, 60]


def test_cmyk_jpeg_becomes_rgb() -> None:
    pixels = np.asarray(decode(encoded(FIELD.convert("CMYK"), "JPEG", quality=98))).astype(int)
    assert np.abs(pixels - np.asarray(FIELD).astype(int)).mean() < 6


def test_the_first_of_a_phones_two_pictures_counts() -> None:
    stored = encoded(FIELD, "MPO", save_all=True, append_images=[Image.new("RGB", FIELD.size)])
    assert np.array_equal(np.asarray(decode(stored)), np.asarray(Image.open(io.BytesIO(encoded(FIELD, "JPEG")))))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind: str) -> None:
    values = (np.arange(36 * 48, dtype=np.uint16) * 37).reshape(36, 48)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), kind)))
    assert np.array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(np.asarray(decode(encoded(FIELD, kind, **options))), np.asarray(FIELD))


def test_one_pixel_is_enough() -> None:
    pixels = prepare(decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))), Preprocess(32))
    assert pixels.shape == (32, 32, 3) and (pixels == (1, 2, 3)).all()


def test_opened_pictures_equal_decoded_ones_and_stay_as_they_were() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(FIELD, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(stored))
    assert np.array_equal(np.asarray(from_picture(opened)), np.asarray(decode(stored)))
    assert opened.size == FIELD.size


def test_prepare_cuts_the_middle_square_and_may_be_written_to() -> None:
    picture = Image.new("RGB", (90, 30), "red")
    picture.paste("blue", (30, 0, 60, 30))
    pixels = prepare(picture, Preprocess(30))
    assert (pixels == (0, 0, 255)).all()
    pixels[:] = 0


def test_prepare_takes_a_box_and_cuts_it_at_the_edge() -> None:
    pixels = np.asarray(FIELD)
    assert np.array_equal(prepare(FIELD, Preprocess(16), (4, 6, 16, 16)), pixels[6:22, 4:20])
    assert prepare(FIELD, Preprocess(16), (40, 30, 100, 100)).shape == (16, 16, 3)
    with pytest.raises(ImageError, match="box outside"):
        prepare(FIELD, Preprocess(16), (48, 0, 10, 10))


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_wrong_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="not RGB pixels"):
        from_array(array)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "x: empty"),
        (b"a text file, not a picture\n", "x: not a picture"),
        (b"\x89PNG\r\n\x1a\n", "x: not a picture"),
        (b"GIF89a" + bytes(40), "x: not a picture"),
        (b"%PDF-1.7\n", "x: not a picture"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "x: "),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(content: bytes, says: str) -> None:
    assert refusal(content, "x").startswith(says)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_pictures_are_refused_wherever_they_end(kind: str, share: float) -> None:
    whole = encoded(Image.fromarray(smear(64, 1)), kind)
    assert refusal(whole[: int(share * len(whole))], "x").startswith("x: ")


def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    huge = bomb(100_000, 100_000)
    assert len(huge) < 100
    assert refusal(huge, "x") == "x: too large to decode: expected at most 178 megapixels (cut it into fields)"
    edge = bomb(13_350, 13_350)  # 178.2 megapixels: Pillow alone would take it
    assert refusal(edge, "x").startswith("x: too large to decode: got 13350 x 13350 pixels, expected at most 178")


def test_floating_point_pictures_are_refused_by_name() -> None:
    assert refusal(encoded(Image.new("F", (4, 4)), "TIFF"), "x").startswith("x: floating-point picture")


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.png") == f"{tmp_path / 'gone.png'}: no such file"
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "a\0b")
    assert "no such file" in refusal(Path(encoded_file(tmp_path)) / "below.png")
    assert "cannot be read" in refusal(tmp_path / ("long" * 200))
    if os.path.exists("/dev/zero"):
        assert "is a device" in refusal(Path("/dev/zero"))  # has a size of 0 and never ends


def encoded_file(folder: Path) -> str:
    """Write a picture and return its path."""
    (folder / "a.png").write_bytes(encoded(FIELD))
    return str(folder / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(encoded(FIELD),))
    writer.start()
    assert decode(tmp_path / "pipe").size == FIELD.size
    writer.join()


def test_too_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", 100)
    assert "file too large" in refusal(Path(encoded_file(tmp_path)))


WHOLE = [encoded(Image.fromarray(smear(24, 1)), kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_damaged_bytes_give_a_picture_or_an_image_error(whole: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        assert decode(bytes(damaged)).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)
