"""``camera``: the answers are those of the frames themselves, drops are counted, it ends cleanly however it ends."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import smear
from films import frames_of, write_video
from PIL import Image

from edge_runtime import camera as camera_module
from edge_runtime import camera_sources, cli
from edge_runtime.classifier import Classifier
from edge_runtime.errors import CameraError, EngineError, EngineGoneError

ROOT = Path(__file__).resolve().parents[2]
FPS, FRAMES = 20.0, 10


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of drawn fields, each another one."""
    return write_video(tmp_path_factory.mktemp("video") / "smear.avi", FRAMES, FPS)


@pytest.fixture
def camera(run, valid_bundle: Path):
    """Return a function that runs ``camera`` with the tiny bundle, as `run` does."""
    return lambda *arguments: run("camera", "--model", valid_bundle, *arguments)


def test_answers_are_those_of_the_frames_classified_directly(camera, video: Path, valid_bundle: Path) -> None:
    status, out, err = camera(video, "--every-frame", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and err == [f"{FRAMES} frames seen, {FRAMES} answered, 0 dropped"]
    assert [answer["frame"] for answer in answers] == list(range(1, FRAMES + 1))
    classifier = Classifier.open(valid_bundle)
    for answer, frame in zip(answers, frames_of(video), strict=True):
        expected = classifier.classify(frame).to_dict()
        assert all(answer[key] == expected[key] for key in ("label", "logits", "probabilities", "heatmap", "bundle_id"))
    assert len({tuple(answer["logits"]) for answer in answers}) > 1


def test_a_slow_classifier_drops_frames_and_says_how_many(camera, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Classifier.classify

    def slow(self: Classifier, *arguments: object):
        time.sleep(3.5 / FPS)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "classify", slow)
    status, out, err = camera(video, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    seen, answered, dropped = (int(word) for word in err[0].split() if word.isdecimal())
    assert status == 0 and seen == FRAMES and answered == len(answers) < FRAMES / 2
    assert dropped == FRAMES - answered == answers[-1]["dropped"] > 0
    numbers = [answer["frame"] for answer in answers]
    assert numbers[-1] == FRAMES and numbers == sorted(set(numbers))  # always forward, and the last one is not missed


@pytest.fixture(scope="module")
def field_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two rendered fields."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path_factory.mktemp("field") / "field.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (448, 448))
    for name in ("pre", "early"):
        with Image.open(ROOT / "samples" / "all-subtypes" / f"{name}.jpg") as picture:
            writer.write(np.asarray(picture.convert("RGB"))[:, :, ::-1])
    writer.release()
    return path


def test_scan_finds_the_cells_that_the_scanner_finds(field_video: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from edge_runtime.scan import Scanner

    assert cli.main(["camera", str(field_video), "--scan", "--every-frame", "--json"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    scanner = Scanner(Classifier.open("blood-cells"))
    for answer, frame in zip(answers, frames_of(field_video), strict=True):
        expected = scanner.scan(frame, f"frame {answer['frame']}").to_dict()
        for cell in (*expected["cells"], *answer["cells"]):
            cell.pop("timings_ms", None)
        assert expected["cells"] and answer["cells"] == expected["cells"] and answer["field"] == expected["field"]
    assert cli.main(["camera", str(field_video), "--scan", "--every-frame"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.endswith(" dropped") and " left out; " in line for line in lines[:2])


def test_scan_needs_a_model_for_cells(camera, field_video: Path) -> None:
    status, out, err = camera(field_video, "--scan")  # the fixture's is for fields
    assert (status, out, len(err)) == (2, "", 1) and "model for single cells" in err[0]


def test_lines_for_people_end_with_the_note(camera, video: Path) -> None:
    status, out, _ = camera(video, "--every-frame", "--frames", 3, "--top", 1)
    *lines, note = out.splitlines()
    assert status == 0 and len(lines) == 3 and note == "Research decision support, not a diagnosis."
    assert lines[0].startswith("frame 1: ") and lines[0].endswith(" ms; 0 dropped") and lines[0].count("%") == 1


def test_every_spaces_answers_out(camera, video: Path) -> None:
    status, out, _ = camera(video, "--json", "--every", 0.15, "--frames", 3)
    times = [json.loads(line)["time_s"] for line in out.splitlines()]
    assert status == 0 and len(times) == 3
    # A frame may be older than its answer, by as much as the next one is late.
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(times))


def test_saved_frames_classify_the_same_and_no_run_overwrites_another(
    camera, video: Path, valid_bundle: Path, tmp_path: Path
) -> None:
    saved = []
    for _ in range(2):
        status, out, _ = camera(video, "--every-frame", "--json", "--frames", 2, "--save", tmp_path / "seen")
        assert status == 0
        for line in out.splitlines():
            saved.append(json.loads(line))
    assert len({answer["picture"] for answer in saved}) == 4
    classifier = Classifier.open(valid_bundle)
    for answer in saved:
        assert classifier.classify(answer["picture"]).to_dict()["logits"] == answer["logits"]
        with Image.open(answer["picture"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), frames_of(video)[answer["frame"] - 1])


def test_a_frame_that_fails_gets_its_line_and_the_next_go_on(
    camera, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Classifier.classify

    def sometimes(self: Classifier, image: np.ndarray, name: str):
        if name == "frame 2":
            raise EngineError("litert failed on a picture")
        return real(self, image, name)

    monkeypatch.setattr(Classifier, "classify", sometimes)
    status, out, err = camera(video, "--every-frame", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and len(answers) == FRAMES
    assert answers[1]["error"] == "litert failed on a picture"
    assert err == ["error: frame 2: litert failed on a picture", "10 frames seen, 9 answered, 0 dropped"]


def test_an_engine_that_is_given_up_ends_it(camera, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Classifier, image: np.ndarray, name: str):
        raise EngineGoneError("the engine died 3 times in a row and is not started again")

    monkeypatch.setattr(Classifier, "classify", gone)
    status, out, err = camera(video, "--every-frame", "--json")
    assert status == 1 and not out and "frames seen, 0 answered" in err[0]
    assert err[1:] == ["error: the engine died 3 times in a row and is not started again"]


def test_a_camera_that_goes_is_named_and_the_summary_is_printed(camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "RETRY_S", (0.05,))
    monkeypatch.setattr(camera_module, "SILENCE_S", 0.5)

    class Once:
        fps, left, opened = 0.0, 1, 0

        @classmethod
        def open(cls, source: str, size: object) -> Once:
            cls.opened += 1
            if cls.opened > 1:
                raise CameraError("/dev/video0: no such camera")
            return cls()

        def read(self) -> np.ndarray | None:
            self.left -= 1
            return smear(32) if self.left >= 0 else None

        def close(self) -> None:
            pass

    monkeypatch.setitem(camera_sources._KINDS, "camera", camera_sources.Kind(True, Once.open))
    status, out, err = camera("0", "--json")
    assert status == 1 and json.loads(out)["frame"] == 1
    assert err == [
        "warning: 0: gone; it is being opened again",
        "1 frames seen, 1 answered, 0 dropped",
        "error: 0: no frame for 0.5 s: got /dev/video0: no such camera (check its cable)",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.avi", "--size", "640"],
        ["a.avi", "--size", "640x480"],
        ["a.avi", "--every", "-1"],
        ["a.avi", "--every", "nan"],
        ["a.avi", "--frames", "0"],
        ["a.avi", "--every", "1", "--every-frame"],
        ["0", "--every-frame"],
        ["rtsp://somewhere/"],
    ],
)
def test_usage_errors_are_one_line_and_status_2(camera, arguments: list[str]) -> None:
    status, out, err = camera(*arguments)
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith("error: ")


def test_a_missing_camera_is_one_line(camera) -> None:
    status, out, err = camera("/dev/video987")
    assert (status, out, len(err)) == (1, "", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM kills there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly_with_a_summary(video: Path, valid_bundle: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edge_runtime", "camera", str(video), "--json", "--every", "30"]
    process = subprocess.Popen(
        [*command, "--model", str(valid_bundle)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == "" and first["frame"] == 1
    assert err.rstrip().endswith("dropped") and len(err.splitlines()) == 1
