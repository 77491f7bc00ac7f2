"""Isolation: an engine in a process of its own, so that what a hostile or damaged model does to it is an error line.

``graph`` is what ``engines`` loads instead of a model; ``child`` is the process as its parent sees it, ``inside`` what
that process does, ``lockdown`` what it gives up before, and ``system_calls`` the list of what it may still ask of the
kernel. Both sides speak in ``frames``. What that prevents on which system is in ``docs/isolation.md``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One kind of lock around an isolated engine: whether it holds; `detail` says how far, or why not."""

    name: str
    held: bool
    detail: str = ""
