"""System calls: the list of what an isolated engine may ask of the Linux kernel, as a seccomp filter.

What comes in is a machine and a process id; what goes out is a program for the kernel, which runs it before each system
call of every thread. The list is of what is allowed: memory, threads, time, reading, and the pipes that are open
already. Whatever it does not name fails: sockets, other programs, other processes, writing and removing files, devices.
The kernel's own manual is seccomp(2). Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> column of the tables below, and the kernel's number for it (AUDIT_ARCH_...)."""

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    # threads and signals of its own
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "arch_prctl": (158, None),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # time, chance, and who one is
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getcwd": (79, 17),
    # what is open, and reading: which files, Landlock says
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "write": (1, 64),
    "writev": (20, 66),
    "close": (3, 57),
    "lseek": (8, 62),
    "poll": (7, None),
    "ppoll": (271, 73),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
}
"""Name -> number on x86_64 and aarch64; None: the machine has no such call."""

SINCE_LINUX_5_1 = 424
"""From here on a call has the same number on every machine, and C libraries expect kernels that lack it. Where it is
not allowed it answers ENOSYS, so that they take an older one: clone for clone3, say, whose arguments a filter can see.
EPERM, which all others answer, they would pass on."""

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD, _CLONE_NAMESPACES = 0x10000, 0x7E020000
_PR_SET_NAME = 15
_WHOLE = 0xFFFFFFFF

OWN_PID = -1
"""In `CHECKED`: the process's own id."""

CHECKED: dict[str, tuple[tuple[int | None, int | None], int, int, int]] = {
    "open": ((2, None), 1, _CHANGES, 0),
    "openat": ((257, 56), 2, _CHANGES, 0),
    "clone": ((56, 220), 0, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD),
    "fcntl": ((72, 25), 1, _WHOLE & ~3, 0),  # F_DUPFD, F_GETFD, F_SETFD and F_GETFL: to list a folder
    "prctl": ((157, 167), 0, _WHOLE, _PR_SET_NAME),
    "tgkill": ((234, 131), 0, _WHOLE, OWN_PID),  # abort() is a signal to oneself
}
"""Name -> numbers, an argument's place, a mask, and what the masked argument must be."""

_LOAD, _AND = 0x20, 0x54  # BPF_LD | BPF_W | BPF_ABS, BPF_ALU | BPF_AND | BPF_K
_EQUAL, _AT_LEAST, _RETURN = 0x15, 0x35, 0x06  # BPF_JMP | BPF_JEQ, BPF_JMP | BPF_JGE, BPF_RET

ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, NOT_THERE = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def program(machine: str, pid: int) -> bytes:
    """Return the filter as the kernel takes it: instructions of 8 bytes, (code, jump if true, if false, operand).

    Args:
        machine: of `MACHINES`.
        pid: of the process that will be filtered.
    """
    column, number = MACHINES[machine]
    return b"".join(struct.pack("<HBBI", *step) for step in _steps(column, number, pid))


def _steps(column: int, number: int, pid: int) -> Iterator[tuple[int, int, int, int]]:
    yield _LOAD, 0, 0, 4  # seccomp_data.arch: calls of another machine have other numbers
    yield _EQUAL, 1, 0, number
    yield _RETURN, 0, 0, KILL
    yield _LOAD, 0, 0, 0  # seccomp_data.nr
    if column == 0:  # x32 calls: the same machine, other numbers
        yield _AT_LEAST, 0, 1, 0x40000000
        yield _RETURN, 0, 0, REFUSE
    for numbers in ALLOWED.values():
        if (call := numbers[column]) is not None:
            yield _EQUAL, 0, 1, call
            yield _RETURN, 0, 0, ALLOW
    yield _AT_LEAST, 0, 1, SINCE_LINUX_5_1
    yield _RETURN, 0, 0, NOT_THERE
    for numbers, place, mask, wanted in CHECKED.values():
        if (call := numbers[column]) is not None:
            yield _EQUAL, 0, 5, call
            yield _LOAD, 0, 0, 16 + 8 * place  # lower half of the argument, on a little-endian machine
            yield _AND, 0, 0, mask
            yield _EQUAL, 0, 1, pid if wanted == OWN_PID else wanted
            yield _RETURN, 0, 0, ALLOW
            yield _RETURN, 0, 0, REFUSE
    yield _RETURN, 0, 0, REFUSE


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def restrict(machine: str) -> None:
    """Apply the filter to all threads of this process, for good. No new privileges must be set before.

    Raises:
        OSError: the kernel has no seccomp filters, or this is no machine they are known for.
    """
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    library = ctypes.CDLL(None, use_errno=True)
    steps = program(machine, os.getpid())
    handed = _Program(len(steps) // 8, steps)
    call = 317 if machine == "x86_64" else 277  # seccomp(2) has no wrapper
    set_mode_filter, all_threads = 1, 1
    if library.syscall(ctypes.c_long(call), set_mode_filter, all_threads, ctypes.byref(handed)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
