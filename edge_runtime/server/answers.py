"""Answers: the shapes of what the API returns, for its OpenAPI document.

What the bodies hold is made elsewhere (`Prediction.to_dict`, `FieldScan.to_dict`, `History`); these only say it to
programs. More keys may come; none of these goes within ``/v1``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Rows = list[list[float]]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorSides(BaseModel):
    """What was wrong, what was got, what was expected, and what to do."""

    what: str
    got: str | None
    expected: str | None
    todo: str | None


class ErrorAnswer(BaseModel):
    """Every response of status 400 and above."""

    error: ErrorSides


class PlacementAnswer(BaseModel):
    """Where the heatmap's cells lie in the picture the model saw, pixels: cell i at first_px + i * step_px."""

    first_px: float
    step_px: float
    input_px: int


class FlagAnswer(BaseModel):
    """The answer to an operating point."""

    yes: bool
    score: float = Field(ge=0, le=1)
    threshold: float


class RefusalAnswer(_Open):
    """Why there is no answer."""

    reason: str
    measure: str
    value: float
    low: float | None
    high: float | None
    text: str


class PredictionAnswer(_Open):
    """What a model says about one picture or cell."""

    label: str
    probability: float = Field(ge=0, le=1)
    probabilities: dict[str, float]
    logits: list[float]
    heatmap: Rows
    placement: PlacementAnswer
    flags: dict[str, FlagAnswer]
    abstained: bool
    plausible: list[str]
    refusals: list[RefusalAnswer]
    timings_ms: dict[str, float]
    bundle_id: str
    degraded: bool


class ExplanationAnswer(_Open):
    """Where the heat lies; places are shares of the square that the model saw."""

    runner_up: str
    inside_cell: float | None
    centroid: list[float] | None
    box: list[float] | None
    level: float
    contrast: Rows


class ClassifyAnswer(PredictionAnswer):
    """The answer to a picture. `id` is its number in the history, null where it could not be kept."""

    id: int | None
    picture: str
    explanation: ExplanationAnswer | None = None


class CellAnswer(PredictionAnswer):
    """One white cell of a field; boxes are left, top, width, height in pixels of the picture."""

    number: int
    left_out: str | None
    box: list[int]
    crop: list[int]
    cut: bool


class TilesAnswer(BaseModel):
    """How a scan's cells stand in ``/v1/history/{id}/cells``: from the top left, `columns` a row, `px` wide."""

    px: int
    columns: int


class ScanAnswer(_Open):
    """The white cells of a field."""

    id: int | None
    field: str
    width: int
    height: int
    red_cell_px: float | None
    refusals: list[RefusalAnswer]
    cells: list[CellAnswer]
    timings_ms: dict[str, float]
    bundle_id: str
    tiles: TilesAnswer


class EntryAnswer(_Open):
    """An answer of the history: that of ``classify`` or of ``scan``, and when it was given (UTC, ISO 8601)."""

    id: int
    time: str
    kind: Literal["classify", "scan"]
    bundle_id: str


class SummaryAnswer(BaseModel):
    """What a list shows of an answer; of a scan how many cells were found, and how many of them are counted."""

    id: int
    time: str
    kind: Literal["classify", "scan"]
    picture: str
    model: str
    label: str | None
    probability: float | None
    abstained: bool
    cells: int | None
    counted: int | None = None


class HistoryAnswer(BaseModel):
    """A page of the history, newest first; `next` is the `before` of the next page, null at the end."""

    entries: list[SummaryAnswer]
    next: int | None
    count: int
    kept: Literal["on disk", "in memory"]


class DeletedAnswer(BaseModel):
    """How many answers were forgotten."""

    deleted: int


class ModelAnswer(_Open):
    """A model that answers; the first of the list does when none is named."""

    model: str
    id: str
    task: str
    title: str
    kind: Literal["cell", "field"]
    labels: list[str]
    engine: str
    parity_passed: bool


class ModelsAnswer(BaseModel):
    """All models, whether there is a camera, and the limits of what may be asked."""

    models: list[ModelAnswer]
    camera: bool
    version: str
    note: str
    max_body_bytes: int
    max_picture_pixels: int


class CameraAnswer(BaseModel):
    """The camera: `present` when a frame came within the last seconds."""

    present: bool
    width: int | None
    height: int | None
    frame: int | None
    dropped: int
    error: str | None


class HealthAnswer(BaseModel):
    """Whether the service does what it is there for."""

    status: Literal["ok", "failing"]
    reasons: list[str]
