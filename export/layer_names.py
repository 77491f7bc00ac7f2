"""Layer names: what the network calls a convolution, out of what an exported graph calls it.

The tracing exporter writes the path of modules, ``/features/features.0/features.0.0/Conv``; converters add prefixes and
suffixes of their own. The network's own name is its last part: ``features.0.0``, as in a run's ``weights.safetensors``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from edge_runtime.errors import UsageError


def layer_name(node: str) -> str:
    """Return the network's name of a convolution's node, such as ``features.1.conv.2``."""
    parts = [part for part in node.split("/") if part]
    ends = [place for place, part in enumerate(parts) if re.fullmatch(r"Conv(_\d+)?", part)]
    parts = parts[: ends[-1]] if ends else parts[:-1]  # what follows is the converter's: Conv/WithoutBiases
    name, before = "", ""
    for part in parts:  # a part repeats its container's name where that is a Sequential: features/features.0
        name = name.removesuffix(before) + part if before and part.startswith(f"{before}.") else f"{name}.{part}"
        before = part
    return name.removeprefix(".")


def require_layers(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of layers that are not there.

    Raises:
        UsageError: names the nearest that are.
    """
    names = sorted(set(known))
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3) or names[:3]
            raise UsageError("no such layer", got=repr(name), expected=" or ".join(near))
