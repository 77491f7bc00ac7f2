"""The one error that training adds to the closed list of ``edge_runtime.errors``."""

from edge_runtime.errors import LeukoscopeError


class DataError(LeukoscopeError):
    """A data set, index, run folder or weights file is not what the command needs."""
