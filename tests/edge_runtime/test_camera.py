"""Cameras: newest frame wins and drops are counted; files end; what is unplugged comes back, or is an error."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import smear
from films import frames_of, write_video

from edge_runtime import camera as camera_module
from edge_runtime import camera_sources
from edge_runtime.camera import Camera
from edge_runtime.errors import CameraError, UsageError

FPS = 20.0
FRAMES = 10


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of `FRAMES` drawn fields, each another one; MJPG."""
    return write_video(tmp_path_factory.mktemp("video") / "smear.avi", FRAMES, FPS)


def test_every_frame_of_a_file_is_the_frame_in_the_file_in_rgb(video: Path) -> None:
    with Camera.open(str(video), every_frame=True) as camera:
        got = []
        while frame := camera.newest(5.0):
            got.append(frame)
            time.sleep(0.01)
        assert camera.ended and camera.dropped == 0 and camera.seen == FRAMES
    assert [frame.number for frame in got] == list(range(1, FRAMES + 1))
    for frame, expected in zip(got, frames_of(video), strict=True):
        assert frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous
        np.testing.assert_array_equal(frame.pixels, expected)
    # and they look like what was drawn: red and blue are where they were
    assert np.abs(got[0].pixels.astype(int) - smear(96, 0)).mean(axis=(0, 1)).max() < 12


def test_a_file_is_played_at_its_own_speed_and_the_newest_frame_wins(video: Path) -> None:
    start = time.monotonic()
    with Camera.open(str(video)) as camera:
        first = camera.newest(5.0)
        time.sleep(5.5 / FPS)  # five frames come meanwhile; the last of them is to be had
        later = camera.newest(5.0)
        assert first is not None and later is not None and first.number == 1
        assert later.number > 2 and camera.dropped >= later.number - 2
        assert later.time_s >= (later.number - 1) / FPS - 0.001  # never early; a busy machine may be late
        while camera.newest(5.0):
            pass
        assert camera.ended and camera.newest(0.0) is None
        assert camera.seen == FRAMES
    assert time.monotonic() - start >= (FRAMES - 1) / FPS


def test_no_frame_in_time_is_told_from_the_end(tmp_path: Path) -> None:
    slow = write_video(tmp_path / "slow.avi", 2, 2.0)
    with Camera.open(str(slow)) as camera:
        assert camera.newest(5.0) is not None
        assert camera.newest(0.02) is None and not camera.ended
        assert camera.newest(5.0) is not None
        assert camera.newest(5.0) is None and camera.ended


def test_closing_stops_the_thread_at_once(tmp_path: Path) -> None:
    slow = write_video(tmp_path / "slow.avi", 3, 0.2)
    start, before = time.monotonic(), threading.active_count()
    with Camera.open(str(slow)) as camera:
        assert camera.newest(5.0) is not None
    with Camera.open(str(slow), every_frame=True):
        pass
    assert time.monotonic() - start < 2 and threading.active_count() == before


WRONG = {
    "/dev/video987": "/dev/video987: no such camera",
    "987": "/dev/video987: no such camera",
    "nothing.avi": "nothing.avi: no such file",
    ".": ".: is a folder",
    __file__: "not a video",
    "picamera2": "picamera2 cannot be imported",
    "/dev/null": "cannot be opened as a camera",
}


@pytest.mark.parametrize("source", WRONG)
@pytest.mark.skipif(sys.platform != "linux", reason="devices are files on Linux")
def test_what_cannot_be_opened_is_one_line(source: str) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    with pytest.raises(CameraError) as caught:
        Camera.open(source)
    assert WRONG[source] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="devices are files on Linux")
def test_opencv_and_ffmpeg_keep_quiet() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    program = """
import sys
from edge_runtime.camera import Camera
from edge_runtime.errors import CameraError
for source in sys.argv[1:]:
    try:
        Camera.open(source)
    except CameraError:
        print("refused")
"""
    command = [sys.executable, "-c", program, *WRONG]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, cwd=root, timeout=60, check=True, text=True)
    assert done.stdout.split() == ["refused"] * len(WRONG) and done.stderr == ""


def test_a_device_without_permission_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_sources.os, "access", lambda *_: False)
    monkeypatch.setattr(camera_sources.sys, "platform", "linux")
    with pytest.raises(CameraError, match=r"no permission: expected membership of the group video \(sudo usermod"):
        Camera.open("/dev/null")


def test_a_cut_file_gives_the_frames_that_are_whole_or_is_an_error(video: Path, tmp_path: Path) -> None:
    whole, cut = video.read_bytes(), tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    with Camera.open(str(cut), every_frame=True) as camera:
        first = camera.newest(5.0)
        assert first is not None
        np.testing.assert_array_equal(first.pixels, frames_of(video)[0])
        assert len(drain(camera)) + 1 < FRAMES
    cut.write_bytes(whole[:100])
    with pytest.raises(CameraError, match=r"cut\.avi: not a video that OpenCV can read"):
        Camera.open(str(cut))


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("rtsp://camera/stream", {}),
        ("http://camera/stream", {}),
        ("0", {"every_frame": True}),
        ("picamera2", {"every_frame": True}),
        ("a.avi", {"size": (640, 480)}),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(source: str, options: dict) -> None:
    with pytest.raises(UsageError):
        Camera.open(source, **options)


