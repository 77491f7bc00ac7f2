"""The errors that export adds to the closed list of ``edge_runtime.errors``."""

from edge_runtime.errors import LeukoscopeError


class ExportError(LeukoscopeError):
    """A run cannot be exported: not evaluated, a converter is missing or failed, or a graph is not what it must be."""


class GateError(ExportError):
    """The export works, but lost more on the way than the parity ladder allows."""
