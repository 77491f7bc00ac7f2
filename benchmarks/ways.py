"""Ways: how each engine is asked for one answer, as its own documentation shows it; run by ``contender``.

Three kinds of way: `from_pixels` (the network's pixels lie in memory), `from_file` (a JPEG file lies on disk, a JSON
line is the answer) and `batch` (many at once). Each takes the folder of ``peer_models`` and returns (run, tell). An
engine is a row of `ENGINES`, loaded the way a user would: nothing is tuned but the number of threads. This file begins
without imports that an environment may lack, because each way runs in its own; those of a way are part of its loading.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Way = tuple[Callable[[], Any], Callable[[Any], Any]]
Answer = Callable[[Any], Any]
"""(N, 224, 224, 3) uint8 -> (logits (N, K), whatever else the way gives), as the engine has them."""


def from_pixels(models: str, engine: str, threads: int, **options: Any) -> Way:
    """Answer from pixels in memory; the answer is the number of the class."""
    answer = ENGINES[engine](Path(models), threads, **options)
    pixels = _pixels(models)[None]
    return lambda: answer(pixels), _top


def from_file(models: str, engine: str, threads: int, reader: str, **options: Any) -> Way:
    """Answer from a JPEG file, as a JSON line; the answer is the label in it."""
    import numpy as np

    answer = ENGINES[engine](Path(models), threads, **options)
    read = READERS[reader]()
    labels = json.loads((Path(models) / "reference.json").read_text(encoding="utf-8"))["labels"]
    picture = str(Path(models) / "cell.jpg")

    def run() -> str:
        logits = np.asarray(answer(read(picture)[None])[0]).reshape(-1)
        best = int(np.argmax(logits))
        return json.dumps({"picture": picture, "label": labels[best], "logit": float(logits[best])})

    return run, _label


def floor(models: str, decoder: str, threads: int) -> Way:
    """Do what nobody can leave out: decode, cut, resize and invoke; the answer is (class, how far the pixels are off).

    How far: mean difference to the pixels of a full decode, grey levels.
    """
    import numpy as np

    answer = _litert(Path(models), threads, "int8.tflite")
    decode = DECODERS[decoder]()
    encoded = (Path(models) / "cell.jpg").read_bytes()
    wanted = _pixels(models).astype(int)

    def run() -> Any:
        pixels = decode(encoded)
        return answer(pixels[None])[0], pixels

    def tell(found: Any) -> list[float]:
        return [int(np.argmax(found[0])), round(float(np.abs(found[1].astype(int) - wanted).mean()), 6)]

    return run, tell


def batch(models: str, engine: str, threads: int, pictures: int, **options: Any) -> Way:
    """Answer many at once; the answer is the classes."""
    import numpy as np

    answer = ENGINES[engine](Path(models), threads, batch=pictures, **options)
    pixels = np.repeat(_pixels(models)[None], pictures, 0)
    return lambda: answer(pixels), lambda found: np.asarray(found[0]).argmax(1).tolist()


def runtime_pixels(models: str, threads: int, judged: bool = True, cpus: int = 0) -> Way:
    """Answer with this project's runtime, from pixels."""
    classifier = _classifier(threads, judged, cpus)
    pixels = _pixels(models)
    return lambda: classifier.classify_pixels(pixels), lambda found: int(found.logits.argmax())


def runtime_file(models: str, threads: int, judged: bool = True, cpus: int = 0) -> Way:
    """Answer with this project's runtime, from a file to a JSON line."""
    classifier = _classifier(threads, judged, cpus)
    from edge_runtime.report import prediction_json

    picture = str(Path(models) / "cell.jpg")
    return lambda: prediction_json(picture, classifier.classify(picture)), _label


def runtime_instances(models: str, threads: int, instances: int, pictures: int = 16) -> Way:
    """Answer `pictures` with each of several instances at once; the answer is the classes."""
    from concurrent.futures import ThreadPoolExecutor

    classifiers = [_classifier(threads, True, 0) for _ in range(instances)]
    pixels, pool = _pixels(models), ThreadPoolExecutor(instances)

    def work(classifier: Any) -> list[int]:
        return [int(classifier.classify_pixels(pixels).logits.argmax()) for _ in range(pictures)]

    return lambda: [found for part in pool.map(work, classifiers) for found in part], lambda found: found


