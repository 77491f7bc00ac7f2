"""``info``: what a bundle says about itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .opening import add_command, read_trust_option, trust_option

if TYPE_CHECKING:
    from .opening import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    info = add_command(commands, "info", "show what a bundle says about itself")
    info.add_argument("model", metavar="MODEL", help="name or path")
    info.add_argument("--json", action="store_true", help="its manifest")
    trust_option(info)
    info.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    from .. import report
    from ..bundle import open_bundle

    bundle = open_bundle(options.model, read_trust_option(options))
    print(report.json_line(bundle.manifest.raw) if options.json else report.info_text(bundle))
    return 0