def test_without_opencv_the_extra_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CameraError, match=r"OpenCV is not installed.*leukoscope\[camera\]"):
        Camera.open(str(video))


class Plug:
    """A camera that can be unplugged and plugged in again: a script of what its readers give."""

    def __init__(self, *lives: list[object]) -> None:
        self.lives, self.opened, self.closed = list(lives), 0, 0

    def open(self) -> Plug:
        self.opened += 1
        if not self.lives:
            raise CameraError("plug: no such camera")
        self.life = iter(self.lives.pop(0))
        return self

    fps = 0.0

    def read(self) -> np.ndarray | None:
        time.sleep(0.005)
        got = next(self.life, None)
        if isinstance(got, Exception):
            raise got
        return got  # type: ignore[return-value]

    def close(self) -> None:
        self.closed += 1


def drain(camera: Camera) -> list[int]:
    got = []
    while not camera.ended:
        if frame := camera.newest(1.0):
            got.append(frame.number)
    return got


def test_an_unplugged_camera_is_opened_again_and_numbers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "RETRY_S", (0.02,))
    monkeypatch.setattr(camera_module, "SILENCE_S", 0.7)
    picture = smear(8)
    plug = Plug([picture], [RuntimeError("VIDIOC_DQBUF")], [picture, picture])
    camera = Camera("plug", True, False, plug.open)
    with pytest.raises(CameraError, match=r"plug: no frame for 0\.7 s: got plug: no such camera \(check its cable\)"):
        drain(camera)
    assert camera.seen == 3 and plug.opened > 4 and plug.closed == 3 and not camera.connected
    camera.close()


def test_whatever_a_driver_raises_when_it_is_opened_again_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "RETRY_S", (0.02,))
    plug = Plug([smear(8)], [smear(8)])
    honest, failures = plug.open, [RuntimeError("libcamera"), RuntimeError("libcamera")]

    def moody() -> Plug:
        if plug.opened == 1 and failures:
            raise failures.pop()
        return honest()

    with Camera("plug", True, False, moody) as camera:
        assert camera.newest(5.0) is not None and camera.newest(5.0) is not None
        assert not failures and not camera.ended


def test_a_camera_that_hangs_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "SILENCE_S", 0.1)
    hang = threading.Event()
    plug = Plug([smear(8)])
    monkeypatch.setattr(plug, "read", lambda: hang.wait(5.0) and None)
    camera = Camera("plug", True, False, plug.open)
    try:
        with pytest.raises(CameraError, match=r"no frame for 0\.1 s"):
            for _ in range(10):
                camera.newest(0.05)
    finally:
        hang.set()
        camera.close()


class FakePicamera2:
    """As picamera2 has it: formats are named in the order of a little-endian word."""

    sizes: tuple[int, int] = (8, 6)

    def __init__(self, camera_num: int = 0, verbose_console: int | None = None, tuning: object = None) -> None:
        self.did: list[str] = []
        FakePicamera2.last = self

    def create_video_configuration(self, main: dict | None = None, **_: object) -> dict:
        return {"use_case": "video", "main": {"format": "XBGR8888", "size": (1280, 720)} | (main or {})}

    def configure(self, camera_config: dict) -> None:
        self.did.append("configure")
        self.config = camera_config

    def start(self, config: object = None, show_preview: bool = False) -> None:
        self.did.append("start")

    def capture_array(self, name: str = "main", wait: object = None, signal_function: object = None) -> np.ndarray:
        time.sleep(0.005)
        main = self.config[name]
        width, height = main["size"]
        red_green_blue = np.array([200, 100, 50], np.uint8)
        order = {"BGR888": red_green_blue, "RGB888": red_green_blue[::-1]}[main["format"]]
        return np.broadcast_to(order, (height, width, 3))

    def stop(self) -> None:
        self.did.append("stop")

    def close(self) -> None:
        self.did.append("close")


def test_the_pi_camera_gives_red_as_red(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("picamera2")
    module.Picamera2 = FakePicamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    with Camera.open("picamera2", size=(64, 48)) as camera:
        frame = camera.newest(5.0)
    assert frame is not None and frame.pixels.shape == (48, 64, 3)
    assert frame.pixels[0, 0].tolist() == [200, 100, 50] and frame.pixels.flags.c_contiguous
    assert FakePicamera2.last.did == ["configure", "start", "stop", "close"]


def test_no_pi_camera_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("picamera2")

    def none(*_: object) -> None:
        raise IndexError("list index out of range")

    module.Picamera2 = none  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    with pytest.raises(CameraError, match="picamera2: cannot be opened: got IndexError"):
        Camera.open("picamera2")