def yolo_file(models: str, model: str, cpus: int) -> Way:
    """Ask Ultralytics' own network, about a file; the answer is the class in the JSON line."""
    _restrict(cpus)
    from train.backbones import torchvision

    torchvision()  # makes the one of PyPI work beside a CPU build of PyTorch
    from ultralytics import YOLO

    network = YOLO(str(Path(models) / model), task="classify")
    picture = str(Path(models) / "cell.jpg")

    def run() -> Any:
        return network.predict(picture, imgsz=224, verbose=False, device="cpu")[0].to_json()

    return run, lambda line: json.loads(line)[0]["class"]


def _restrict(cpus: int) -> None:
    """Leave this process that many CPUs; 0: all. For ways that have no number of threads to set."""
    if cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cpus:])


def _classifier(threads: int, judged: bool, cpus: int) -> Any:
    _restrict(cpus)
    from dataclasses import replace

    from edge_runtime.bundle import open_bundle
    from edge_runtime.classifier import Classifier

    bundle = open_bundle("blood-cells")
    if judged:
        return Classifier.open(bundle, threads=threads)
    unlimited = replace(bundle, manifest=replace(bundle.manifest, abstention=None, quality={}))
    return replace(Classifier.open(unlimited, threads=threads), aside=None)  # there is nothing to do aside


def _pixels(models: str) -> Any:
    import numpy as np

    return np.load(Path(models) / "pixels.npy")


def _top(found: Any) -> int:
    import numpy as np

    return int(np.asarray(found[0]).argmax())


def _label(line: str) -> str:
    return str(json.loads(line)["label"])


# Engines


def _litert(models: Path, threads: int, model: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    return _interpreter(Interpreter(model_path=str(models / model), num_threads=threads))


def _tflite_runtime(models: Path, threads: int, model: str) -> Answer:
    from tflite_runtime.interpreter import Interpreter

    return _interpreter(Interpreter(model_path=str(models / model), num_threads=threads))


def _tensorflow(models: Path, threads: int, model: str) -> Answer:
    import tensorflow as tf

    return _interpreter(tf.lite.Interpreter(model_path=str(models / model), num_threads=threads))


def _interpreter(interpreter: Any) -> Answer:
    interpreter.allocate_tensors()
    (given,) = (detail["index"] for detail in interpreter.get_input_details())
    # Converters order outputs as they like: the logits are the flat one.
    outputs = [d["index"] for d in sorted(interpreter.get_output_details(), key=lambda detail: len(detail["shape"]))]

    def answer(pixels: Any) -> Any:
        interpreter.set_tensor(given, pixels)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return answer


def _onnxruntime(models: Path, threads: int, model: str, batch: int = 1) -> Answer:
    import onnxruntime

    file: Any = str(models / model)
    if batch > 1:
        import onnx

        graph = onnx.load(file)
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del graph.graph.value_info[:]  # says 1, too
        file = graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits", "class_map"], {"pixels": pixels})


def _openvino(models: Path, threads: int, model: str, batch: int = 1) -> Answer:
    import openvino

    core = openvino.Core()
    graph = core.read_model(models / model)
    if batch > 1:
        graph.reshape([batch, 224, 224, 3])
    compiled = core.compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()

    def answer(pixels: Any) -> Any:
        found = request.infer({"pixels": pixels})
        return [found["logits"], found["class_map"]]

    return answer


def _ncnn(models: Path, threads: int, model: str) -> Answer:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    if model.startswith("fp32"):
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(models / f"{model}.param"))
    net.load_model(str(models / f"{model}.bin"))

    def answer(pixels: Any) -> Any:
        extractor = net.create_extractor()
        side = pixels.shape[1]
        extractor.input("in0", ncnn.Mat.from_pixels(pixels[0], ncnn.Mat.PixelType.PIXEL_RGB, side, side))
        return [np.array(extractor.extract(name)[1])[None] for name in ("out0", "out1")]

    return answer


