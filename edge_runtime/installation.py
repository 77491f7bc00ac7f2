"""The installation: Python, engines, bundles and settings in, `Check` rows out.

The other half of what ``device`` examines. The bundles are not only opened but run on their golden pictures, with the
engine that the command line would use.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from . import TRUST_VARIABLE, __version__
from .device import FAILED, OK, WARNING, Check, Device
from .device_settings import ENGINE_MODULES, SettingsError, recall, settings_path
from .errors import LeukoscopeError
from .machine import package_version
from .trust import Trust, read_trust


def _python(_: Device) -> Iterator[Check]:
    where = "virtual environment" if sys.prefix != sys.base_prefix else "system's"
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "Pillow"))
    found = f"{platform.python_version()} ({where}), leukoscope {__version__}, {packages}"
    yield Check("python", OK, found)


def _engines(_: Device) -> Iterator[Check]:
    versions = {name: package_version(module) for name, module in ENGINE_MODULES.items()}
    there = [f"{name} {version}" for name, version in versions.items() if version is not None]
    if not there:
        yield Check("engines", FAILED, "none", 'pip install "leukoscope[litert]"')
        return
    numpy = version("numpy")
    if versions["tflite-runtime"] is not None and not numpy.startswith("1."):
        todo = 'pip install "leukoscope[litert]", or pip install "numpy<2"'
        yield Check("engines", WARNING, f"{', '.join(there)}; tflite-runtime fails with numpy {numpy}", todo)
    else:
        yield Check("engines", OK, ", ".join(there))


def _trust(_: Device) -> Iterator[Check]:
    path = os.environ.get(TRUST_VARIABLE)
    if path is None:
        yield Check("trust", OK, f"${TRUST_VARIABLE} is not set: bundles need no signature")
        return
    try:
        read_trust(path)
    except LeukoscopeError as error:
        yield Check("trust", FAILED, str(error))
    else:
        yield Check("trust", OK, f"only bundles signed by a key of {path}")


def _bundles(_: Device) -> Iterator[Check]:
    from .bundle import default_bundles

    path = os.environ.get(TRUST_VARIABLE)
    names = default_bundles()
    if not names:
        yield Check("bundles", WARNING, "none came with this package")
    for name in names:
        try:
            yield _bundle(name, None if path is None else read_trust(path))
        except LeukoscopeError as error:
            yield Check(f"bundle {name}", FAILED, str(error))


def _bundle(name: str, trust: Trust | None) -> Check:
    from .bundle import open_bundle
    from .classifier import Classifier
    from .golden import verify

    bundle = open_bundle(name, trust)
    try:
        choice = recall(bundle.id, settings_path())
    except SettingsError:  # has a check of its own
        choice = None
    chosen = (None, None) if choice is None else (choice.engine, choice.threads)
    classifier = Classifier.open(bundle, *chosen)
    report = verify(classifier)
    passed = sum(case.passed for case in report.cases)
    how = f"{report.engine}, {classifier.engine.threads} thread{'s' * (classifier.engine.threads > 1)}"
    found = f"{passed} of {len(report.cases)} golden pictures right with {how}"
    if report.passed:
        return Check(f"bundle {name}", OK, found)
    return Check(f"bundle {name}", FAILED, found, f"python -m edge_runtime verify {name}; try another --engine")


def _isolation(_: Device) -> Iterator[Check]:
    from .isolation.graph import layers_here

    try:
        layers = layers_here()
    except LeukoscopeError as error:
        yield Check("isolation", WARNING, str(error), "open no bundles of untrusted authors here")
        return
    told = "; ".join(f"{layer.name} {'holds' if layer.held else 'does not: ' + layer.detail}" for layer in layers)
    if all(layer.held for layer in layers):
        yield Check("isolation", OK, f"--isolate: {told}")
    else:
        yield Check("isolation", WARNING, f"--isolate: {told}", "docs/isolation.md says what that leaves open")


def _settings(_: Device) -> Iterator[Check]:
    path = settings_path()
    if path is None:
        yield Check("settings", OK, "no home is known, so nothing is remembered")
        return
    try:
        recall("", path)
    except SettingsError as error:
        yield Check("settings", WARNING, error.what, error.todo or "")
        return
    if path.is_file():
        yield Check("settings", OK, f"engine and threads as in {path}")
    else:
        yield Check(
            "settings", OK, "nothing measured yet", "python -m edge_runtime bench finds the fastest engine here"
        )


def _byte_code(_: Device) -> Iterator[Check]:
    missing = []
    for module in ("edge_runtime", "numpy", "PIL", *ENGINE_MODULES.values()):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            compiled = importlib.util.cache_from_source(spec.origin)
            if not Path(compiled).is_file():
                missing.append(module)
    if missing:
        todo = f"{sys.executable} -m compileall -q {sys.prefix}"
        yield Check("byte code", WARNING, f"not compiled: {', '.join(missing)}; every start takes longer", todo)
    else:
        yield Check("byte code", OK, "compiled")


def _temporary(device: Device) -> Iterator[Check]:
    import tempfile

    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        yield Check("temporary", FAILED, str(error), "make /tmp writable, or set TMPDIR")
        return
    free_mb = device.free_bytes(Path(folder)) / 2**20
    low = free_mb < 50
    yield Check("temporary", WARNING if low else OK, f"{free_mb:.0f} MB free in {folder}", "clear it" if low else "")


INSTALLATION = (_python, _engines, _trust, _bundles, _isolation, _settings, _byte_code, _temporary)
"""In the order of the report."""
