"""Revisions: what a user calls A or B - a folder or a git revision - in; a fresh copy of its ``edge_runtime`` out.

A revision is unpacked from git's own archive of it: unlike a worktree, that leaves nothing behind in the repository
when the program is killed. A folder's package is copied, so that Python writes nothing to the folder, both sides start
without byte-compiled files, and who goes on working in the folder changes nothing of what is timed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import LeukoscopeError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "edge_runtime"


@dataclass(frozen=True)
class Side:
    """A or B.

    Attributes:
        given: what the user called it.
        folder: holds the copy of its ``edge_runtime``.
        commit: in full; "" where it is a folder in no repository.
        changed: whether the folder's ``edge_runtime`` differs from that commit.
    """

    given: str
    folder: Path
    commit: str
    changed: bool

    @property
    def described(self) -> str:
        """What it is, in words."""
        if not self.commit:
            return f"{self.given} (not under git)"
        short = self.commit[:10]
        parts = [] if self.given in (self.commit, short) else [short]
        parts += ["with uncommitted changes"] if self.changed else []
        return f"{self.given} ({' '.join(parts)})" if parts else self.given


def open_side(given: str, into: Path) -> Side:
    """Copy a folder's package, or unpack a revision's.

    Args:
        given: path of a folder that holds ``edge_runtime``, else a git revision of this repository.
        into: where to; made.

    Raises:
        UsageError: neither, both, or a revision from before ``edge_runtime``.
        LeukoscopeError: git failed.
    """
    folder = Path(given)
    found = None if given.startswith("-") else _git(ROOT, "rev-parse", "--verify", "--quiet", f"{given}^{{commit}}")
    if (folder / PACKAGE / "__init__.py").is_file():
        if found:
            raise UsageError(
                f"{given}: both a revision and a folder that holds {PACKAGE}",
                todo=f"write {Path('.', given).absolute()} for the folder, {found[:10]} for the revision",
            )
        shutil.copytree(folder / PACKAGE, into / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        tracked = _git(folder, "ls-files", "--", PACKAGE)
        commit = _git(folder, "rev-parse", "HEAD") if tracked else None
        changed = bool(commit and _git(folder, "status", "--porcelain", "--", PACKAGE))
        return Side(given, into, commit or "", changed)
    if not found:
        if folder.is_dir():
            raise UsageError(f"{given}: a folder without {PACKAGE}", todo="give a checkout or an unpacked wheel")
        raise UsageError(
            "what is to be compared", got=given, expected=f"a git revision, or a folder that holds {PACKAGE}"
        )
    if not _git(ROOT, "ls-tree", "--name-only", found, PACKAGE):
        raise UsageError(f"{given}: a revision without {PACKAGE}", todo="take one of later")
    archive = subprocess.run(
        ["git", "archive", "--format=zip", "-0", found, PACKAGE], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise LeukoscopeError(f"{given}: git archive failed", got=archive.stderr.decode(errors="replace"))
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(into)
    return Side(given, into, found, changed=False)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, without the last line's end; None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
