"""Films for the tests of cameras: written by OpenCV from drawn fields, and read back by it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_maker import smear


def write_video(path: Path, frames: int, fps: float) -> Path:
    """Write `frames` drawn fields of 96 px, each another one, as MJPG at `fps`; return `path`."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (96, 96))
    assert writer.isOpened()
    for seed in range(frames):
        writer.write(smear(96, seed)[:, :, ::-1])
    writer.release()
    return path


def frames_of(video: Path) -> list[np.ndarray]:
    """Read a film's frames: (H, W, 3) uint8 RGB each."""
    import cv2

    capture, found = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = capture.read()
        if not there:
            return found
        found.append(np.ascontiguousarray(frame[:, :, ::-1]))
