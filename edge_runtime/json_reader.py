"""Typed reading of JSON: each value is asked for by key and kind; what is wrong is a `BundleError` with its path.

What comes in are bytes that somebody else wrote; what goes out are texts and numbers that are what they were asked to
be. JSON that Python would let pass is refused: duplicate keys, NaN and infinities, lone surrogates, "1" for 1 and true
for 1. What the keys mean is known to ``manifest`` and ``golden``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import BundleError

MAX_TEXT_LENGTH = 100
"""Longest name, label or question, characters: each is printed on one line."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def load_object(text: bytes, source: str, max_bytes: int) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: UTF-8.
        source: what errors call the file.
        max_bytes: a longer text is refused before it is parsed.

    Raises:
        BundleError: too long, not UTF-8, not JSON, not an object, a key twice, or a number that is not finite.
    """
    if len(text) > max_bytes:
        raise BundleError(f"{source}: too large", got=f"{len(text)} bytes", expected=f"at most {max_bytes}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BundleError(f"{source}: {_shown(twice)}: stands there twice")
        return found

    def refuse(word: str) -> float:
        raise BundleError(f"{source}: not a number of JSON", got=word, expected="a finite number")

    def finite(word: str) -> float:
        value = float(word)
        return value if math.isfinite(value) else refuse(word)  # "1e999" is valid JSON and infinite

    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse, parse_float=finite)
        json.dumps(raw, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate could never be printed
    except UnicodeError:
        raise BundleError(f"{source}: not UTF-8 text") from None
    except RecursionError:
        raise BundleError(f"{source}: nested too deeply") from None
    except ValueError as error:
        raise BundleError(f"{source}: not JSON", got=str(error)) from None
    if not isinstance(raw, dict):
        raise BundleError(f"{source}: not an object", got=_kind(raw), expected="a JSON object")
    return raw


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float; True and False are neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(key: str) -> str:
    return repr(key)[:200] if not key.isprintable() or len(key) > MAX_TEXT_LENGTH else key


@dataclass(frozen=True)
class Node:
    """One object of the manifest, with the path that errors name."""

    value: dict[str, Any]
    source: str
    path: str

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{_shown(key)}" if self.path else _shown(key)

    def wrong(self, key: str, got: object, expected: str) -> BundleError:
        """Return the error for a value that is not what it must be."""
        return BundleError(f"{self.source}: {self.at(key)}", got=str(got)[:200], expected=expected)

    def need(self, key: str) -> Any:
        """Return a value of any kind, which must be there."""
        if key not in self.value:
            raise BundleError(f"{self.source}: {self.at(key)}: missing")
        return self.value[key]

    def version(self, form: str, newest: int) -> int:
        """Return the version of a document, read before all else: what a newer one calls its keys is not ours to judge.

        Args:
            form: what ``format`` must be.
            newest: version that this program knows.
        """
        self.choice("format", form)
        version = self.integer("version", 1)
        if version > newest:
            raise BundleError(
                f"{self.source}: version: newer than this program",
                got=version,
                expected=f"at most {newest}",
                todo="update leukoscope",
            )
        return version

    def node(self, key: str) -> Node:
        """Return an object."""
        value = self.need(key)
        if not isinstance(value, dict):
            raise self.wrong(key, _kind(value), "an object")
        return Node(value, self.source, self.at(key))

    def items(self, key: str) -> Iterable[tuple[str, Any]]:
        """Return the items of a list, each with the key that errors name."""
        value = self.need(key)
        if not isinstance(value, list):
            raise self.wrong(key, _kind(value), "a list")
        return [(f"{key}[{place}]", item) for place, item in enumerate(value)]

    def nodes(self, key: str) -> list[Node]:
        """Return a list of objects."""
        return [Node({place: item}, self.source, self.path).node(place) for place, item in self.items(key)]

    def text(self, key: str) -> str:
        """Return a text that is not blank."""
        value = self.need(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, _kind(value) if not isinstance(value, str) else repr(value), "a text, not empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(Node({place: item}, self.source, self.path).text(place) for place, item in self.items(key))

    def line(self, key: str) -> str:
        """Return a text that may be printed as it is: one line, no control characters."""
        value = self.text(key)
        if not value.isprintable() or value != value.strip() or len(value) > MAX_TEXT_LENGTH:
            raise self.wrong(key, repr(value), f"one printable line of at most {MAX_TEXT_LENGTH} characters")
        return value

    def lines(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts, each as `line`."""
        found: list[str] = []
        for place, item in self.items(key):
            found.append(Node({place: item}, self.source, self.path).line(place))
            if found[-1] in found[:-1]:
                raise self.wrong(place, repr(found[-1]), "different texts")
        return tuple(found)

    def choice(self, key: str, *choices: str) -> str:
        """Return a text that is one of `choices`."""
        value = self.need(key)
        if not isinstance(value, str) or value not in choices:
            got = repr(value) if isinstance(value, str) else _kind(value)
            raise self.wrong(key, got, " or ".join(repr(choice) for choice in choices))
        return value

    def sha256(self, key: str) -> str:
        """Return 64 lower-case hex digits."""
        value = self.text(key)
        if not _SHA256.fullmatch(value):
            raise self.wrong(key, repr(value), "64 lower-case hex digits")
        return value

    def boolean(self, key: str) -> bool:
        """Return true or false; 1 and 0 are neither."""
        value = self.need(key)
        if not isinstance(value, bool):
            raise self.wrong(key, _kind(value), "true or false")
        return value

    def integer(self, key: str, low: int, high: int | None = None) -> int:
        """Return an integer from `low` to `high`; 1.0 is none."""
        value = self.need(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, value if isinstance(value, float) else _kind(value), "an integer")
        if value < low or (high is not None and value > high):
            raise self.wrong(key, value, f"{low} to {high}" if high is not None else f"at least {low}")
        return value

    def numbers(self, key: str) -> list[float]:
        """Return a list of finite numbers."""
        return [Node({place: item}, self.source, self.path).number(place) for place, item in self.items(key)]

    def number(
        self, key: str, *, low: float | None = None, high: float | None = None, above: float | None = None
    ) -> float:
        """Return a finite number from `low` to `high`, both allowed, or greater than `above`."""
        value = self.need(key)
        if not is_number(value):
            raise self.wrong(key, _kind(value), "a number")
        if above is not None and value <= above:
            raise self.wrong(key, value, f"more than {above:g}")
        if (low is not None and value < low) or (high is not None and value > high):
            raise self.wrong(key, value, f"at least {low:g}" if high is None else f"{low or 0:g} to {high:g}")
        try:
            return float(value)
        except OverflowError:
            raise self.wrong(key, "an integer too large", "a finite number") from None
