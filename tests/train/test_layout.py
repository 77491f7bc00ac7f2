"""Tables for people have aligned columns and no blanks at the ends of lines."""

from __future__ import annotations

from train.layout import columns

HEAD, ROWS = ["", "pictures"], [["blast", "7"], ["all", "1479"]]


def test_columns_are_aligned() -> None:
    assert columns(HEAD, ROWS) == "       pictures\nblast  7\nall    1479"
    assert columns(HEAD, ROWS, "  ") == "         pictures\n  blast  7\n  all    1479"
    assert columns(HEAD, ROWS, rule=True).splitlines()[1] == "-" * 15
    assert columns(HEAD, []) == "  pictures"
