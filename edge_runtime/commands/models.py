"""``models``: the bundles that came with this package, as a table or JSON lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import LeukoscopeError
from ..guard import complain
from .opening import add_command
from .output import FAILED

if TYPE_CHECKING:
    from .opening import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    models = add_command(commands, "models", "list the bundles that came with this package")
    models.add_argument("--json", action="store_true", help="one JSON object per bundle and line")
    models.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    from .. import report
    from ..bundle import default_bundles, open_bundle

    facts, failures = [], 0
    for name in default_bundles():
        try:
            facts.append(report.bundle_facts(name, open_bundle(name)))
        except LeukoscopeError as error:
            failures += 1
            complain(str(error))
    if options.json:
        for fact in facts:
            print(report.json_line(fact))
    else:
        print(report.models_table(facts) if facts else "No bundles came with this package.")
    return FAILED if failures else 0
