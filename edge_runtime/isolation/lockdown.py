"""Lockdown: a process gives up, for good, what running a model does not need. The isolated engine calls it on itself.

What comes in are the paths that stay readable and a limit of memory; what goes out is one `Layer` per kind of lock,
which says whether it holds here: kernels differ, and what could not be applied is never passed over in silence. What
each layer prevents is in ``docs/isolation.md``. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from . import Layer, system_calls

DESCRIPTORS = 32
"""Files that may be open at a time."""

CPU_DESCRIPTION = ("/proc/cpuinfo", "/sys/devices/system/cpu")
"""Where engines look up what the processor can do; without it they choose slow kernels, or none."""

_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38  # of prctl(2)


def lock_in(readable: Iterable[str], extra_bytes: int, parent: int) -> tuple[Layer, ...]:
    """Lock this process in.

    Args:
        readable: files and folders it may still read; where Landlock is missing, it may read all that its user may.
        extra_bytes: how much more address space than now it may come to use.
        parent: process id; when that process is gone, this one is killed.
    """
    return (
        _try("parent", lambda: _end_with(parent)),
        _try("privileges", _no_new_privileges),
        _try("limits", lambda: _limits(extra_bytes)),  # before files are refused: it looks up what is used
        _try("Landlock", lambda: _landlock((*readable, *CPU_DESCRIPTION))),
        _try("seccomp", _seccomp),  # the last: it would refuse the others
    )


def _try(name: str, apply: Callable[[], str]) -> Layer:
    try:
        return Layer(name, True, apply())
    except (OSError, ValueError) as error:  # ValueError: how `resource` says that a limit is not for this process
        return Layer(name, False, getattr(error, "strerror", None) or str(error))


def _linux() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError(f"not on {sys.platform}")
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_linux().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def _end_with(parent: int) -> str:
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before anybody could be told
        raise SystemExit(1)
    return ""


def _no_new_privileges() -> str:
    _prctl(_NO_NEW_PRIVS, 1)
    _prctl(_DUMPABLE, 0)  # no core file, and no other process of this user looks inside
    return ""


def _limits(extra_bytes: int) -> str:
    used = 2**30
    with suppress(OSError, ValueError):  # no /proc: more than any engine's package maps
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    wanted = (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_AS, used + extra_bytes),  # the last: macOS refuses it
    )
    for which, most in wanted:
        kept = min(most, *(most if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(which)))
        resource.setrlimit(which, (kept, kept))
    return f"{(used + extra_bytes) / 2**30:.1f} GB of address space"


def _seccomp() -> str:
    _linux()
    system_calls.restrict(platform.machine())
    return ""


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every machine
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))  # Landlock's version -> how many kinds of access to files it knows


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # from Python 3.14 on it must be said; the same as ever
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _landlock(readable: Iterable[str]) -> str:
    """Refuse all files but `readable`, and TCP and signals to other processes where the kernel's Landlock can."""
    call = _linux().syscall
    version = _checked(call(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    others = _other_threads()
    rights = max(count for since, count in _RIGHTS if since <= version)
    rules = _Ruleset((1 << rights) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8  # older kernels refuse what they do not know
    ruleset = _checked(
        call(ctypes.c_long(_CREATE_RULESET), ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    try:
        for path in readable:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:  # not there: nothing to allow
                continue
            try:
                allowed = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
                rule = _Beneath(allowed, place)
                beneath = ctypes.c_int(1)
                _checked(call(ctypes.c_long(_ADD_RULE), ruleset, beneath, ctypes.byref(rule), ctypes.c_uint32(0)))
            finally:
                os.close(place)
        _checked(call(ctypes.c_long(_RESTRICT_SELF), ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    # It binds the thread that asks and all that it starts, not those that an engine's package started when imported.
    less = f", but not over {others} thread{'s' * (others > 1)} that the engine's package had started" if others else ""
    return f"version {version}{less}"


def _other_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task")) - 1
    except OSError:  # no /proc
        return 0
