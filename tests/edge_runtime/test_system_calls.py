"""The filter of system calls, instruction by instruction, for both machines; and its numbers against the kernel's."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from edge_runtime.isolation.system_calls import (
    ALLOW,
    ALLOWED,
    CHECKED,
    KILL,
    MACHINES,
    NOT_THERE,
    REFUSE,
    SINCE_LINUX_5_1,
    program,
)

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
PID = 4242


def decide(machine: str, call: int, *arguments: int, number: int | None = None) -> int:
    """Run the filter as the kernel does, by the rules of classic BPF, and return its verdict."""
    wanted = MACHINES[machine][1] if number is None else number
    data = struct.pack("<IIQ6Q", call, wanted, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("<HBBI", program(machine, PID)))
    place, value = 0, 0
    while True:
        code, yes, no, operand = steps[place]
        place += 1
        if code == 0x20:  # load a word
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:  # and
            value &= operand
        elif code in (0x15, 0x35):  # jump if equal, if at least
            place += yes if (value == operand if code == 0x15 else value >= operand) else no
        else:
            assert code == 0x06  # return
            return int(operand)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_listed_is_allowed_and_all_else_refused(machine: str) -> None:
    column = MACHINES[machine][0]
    allowed = {numbers[column] for numbers in ALLOWED.values()} - {None}
    checked = {numbers[0][column] for numbers in CHECKED.values()} - {None}
    assert not allowed & checked
    for call in range(600):
        if call not in checked:
            other = NOT_THERE if call >= SINCE_LINUX_5_1 else REFUSE
            assert decide(machine, call) == (ALLOW if call in allowed else other)
    assert decide(machine, 0x7FFFFFFF) != ALLOW and decide(machine, 0xFFFFFFFF) != ALLOW
    assert decide(machine, 0, number=0x40000003) == KILL, "the numbers of a 32-bit machine mean other calls"
    assert len(program(machine, PID)) // 8 < 4096, "the kernel takes no more"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "call"), [("clone3", 435), ("openat2", 437), ("futex_waitv", 449), ("futex_wait", 455), ("to come", 599)]
)
def test_calls_that_a_newer_c_library_tries_first_are_not_there(machine: str, name: str, call: int) -> None:
    assert decide(machine, call) == NOT_THERE, f"{name}: refused, it would be passed on as an error"


def test_the_other_numbers_of_an_x86_are_refused() -> None:
    assert decide("x86_64", 0x40000000 + 1) == REFUSE


CASES = [
    ("openat", (0, 0, 0o2000000), ALLOW),  # O_RDONLY | O_CLOEXEC
    ("openat", (0, 0, 0o1), REFUSE),
    ("openat", (0, 0, 0o2), REFUSE),
    ("openat", (0, 0, 0o100), REFUSE),
    ("openat", (0, 0, 0o1000), REFUSE),
    ("openat", (0, 0, 0o20200002), REFUSE),  # O_TMPFILE | O_RDWR
    ("clone", (0x3D0F00,), ALLOW),  # a thread of the C library's
    ("clone", (0x1200011,), REFUSE),  # fork
    ("clone", (0x10000000 | 0x11,), REFUSE),  # a user namespace
    ("clone", (0x40000000 | 0x3D0F00,), REFUSE),  # a thread in a network namespace
    ("prctl", (15,), ALLOW),
    ("prctl", (1,), REFUSE),  # PR_SET_PDEATHSIG
    ("prctl", (22,), REFUSE),
    ("tgkill", (PID, PID, 6), ALLOW),
    ("tgkill", (1, 1, 9), REFUSE),
    ("fcntl", (3, 3), ALLOW),
    ("fcntl", (3, 8), REFUSE),  # F_SETOWN: signals to others
    ("fcntl", (3, 4), REFUSE),  # F_SETFL
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "arguments", "verdict"), CASES)
def test_arguments_are_looked_at(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    call = CHECKED[name][0][MACHINES[machine][0]]
    assert call is not None and decide(machine, call, *arguments) == verdict


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    path = next((Path(name) for name in HEADERS[machine] if Path(name).is_file()), None)
    if path is None:
        pytest.skip(f"no kernel headers for {machine} here")
    text = re.sub(r"__NR3264_(\w+)", r"__NR_\1", path.read_text("ascii"))
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    column = MACHINES[machine][0]
    tables = {**ALLOWED, **{name: row[0] for name, row in CHECKED.items()}}
    assert {n: c[column] for n, c in tables.items() if c[column] is not None} == {
        n: known.get(n) for n, c in tables.items() if c[column] is not None
    }
    assert not {n for n, c in tables.items() if c[column] is None} & set(known), "no call is left out by mistake"
