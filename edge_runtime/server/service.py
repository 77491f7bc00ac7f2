"""The service: what the API does, without HTTP. A picture in; the command line's answer out, kept and counted.

Everything here is called from the threads of `limits.Turns` and may take its time. Nothing knows of requests.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..classifier import Classifier
from ..errors import EngineError, OutputError
from ..guard import plain
from ..heatmap import Placement
from ..overlay import SIDE_PX, outlined, write_line
from ..preprocess import Pixels, decode, from_array
from ..report import NOTE, bundle_facts, prediction_facts
from .history import Entry, History
from .limits import Limits, check_size
from .live import Live
from .meters import Meters
from .problems import RequestError

FIELD_PX = 1280
"""Long side at which a scan's field is kept for people to look at."""

TILE_PX, TILE_COLUMNS = 112, 10
"""Side of a cell in the picture of a scan's cells, and how many stand in a row."""

MAX_NAME = 200
"""Characters of a file's name that are kept."""

_LINE_PX = 22


@dataclass(frozen=True)
class Service:
    """Open models with all that surrounds them.

    Attributes:
        models: name -> classifier; the first answers when none is named.
        history: what was answered.
        meters: what is counted.
        limits: of pictures.
        live: a camera, or None.
    """

    models: Mapping[str, Classifier]
    history: History
    meters: Meters
    limits: Limits = field(default_factory=Limits)
    live: Live | None = None
    _failed: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def facts(self) -> list[dict[str, Any]]:
        """Return what is to be known of each model, the first one answers when none is named."""
        return [
            {
                **bundle_facts(name, classifier.bundle),
                "title": classifier.bundle.manifest.task.title,
                "kind": classifier.bundle.manifest.task.kind,
                "engine": classifier.engine.name,
            }
            for name, classifier in self.models.items()
        ]

    @property
    def failed(self) -> dict[str, str]:
        """Return the models whose last inference failed, and how."""
        with self._lock:
            return dict(self._failed)

    def classify(self, image: bytes | Pixels, name: str, model: str | None, explained: bool) -> dict[str, Any]:
        """Classify a picture and keep the answer.

        Args:
            image: encoded, or (H, W, 3) uint8 RGB.
            name: of the picture, as it was given.
            model: one of `models`; None: the first.
            explained: say where the heat lies, too.

        Returns:
            What ``classify --json`` says, and `id`, its number in the history (None: it could not be kept).
        """
        chosen, classifier = self._choose(model)
        name = _name(name)
        if isinstance(image, bytes):
            check_size(image, self.limits)
        with self._watched(chosen):
            prediction = classifier.classify(image, name)
        explanation = None
        if explained:
            from ..explanation import explain

            explanation = explain(prediction, classifier.bundle.manifest.task.kind)
        self.meters.prediction(chosen, prediction)
        answer = prediction_facts(name, prediction, explanation)
        summary = {
            "picture": name,
            "model": chosen,
            "label": prediction.label,
            "probability": answer["probability"],
            "abstained": prediction.abstained,
            "cells": None,
            "counted": None,
        }
        number = self._keep(Entry("classify", summary, answer, _jpeg(Image.fromarray(prediction.pixels))))
        return {"id": number, **answer}

    def scan(self, image: bytes | Pixels, name: str, model: str | None) -> dict[str, Any]:
        """Find and classify the white cells of a field, and keep the answer.

        Args:
            image: encoded, or (H, W, 3) uint8 RGB.
            name: of the picture, as it was given.
            model: one of `models`, for single cells; None: the first such.

        Returns:
            What ``scan --json`` says, and `id`, its number in the history (None: it could not be kept), and `tiles`:
            how the cells stand in its picture of cells.
        """
        from ..scan import Scanner

        if model is None:
            model = next((name for name, c in self.models.items() if c.bundle.manifest.task.kind == "cell"), None)
        chosen, classifier = self._choose(model)
        scanner = Scanner(classifier)
        name = _name(name)
        if isinstance(image, bytes):
            check_size(image, self.limits)
            picture = decode(image, name)
        else:
            picture = from_array(image, name)
        with self._watched(chosen):
            found = scanner.scan(picture, name)
        for cell in found.cells:
            self.meters.prediction(chosen, cell.prediction)
        answer = {**found.to_dict(), "tiles": {"px": TILE_PX, "columns": TILE_COLUMNS}}
        summary = {
            "picture": name,
            "model": chosen,
            "label": None,
            "probability": None,
            "abstained": bool(found.refusals),
            "cells": len(found.cells),
            "counted": sum(found.left_out(cell) is None for cell in found.cells),
        }
        picture.thumbnail((FIELD_PX, FIELD_PX))
        tiles = _tiles([cell.prediction.pixels for cell in found.cells])
        number = self._keep(Entry("scan", summary, answer, _jpeg(picture), tiles))
        return {"id": number, **answer}

    def overlay(self, number: int) -> bytes | None:
        """Return an answer's picture under its heatmap, PNG; None where there is none in the history."""
        answer, picture = self.history.entry(number), self.history.picture(number)
        if answer is None or picture is None or answer["kind"] != "classify":
            return None
        heat = Placement(**answer["placement"]).enlarge(np.array(answer["heatmap"], np.float32), SIDE_PX)
        with Image.open(io.BytesIO(picture)) as stored:
            seen = stored.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (SIDE_PX, SIDE_PX + 3 * _LINE_PX), "white")
        canvas.paste(outlined(seen, heat), (0, 0))
        draw = ImageDraw.Draw(canvas)
        said = f"{answer['label']}   {100 * answer['probability']:.1f} %"
        said = f"NO ANSWER, would have said: {said}" if answer["abstained"] else said
        degraded = "   DEGRADED: did not pass its parity gates" if answer["degraded"] else ""
        for row, line in enumerate((said, answer["bundle_id"] + degraded, NOTE)):
            write_line(draw, (4, SIDE_PX + 2 + row * _LINE_PX), line)
        stream = io.BytesIO()
        canvas.save(stream, "PNG")
        return stream.getvalue()

    def _choose(self, model: str | None) -> tuple[str, Classifier]:
        name = next(iter(self.models)) if model is None else model
        if name not in self.models:
            raise RequestError(404, "no such model", got=plain(name[:MAX_NAME]), expected=" or ".join(self.models))
        return name, self.models[name]

    @contextmanager
    def _watched(self, model: str) -> Iterator[None]:
        """Note whether an inference went well."""
        try:
            yield
        except EngineError as error:
            with self._lock:
                self._failed[model] = str(error)
            raise
        with self._lock:
            self._failed.pop(model, None)

    def _keep(self, entry: Entry) -> int | None:
        """Keep an answer; a full disk does not cost the answer itself."""
        try:
            return self.history.add(entry)
        except OutputError as error:
            self.meters.history_failures.inc()
            logging.getLogger(__name__).warning("%s", error)
            return None


def _name(name: str) -> str:
    return plain(name)[:MAX_NAME] or "picture"


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _tiles(cells: Sequence[Pixels]) -> bytes | None:
    """Put cells side by side: JPEG of `TILE_COLUMNS` a row, `TILE_PX` each; None where there are none."""
    if not cells:
        return None
    rows = -(-len(cells) // TILE_COLUMNS)
    sheet = Image.new("RGB", (min(len(cells), TILE_COLUMNS) * TILE_PX, rows * TILE_PX), "white")
    for number, pixels in enumerate(cells):
        tile = Image.fromarray(pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR)
        sheet.paste(tile, (number % TILE_COLUMNS * TILE_PX, number // TILE_COLUMNS * TILE_PX))
    return _jpeg(sheet)
