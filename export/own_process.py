"""Own process: run a step where nothing that came before it in this one can leave a mark, nor it on what follows.

OpenVINO numbers what it names from the start of the process, so that the second conversion in one gives other bytes
than the first; and a library that crashes takes down only the process it is in.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from .errors import ExportError

Result = TypeVar("Result")


def own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module's function in a new interpreter.

    Args:
        function: found by its module and name there.
        arguments: are copied there.

    Raises:
        ExportError: the process died.
        Exception: whatever the function raised.
    """
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise ExportError(f"{function.__name__}: the process died", todo="more memory, or another target") from None
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
