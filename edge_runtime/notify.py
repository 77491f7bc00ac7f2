"""Notify: tells systemd that the program is ready, alive or stopping, where it was started by a unit of Type=notify.

What comes in are the environment variables ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``; what goes out are datagrams as
sd_notify(3) describes them. Without the variables nothing happens.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress


class Supervisor:
    """Whoever started this program and wants to know how it does."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watched = "WATCHDOG_USEC" in os.environ
        self._last_s = 0.0

    def tell(self, state: str) -> None:
        """Send a state, such as "READY=1" or "STOPPING=1"; nobody has to listen."""
        if not self._address:
            return
        import socket

        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), self._address)

    def alive(self) -> None:
        """Say that the program is not stuck; call it as often as you like."""
        if self._watched and time.monotonic() - self._last_s >= 1.0:
            self._last_s = time.monotonic()
            self.tell("WATCHDOG=1")
