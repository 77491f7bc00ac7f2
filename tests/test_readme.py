"""The README keeps its word: its tables are what was measured, its commands exist, its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands() -> list[list[str]]:
    """All `python -m ...` command lines of the README, without redirections and comments."""
    found = re.findall(r"python -m ((?:train|export|edge_runtime)\b[^\n<>&`]*)", README)
    return [shlex.split(line, comments=True) for line in found]


def test_tables_are_what_was_measured() -> None:
    from benchmarks.markdown import with_tables
    from benchmarks.tables import PAGES

    for page, tables in PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert with_tables(text, tables) == text, "run: python -m benchmarks.tables"


def test_commands_parse() -> None:
    from edge_runtime.cli import build_parser as runtime_parser
    from export.cli import build_parser as export_parser
    from train.cli import build_parser as train_parser

    parsers = {"edge_runtime": runtime_parser(), "train": train_parser(), "export": export_parser()}
    commands = _commands()
    assert len(commands) >= 10
    for package, *arguments in commands:
        parsers[package].parse_args(arguments)


def test_files_it_speaks_of_are_there() -> None:
    for link in re.findall(r"\]\(((?!#|http)[^)]+)\)", README):
        assert (ROOT / link.split("#")[0]).exists(), link
    for path in re.findall(r"^\| `([a-z_]+/)`", README, re.MULTILINE):
        assert (ROOT / path).is_dir(), path


def test_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    field = sorted((ROOT / "samples" / "all-subtypes").iterdir())[0]
    names: dict[str, object] = {}
    exec(compile(code.replace('"field.jpg"', repr(str(field))), "README", "exec"), names)
    assert names["prediction"].heatmap.shape == (7, 7)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", ["not a diagnosis", "Not a medical device", "rendered"])
def test_it_says_what_it_is_not(words: str) -> None:
    assert words in README
