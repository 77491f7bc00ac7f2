"""Scan, in words: what the command prints at the end and the page says too. A `Differential` in, text out."""

from __future__ import annotations

from .differential import Differential
from .refusal import REASONS
from .scan import LEFT_OUT
from .shares import Share, wilson


def share_text(share: Share) -> tuple[str, str]:
    """Return a share and its 95 % interval for people."""
    if share.share is None:
        return "-", "-"
    low, high = wilson(share.count, share.total)
    return f"{100 * share.share:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"


def differential_text(found: Differential) -> str:
    """Return what ``scan`` prints at the end: all fields together, for people."""
    lines = [
        f"{found.fields} field{'s' * (found.fields != 1)}, {found.found} white cells found, "
        f"{found.counted} leukocytes counted"
        + (f"; {found.refused} refused" if found.refused else "")
        + (f"; {found.failed} failed" if found.failed else "")
    ]
    shown = (*found.leukocytes, *found.beside) if found.answered else ()
    if found.found and not shown:
        lines.append("no cell was counted: there are no shares")
    width = max((len(share.name) for share in shown), default=0)
    for share in found.leukocytes if shown else ():
        percent, interval = share_text(share)
        lines.append(f"  {share.name:<{width}}  {share.count:>5}  {percent:>7}  ({interval})")
    for share in found.beside if shown else ():
        per = "-" if share.share is None else f"{100 * share.share:.1f}"
        lines.append(f"  {share.name:<{width}}  {share.count:>5}  {per:>5} per 100 leukocytes")
    for point in found.points if shown else ():
        share = point.share
        lines.append(
            f"flagged, {share.name}: {share.count} of {share.total} counted cells; "
            f"where there is none, about {point.false_alarms:.0f} would be"
        )
    left_out = ", ".join(f"{count} {LEFT_OUT[reason]}" for reason, count in found.left_out.items())
    lines.append(f"left out: {left_out or 'none'}")
    lines += [f"  no answer, {reason} {count}: {todo}" for reason, count, todo in declined_rows(found)]
    if found.would_have_said:
        said = ", ".join(f"{label} {count}" for label, count in found.would_have_said.items())
        lines.append(f"  would have said, which is no result: {said}")
    advice = declined_advice(found)
    return "\n".join([*lines, advice] if advice else lines)


def declined_rows(found: Differential) -> list[tuple[str, int, str]]:
    """Return why the model declined to answer: reason, cells, and what to do about it."""
    return [(reason, count, REASONS[reason]) for reason, count in found.declined.items()]


def declined_advice(found: Differential) -> str:
    """Say what it means that the model declined to answer; "" where it did not."""
    declined = found.left_out.get("no answer", 0)
    if not declined:
        return ""
    asked = declined + found.answered
    if 2 * found.declined.get("unfamiliar", 0) >= asked:
        return (
            f"{found.declined['unfamiliar']} of {asked} cells are unlike the model's training pictures: another "
            "camera, stain or kind of cell. Count by hand, or train a model on such pictures; see docs/abstention.md."
        )
    if found.answered:
        return (
            f"Shares are of the {found.answered} of {asked} cells that it answered; the others may be of other kinds."
        )
    return "The model answered for no cell: what to do stands beside each reason; see docs/abstention.md."