def _torch(models: Path, threads: int, form: str, batch: int = 1) -> Answer:
    import torch

    from train.run_folder import read_run

    torch.set_num_threads(threads)
    network: Any = read_run(Path("references") / "blood-cells").network
    if form == "channels last":
        network = network.to(memory_format=torch.channels_last)
    if form == "compiled":
        network = torch.compile(network)

    def answer(pixels: Any) -> Any:
        with torch.inference_mode():
            return [found.numpy() for found in network(torch.from_numpy(pixels))]

    def explained(pixels: Any) -> Any:
        # As the package pytorch-grad-cam: one pass forward, one back through all of it. By hand one can do with less:
        # the gradient is asked for at the last feature map, and nothing before it has to be recorded.
        network.zero_grad()
        with torch.set_grad_enabled(form == "Grad-CAM"):
            features = network.features(network.normalise(torch.from_numpy(pixels)))
        features.requires_grad_(True).retain_grad()
        logits, _ = network.head(features)
        logits.max().backward()
        heat = torch.relu((features.grad.mean((2, 3), keepdim=True) * features).sum(1)).detach()
        return [logits.detach().numpy(), (heat / heat.max()).numpy()]

    return explained if form.startswith("Grad-CAM") else answer


ENGINES: dict[str, Callable[..., Answer]] = {
    "litert": _litert,
    "tflite-runtime": _tflite_runtime,
    "tensorflow": _tensorflow,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "torch": _torch,
}

# Readers: a file -> (224, 224, 3) uint8


def _read_squeezed() -> Callable[[str], Any]:
    """As in TensorFlow's label_image.py: the whole picture, squeezed into the square."""
    import numpy as np
    from PIL import Image

    return lambda picture: np.asarray(Image.open(picture).convert("RGB").resize((224, 224)))


def _read_torchvision() -> Callable[[str], Any]:
    """As torchvision's classification presets: the shorter side to the input, then the middle."""
    import numpy as np
    from PIL import Image
    from torchvision import transforms

    resize, crop = transforms.Resize(224), transforms.CenterCrop(224)
    return lambda picture: np.asarray(crop(resize(Image.open(picture).convert("RGB"))))


READERS: dict[str, Callable[[], Callable[[str], Any]]] = {
    "squeezed": _read_squeezed,
    "torchvision": _read_torchvision,
}

# Decoders: an encoded JPEG -> (224, 224, 3) uint8, the middle square


def _square(picture: Any) -> Any:
    import numpy as np
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))


def _decode_pillow(draft: bool) -> Callable[[bytes], Any]:
    import io

    from PIL import Image

    def decode(encoded: bytes) -> Any:
        picture = Image.open(io.BytesIO(encoded))
        if draft:
            picture.draft("RGB", (299, 224))  # libjpeg halves as long as the shorter side keeps 224
        return _square(picture)

    return decode


def _decode_opencv() -> Callable[[bytes], Any]:
    import cv2
    import numpy as np
    from PIL import Image

    def decode(encoded: bytes) -> Any:
        found = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        return _square(Image.fromarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB)))

    return decode


def _decode_simplejpeg(halved: bool) -> Callable[[bytes], Any]:
    import simplejpeg
    from PIL import Image

    least = 224 if halved else 0  # 0: the whole size
    return lambda encoded: _square(Image.fromarray(simplejpeg.decode_jpeg(encoded, min_height=least, min_width=least)))


DECODERS: dict[str, Callable[[], Callable[[bytes], Any]]] = {
    "Pillow": lambda: _decode_pillow(False),
    "Pillow, halved by libjpeg": lambda: _decode_pillow(True),
    "OpenCV": _decode_opencv,
    "simplejpeg": lambda: _decode_simplejpeg(False),
    "simplejpeg, halved by libjpeg": lambda: _decode_simplejpeg(True),
}


def main(function: str, arguments: str) -> None:
    """Answer once and print it: what a program costs that is started for one answer."""
    run, tell = globals()[function](**json.loads(arguments))
    sys.stdout.write(f"{json.dumps({'answer': tell(run())})}\n")


if __name__ == "__main__":
    # As in ``contender``: what lies beside this file must not stand in for packages of the same name.
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.realpath(__file__))]
    main(*sys.argv[1:])
