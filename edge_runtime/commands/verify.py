"""``verify``: hashes of all files, and the golden pictures, on this very device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import LeukoscopeError, UsageError
from ..guard import complain
from .opening import add_command, engine_options, open_classifier, quiet_libraries, trust_option
from .output import FAILED

if TYPE_CHECKING:
    from .opening import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    verify = add_command(
        commands,
        "verify",
        "check a bundle on this device",
        "Check the hashes of all files and run the golden pictures; exit status 1 when one fails.",
    )
    verify.add_argument("models", nargs="*", metavar="MODEL", help="names or paths; default: all that came along")
    verify.add_argument("--json", action="store_true", help="one JSON object per bundle and line")
    engine_options(verify)
    trust_option(verify)
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from .. import report
    from ..bundle import default_bundles
    from ..golden import verify

    models = options.models or default_bundles()
    if not models:
        raise UsageError("no bundle to verify", expected="the path of a bundle")
    failures = 0
    for model in models:
        try:
            classifier = open_classifier(model, options)
            with quiet_libraries():
                found = verify(classifier)
        except UsageError:
            raise
        except LeukoscopeError as error:
            failures += 1
            complain(str(error))
            if options.json:
                print(report.json_line({"model": model, "passed": False, "error": str(error)}))
            continue
        failures += not found.passed
        signer = classifier.bundle.signer
        if options.json:
            print(report.json_line({"model": model, **found.to_dict(), **report.signer_facts(signer)}))
        else:
            print(report.verify_text(found, signer))
    return FAILED if failures else 0
