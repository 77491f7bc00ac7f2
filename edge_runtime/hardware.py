"""The hardware: processor, memory, power, heat, cameras, storage and clock of a machine in, `Check` rows out.

One half of what ``device`` examines. Everything is read from the kernel's files or asked of the board's own programs;
what a number means is in the tables here, with who says so.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .device import FAILED, OK, WARNING, Check, Device
from .machine import FEATURES, board, cpu_features, cpu_info, cpu_name, read_text


def _system(device: Device) -> Iterator[Check]:
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', device.text("etc/os-release") or "", re.MULTILINE)
    parts = [board(device.root), release[1] if release else platform.system(), f"{device.bits}-bit {device.arch}"]
    found = ", ".join(part for part in parts if part)
    if device.bits != 64:
        yield Check("system", FAILED, found, "install a 64-bit system: no engine has wheels for 32 bits")
    else:
        yield Check("system", OK, found)


def _processor(device: Device) -> Iterator[Check]:
    known = FEATURES.get({"arm64": "aarch64", "AMD64": "x86_64"}.get(device.arch, device.arch), ())
    features = cpu_features(cpu_info(device.root))
    words = ", ".join(word for word in known if word in features)
    lacking = ", ".join(word for word in known if word not in features)
    found = cpu_name(device.root) + (f"; has {words}" if words else "") + (f"; lacks {lacking}" if lacking else "")
    if not features:
        silent = sys.platform == "linux"
        todo = "let this process read /proc/cpuinfo: without it engines fall back to kernels many times slower"
        yield Check("processor", WARNING if silent else OK, cpu_name(device.root), todo if silent else "")
    elif device.arch == "x86_64" and "avx2" not in features:
        yield Check("processor", WARNING, found, "engines are much slower without avx2; a virtual machine may hide it")
    else:
        yield Check("processor", OK, found)


def _cores(device: Device) -> Iterator[Check]:
    online, present = (_cpu_list(device.text(f"sys/devices/system/cpu/{name}")) for name in ("online", "present"))
    found = f"{device.cpus} of {online or device.cpus} CPUs for this process"
    limit = _cpu_limit(device)
    if limit is not None and limit < device.cpus:
        found += f", but only the time of {limit:g}"
        yield Check("cores", WARNING, found, "more threads than that only wait: let bench find the best number")
    elif not present and sys.platform == "linux":
        todo = "let this process read /sys/devices/system/cpu: without it engines take kernels that round otherwise"
        yield Check("cores", WARNING, found, todo)
    elif online and present and online < present:
        todo = "sudo nvpmodel -m 0" if device.is_jetson else "see /sys/devices/system/cpu/offline"
        yield Check("cores", WARNING, f"{found}; {present - online} switched off", todo)
    else:
        yield Check("cores", OK, found)


def _cpu_limit(device: Device) -> float | None:
    """Return how many CPUs' time a container's limit leaves to this process; None where there is none."""
    share, _, period = (_cgroup(device, "cpu.max", "cpu/cpu.cfs_quota_us") or "").partition(" ")
    period = period or device.text("sys/fs/cgroup/cpu/cpu.cfs_period_us") or "100000"
    return int(share) / int(period) if share.isdecimal() and period.isdecimal() else None


def _memory(device: Device) -> Iterator[Check]:
    facts: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", device.text("proc/meminfo") or "", re.MULTILINE))
    if "MemTotal" not in facts:
        return
    total, free = (int(facts.get(key, facts["MemTotal"])) / 1024 for key in ("MemTotal", "MemAvailable"))
    found = f"{total:.0f} MB, {free:.0f} MB available"
    limit = _cgroup(device, "memory.max", "memory/memory.limit_in_bytes")
    if limit is not None and limit.isdecimal() and int(limit) / 2**20 < total:
        free = min(free, int(limit) / 2**20)
        found += f", at most {int(limit) / 2**20:.0f} MB for this process"
    low = free < 200
    yield Check(
        "memory", WARNING if low else OK, found, "large pictures may not fit: close other programs" if low else ""
    )


THROTTLED = {
    0: (FAILED, "under-voltage now", "a stronger power supply, a shorter cable"),
    1: (WARNING, "frequency capped now", "cooling"),
    2: (WARNING, "throttled now", "cooling, or a stronger power supply"),
    3: (WARNING, "soft temperature limit now", "cooling"),
    16: (WARNING, "under-voltage since the start", "a stronger power supply, a shorter cable"),
    17: (WARNING, "frequency capped since the start", "cooling"),
    18: (WARNING, "throttled since the start", "cooling, or a stronger power supply"),
    19: (WARNING, "soft temperature limit since the start", "cooling"),
}
"""Bit of ``vcgencmd get_throttled`` -> what it means, as Raspberry Pi documents it, and what helps."""


def _power(device: Device) -> Iterator[Check]:
    if device.is_jetson:
        mode = re.search(r"NV Power Mode:\s*(\S+)", device.ask(["nvpmodel", "-q"]) or "")
        found = f"power mode {mode[1]}" if mode else "power mode unknown"
        todo = "" if mode and mode[1].startswith("MAXN") else "sudo nvpmodel -q shows it; mode 0 is usually the fastest"
        yield Check("power", OK, found, todo)
    if not device.is_raspberry_pi:
        return
    said = re.search(r"throttled=0x([0-9a-fA-F]+)", device.ask(["vcgencmd", "get_throttled"]) or "")
    if said is None:
        yield Check("power", WARNING, "vcgencmd does not answer", "sudo usermod -aG video $USER, then log in again")
        return
    rows = [row for bit, row in THROTTLED.items() if int(said[1], 16) >> bit & 1]
    if not rows:
        yield Check("power", OK, "supply and frequency were fine since the start")
        return
    worst = FAILED if any(result == FAILED for result, _, _ in rows) else WARNING
    todo = "; ".join(dict.fromkeys(todo for _, _, todo in rows))
    yield Check("power", worst, ", ".join(words for _, words, _ in rows) + f" (0x{said[1]})", todo)


HOT_C = 80.0
"""A Raspberry Pi slows down from here; others a little later."""


def _temperature(device: Device) -> Iterator[Check]:
    zones = []
    for zone in sorted(device.root.glob("sys/class/thermal/thermal_zone*")):
        milli = device.number(f"{zone.relative_to(device.root)}/temp")
        if milli is not None and -40_000 < milli < 200_000:
            zones.append((milli / 1000, read_text(zone / "type") or zone.name))
    if zones:
        hottest, name = max(zones)
        hot = hottest >= HOT_C
        yield Check("temperature", WARNING if hot else OK, f"{hottest:.0f} C ({name})", "cooling" if hot else "")


def _frequency(device: Device) -> Iterator[Check]:
    base = "sys/devices/system/cpu/cpu0/cpufreq"
    now, cap, most = (
        device.number(f"{base}/{n}") for n in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
    )
    governor = device.text(f"{base}/scaling_governor")
    if not most or governor is None:
        return
    found = f"governor {governor}, {(now or 0) / 1e6:.2f} of {most / 1e6:.2f} GHz"
    slow = governor == "powersave" and device.text(f"{base}/scaling_driver") not in ("intel_pstate", "amd-pstate-epp")
    if slow or (cap and cap < most):
        found += f", capped at {cap / 1e6:.2f}" if cap and cap < most else ""
        todo = "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor" if slow else ""
        yield Check("frequency", WARNING, found, todo or "see scaling_max_freq: something limits it")
    else:
        yield Check("frequency", OK, found)


# Names of V4L2 nodes that are no cameras by themselves: codecs, image processors, and the receivers behind picamera2.
_NO_CAMERA = re.compile(r"bcm2835-(codec|isp)|rpivid|rpi-hevc|pisp|rp1-cfe|unicam")


def _camera(device: Device) -> Iterator[Check]:
    nodes = device.root.glob("sys/class/video4linux/video*")
    cameras = []
    for node in sorted(nodes, key=lambda node: (len(node.name), node.name)):
        name = read_text(node / "name") or "camera"
        second = (read_text(node / "index") or "0") != "0"  # a USB camera's second node gives no pictures
        if not second and not _NO_CAMERA.match(name):
            cameras.append((f"/dev/{node.name}", name))
    found = ", ".join(f"{path} ({name})" for path, name in cameras) or "none by V4L2"
    closed = [path for path, _ in cameras if not device.may_use(device.root / path[1:])]
    if closed:
        yield Check("camera", WARNING, f"{found}; no permission", "sudo usermod -aG video $USER, then log in again")
    elif cameras and not device.has_module("cv2"):
        yield Check("camera", WARNING, f"{found}; OpenCV is not installed", 'pip install "leukoscope[camera]"')
    else:
        yield Check("camera", OK, found)
    if device.is_raspberry_pi:
        yield _pi_camera(device)


def _pi_camera(device: Device) -> Check:
    todo = "for a camera at the ribbon cable: see docs/raspberry-pi.md"
    if not device.has_module("picamera2"):
        return Check("picamera2", OK, "not installed", todo)
    # In a process of its own: beside another numpy than it was built for the import fails, and it is slow.
    said = device.ask([sys.executable, "-c", "import picamera2; print(len(picamera2.Picamera2.global_camera_info()))"])
    if said is None:
        return Check("picamera2", WARNING, "installed, but cannot be imported: another numpy than it needs?", todo)
    return Check("picamera2", OK, f"{said.splitlines()[-1]} camera(s) at the ribbon cable")


def _storage(device: Device) -> Iterator[Check]:
    mounts = [line.split() for line in (device.text("proc/mounts") or "").splitlines()]
    roots = [fields for fields in mounts if len(fields) > 3 and fields[1] == "/"]
    source, options = (roots[-1][0], roots[-1][3].split(",")) if roots else ("", [])
    medium = "SD card or eMMC" if source.startswith("/dev/mmcblk") else source or "the disk"
    free_mb = device.free_bytes(device.root) / 2**20
    found = f"{free_mb:.0f} MB free on {medium}"
    if "ro" in options:
        todo = "fine if that is on purpose; else the card is failing: dmesg says why"
        yield Check("storage", WARNING, f"{medium} is mounted read-only", todo)
    elif free_mb < 500:
        yield Check("storage", FAILED if free_mb < 50 else WARNING, found, "delete or move old results")
    else:
        yield Check("storage", OK, found)


def _clock(device: Device) -> Iterator[Check]:
    told = (device.root / "run/systemd/timesync/synchronized").exists() or device.synchronised()
    battery = any(device.root.glob("sys/class/rtc/rtc*"))
    if told:
        yield Check("clock", OK, "synchronised")
    elif told is not None:
        found = "not synchronised" + ("" if battery else ", and there is no hardware clock")
        todo = "timedatectl set-ntp true; without a network, set it by hand: answers carry its time"
        yield Check("clock", WARNING, found, todo)


def _cpu_list(text: str | None) -> int | None:
    """Count the CPUs of a list such as "0-3,5"."""
    if not text or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return None
    ends = [part.partition("-") for part in text.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _cgroup(device: Device, v2: str, v1: str) -> str | None:
    """Return the tightest limit on this process: of its control group and those above it."""
    own = re.search(r"^0::(/\S*)", device.text("proc/self/cgroup") or "", re.MULTILINE)
    found = [device.text(f"sys/fs/cgroup/{v1}")]
    path = Path("sys/fs/cgroup") / (own[1].lstrip("/") if own else "")
    while path.name != "sys" and path.parts:
        found.append(device.text(f"{path}/{v2}"))
        path = path.parent
    limits = [text for text in found if text and text.split()[0].isdecimal()]
    return min(limits, key=lambda text: int(text.split()[0])) if limits else None


HARDWARE = (_system, _processor, _cores, _memory, _power, _temperature, _frequency, _camera, _storage, _clock)
"""In the order of the report."""
