"""What this device remembers: for each bundle, the engine and the number of threads that ``bench`` found best here.

One small JSON file, written whole by ``bench``, read by the command line when neither is asked for; the library never
looks at it. It counts only on the machine and with the engines it was measured with: a card that moved to another
board, or an engine of another version, is a reason to measure again, and said so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import LeukoscopeError
from .machine import ROOT, cpu_name, package_version, usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT, VERSION = "leukoscope-device", 1

MAX_BYTES = 1024 * 1024

PATH_VARIABLE = "LEUKOSCOPE_CONFIG"
"""The environment variable that names the file; else it is ``leukoscope/device.json`` in the user's settings."""

TODO = "python -m edge_runtime bench"


class SettingsError(LeukoscopeError):
    """The file is damaged, of another program or of another machine; whoever reads it goes on without."""


@dataclass(frozen=True)
class Choice:
    """What is best for a bundle on this machine.

    Attributes:
        engine: as in `engines.ENGINES`.
        threads: for one inference.
        latency_p50_ms: of one answer when it was chosen, milliseconds.
    """

    engine: str
    threads: int
    latency_p50_ms: float


def settings_path(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the file is or would be; None where no home is known, as in some services."""
    if named := environment.get(PATH_VARIABLE):
        return Path(named)
    if (base := environment.get("XDG_CONFIG_HOME", "")) and os.path.isabs(base):  # others count as unset, as XDG has it
        return Path(base) / "leukoscope" / "device.json"
    if home := environment.get("HOME") or environment.get("USERPROFILE"):
        return Path(home) / ".config" / "leukoscope" / "device.json"
    return None


def machine(root: Path = ROOT) -> dict[str, Any]:
    """Return what a choice depends on: processor, usable CPUs, and the version of each installed engine."""
    versions = {name: package_version(module) for name, module in ENGINE_MODULES.items()}
    engines = {name: version for name, version in versions.items() if version is not None}
    return {"cpu": cpu_name(root), "cpus": usable_cpus(), "engines": engines}


ENGINE_MODULES = {
    "litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}
"""As in `engines.ENGINES`, which needs numpy; a test compares."""


def recall(bundle_id: str, path: Path | None) -> Choice | None:
    """Return what was chosen for a bundle; None where nothing was.

    Raises:
        SettingsError: the file is not what it must be, or was measured elsewhere.
    """
    stated = _read(path)
    if path is None or stated is None:
        return None
    if stated["machine"] != machine():
        raise SettingsError(f"{path}: measured on another machine or with other engines, so ignored", todo=TODO)
    if bundle_id not in stated["choices"]:
        return None
    choice = _choice(stated["choices"][bundle_id], path)
    if choice.engine not in stated["machine"]["engines"]:  # as nobody but an editor writes it
        raise SettingsError(f"{path}: damaged, so ignored", got=f"{choice.engine}, which is not installed", todo=TODO)
    return choice


def remember(choices: Mapping[str, Choice], path: Path) -> None:
    """Add choices to the file: bundle id -> choice. What was measured elsewhere, or is damaged, is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    from .files import make_folder, write_text

    try:
        stated = _read(path)
    except SettingsError:
        stated = None
    here = machine()
    kept = stated["choices"] if stated is not None and stated["machine"] == here else {}
    added = {bundle_id: asdict(choice) for bundle_id, choice in choices.items()}
    make_folder(path.parent)
    content = {"format": FORMAT, "version": VERSION, "machine": here, "choices": {**kept, **added}}
    write_text(path, json.dumps(content, indent=1) + "\n")


def forget(bundle_ids: Iterable[str] | None, path: Path) -> int:
    """Remove the choices for some bundles, or all: None. Return how many were there.

    Raises:
        SettingsError: the file is not this program's, and so not its to remove.
        OutputError: it cannot be written or removed.
    """
    from .files import write_text

    stated = _read(path)
    if stated is None:
        return 0
    choices = stated["choices"]
    gone = set(choices) if bundle_ids is None else set(choices) & set(bundle_ids)
    left = {bundle_id: choice for bundle_id, choice in choices.items() if bundle_id not in gone}
    if left:
        write_text(path, json.dumps({**stated, "choices": left}, indent=1) + "\n")
    else:
        path.unlink()
    return len(gone)


def _read(path: Path | None) -> dict[str, Any] | None:
    """Return what the file says, checked as far as all its readers need; None where there is none."""
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read, so ignored", got=error.strerror) from None
    try:
        stated = json.loads(text) if len(text) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict) or stated.get("format") != FORMAT or stated.get("version") != VERSION:
        got = stated.get("format") if isinstance(stated, dict) else "no JSON object"
        raise SettingsError(f"{path}: ignored", got=got, expected=f"{FORMAT} {VERSION}", todo=TODO)
    if not isinstance(stated.get("choices"), dict) or not isinstance(stated.get("machine"), dict):
        raise SettingsError(f"{path}: damaged, so ignored", todo=TODO)
    return stated


def _choice(stated: object, path: Path) -> Choice:
    if isinstance(stated, dict):
        engine, threads, latency = (stated.get(key) for key in ("engine", "threads", "latency_p50_ms"))
        whole = isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= 64
        if engine in ENGINE_MODULES and whole and isinstance(latency, int | float):
            return Choice(str(engine), int(threads), float(latency))  # type: ignore[arg-type]
    raise SettingsError(f"{path}: damaged, so ignored", todo=TODO)
