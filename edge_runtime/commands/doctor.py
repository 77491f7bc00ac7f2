"""``doctor``: is this machine, with what is installed on it, fit to answer? A line or JSON object per check."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .opening import add_command, quiet_libraries
from .output import FAILED

if TYPE_CHECKING:
    from .opening import Commands

EXAMPLES = """\
examples:
  python -m edge_runtime doctor
  python -m edge_runtime doctor --json > doctor.jsonl     # to send along with a question

ok: nothing to do. warning: it works, but slower or less safely than it could. failed: exit status 1.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    doctor = add_command(
        commands,
        "doctor",
        "check this machine and this installation",
        "Check system, processor, memory, power, heat, cameras, storage, clock, engines and bundles; the bundles are "
        "run on their golden pictures. Nothing is changed and nothing leaves the machine.",
        EXAMPLES,
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object per check and line")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .. import device, report
    from ..guard import plain

    counts = dict.fromkeys((device.OK, device.WARNING, device.FAILED), 0)
    checks = device.examine(device.Device())
    while True:
        with quiet_libraries():
            check = next(checks, None)
        if check is None:
            break
        counts[check.result] += 1
        if options.json:
            print(report.json_line(asdict(check)), flush=True)
        else:
            todo = f" ({check.todo})" if check.todo else ""
            print(check.result.ljust(9) + check.name.ljust(22) + plain(check.found + todo), flush=True)
    if not options.json:
        print(f"{counts[device.OK]} ok, {counts[device.WARNING]} to look at, {counts[device.FAILED]} failed")
    return FAILED if counts[device.FAILED] else 0
