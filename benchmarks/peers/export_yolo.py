"""Write Ultralytics' own classifier into the working folder, for PyTorch and for the engines that it exports to.

    python export_yolo.py INPUT_PX

Its architecture with random weights from a fixed seed: how fast it is does not depend on them. It runs in the
environment that holds Ultralytics.
"""

import sys

import torch
from ultralytics import YOLO

NAME = "yolo11n-cls"
FORMATS = ("openvino", "ncnn")


def main(input_px: int) -> None:
    """Write the files."""
    torch.manual_seed(0)
    YOLO(f"{NAME}.yaml").save(f"{NAME}.pt")
    for form in FORMATS:
        YOLO(f"{NAME}.pt").export(format=form, imgsz=input_px)


if __name__ == "__main__":
    main(int(sys.argv[1]))
