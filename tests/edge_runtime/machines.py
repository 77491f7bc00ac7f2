"""Machines for tests: what the kernel of each says, as files below a root.

Written by hand from public documentation (Raspberry Pi's and NVIDIA's pages, the kernel's, Arm's register manuals), not
copied off boards: none was at hand. They hold what the code reads, and beside it some of what is there, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.device import Device


def arm_cpuinfo(cores: int, features: str, part: str, tail: str = "") -> str:
    """What /proc/cpuinfo is on 64-bit Arm."""
    core = (
        "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {}\nCPU revision\t: 3\n\n"
    )
    return "".join(core.format(number, features, part) for number in range(cores)) + tail


@dataclass(frozen=True)
class Machine:
    """A machine: its files, what its programs print, and what only a running kernel could say."""

    files: Mapping[str, str]
    arch: str = "aarch64"
    cpus: int = 4
    programs: Mapping[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ("cv2",)
    closed: Sequence[str] = ()
    free_mb: int = 20_000
    synchronised: bool | None = True

    def device(self, root: Path) -> Device:
        """Lay the files below a folder, and return the machine as ``device`` takes it."""
        for name, text in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def ask(command: Sequence[str]) -> str | None:
            words = " ".join(command)
            return next((said for name, said in self.programs.items() if name in words), None)

        return Device(
            root=root,
            arch=self.arch,
            bits=64,
            cpus=self.cpus,
            ask=ask,
            may_use=lambda path: str(path.relative_to(root)) not in self.closed,
            has_module=lambda module: module in self.modules,
            free_bytes=lambda _: self.free_mb * 2**20,
            synchronised=lambda: self.synchronised,
        )


def cpufreq(governor: str, now: int, most: int, cap: int | None = None, driver: str = "cpufreq-dt") -> dict[str, str]:
    base = "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        f"{base}/scaling_governor": f"{governor}\n",
        f"{base}/scaling_driver": f"{driver}\n",
        f"{base}/scaling_cur_freq": f"{now}\n",
        f"{base}/scaling_max_freq": f"{cap or most}\n",
        f"{base}/cpuinfo_max_freq": f"{most}\n",
    }


def video(number: int, name: str, index: int = 0) -> dict[str, str]:
    base = f"sys/class/video4linux/video{number}"
    return {f"{base}/name": f"{name}\n", f"{base}/index": f"{index}\n"}


def meminfo(total_mb: int, available_mb: int) -> str:
    kb = 1024
    return f"MemTotal:       {total_mb * kb} kB\nMemFree:        1000 kB\nMemAvailable:   {available_mb * kb} kB\n"


PI_OS = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n'

PI_4 = Machine(
    {
        "proc/cpuinfo": arm_cpuinfo(
            4,
            "fp asimd evtstrm crc32 cpuid",
            "0xd08",
            "Revision\t: c03115\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n",
        ),
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "proc/meminfo": meminfo(3794, 3300),
        "proc/mounts": "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n/dev/mmcblk0p1 /boot/firmware vfat rw 0 0\n",
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope\n",
        "etc/os-release": PI_OS,
        "sys/devices/system/cpu/online": "0-3\n",
        "sys/devices/system/cpu/present": "0-3\n",
        "sys/class/thermal/thermal_zone0/temp": "52095\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        **cpufreq("ondemand", 600_000, 1_800_000),
        **video(0, "HD USB Camera: HD USB Camera"),
        **video(1, "HD USB Camera: HD USB Camera", 1),
        **video(10, "bcm2835-codec-decode"),
        **video(13, "bcm2835-isp"),
        **video(19, "rpivid"),
        "run/systemd/timesync/synchronized": "",
    },
    programs={"vcgencmd get_throttled": "throttled=0x0"},
)

PI_5 = Machine(
    {
        "proc/cpuinfo": arm_cpuinfo(
            4,
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
            "0xd0b",
        ),
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/meminfo": meminfo(8063, 7200),
        "proc/mounts": "/dev/nvme0n1p2 / ext4 rw,noatime 0 0\n",
        "etc/os-release": PI_OS.replace("12 (bookworm)", "13 (trixie)"),
        "sys/devices/system/cpu/online": "0-3\n",
        "sys/devices/system/cpu/present": "0-3\n",
        "sys/class/thermal/thermal_zone0/temp": "84500\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/rtc/rtc0/name": "rpi_rtc\n",
        **cpufreq("ondemand", 1_500_000, 2_400_000),
        **video(0, "rp1-cfe-csi2_ch0"),
        **video(20, "pispbe-input"),
    },
    programs={"vcgencmd get_throttled": "throttled=0x50005", "import picamera2": "1"},
    modules=("cv2", "picamera2"),
    synchronised=False,
)

ORIN = Machine(
    {
        "proc/cpuinfo": arm_cpuinfo(
            4,
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat "
            "ilrcpc flagm paca pacg",
            "0xd42",
        ),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": meminfo(7620, 5900),
        "proc/mounts": "/dev/mmcblk0p1 / ext4 rw,relatime 0 0\n",
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
        "etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64\n",
        "sys/devices/system/cpu/online": "0-3\n",
        "sys/devices/system/cpu/present": "0-5\n",
        "sys/class/thermal/thermal_zone0/temp": "48562\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "-256000\n",  # a sensor that is switched off
        "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
        "sys/class/rtc/rtc0/name": "nvvrs_pseq_rtc\n",
        **cpufreq("schedutil", 729_600, 1_510_400, driver="tegra194"),
        **video(0, "UVC Camera (046d:0825)"),
    },
    programs={"nvpmodel -q": "NV Power Mode: 7W\n1"},
    closed=("dev/video0",),
)

CONTAINER = Machine(
    {
        "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n"
        "flags\t\t: fpu sse sse2 ssse3 sse4_1 sse4_2 avx hypervisor\n\n",
        "proc/meminfo": meminfo(64_000, 50_000),
        "proc/mounts": "overlay / overlay ro,relatime,lowerdir=/l,upperdir=/u 0 0\n",
        "proc/self/cgroup": "0::/pod/one\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/devices/system/cpu/online": "0-7,9\n",
        "sys/devices/system/cpu/present": "0-9\n",
        "sys/fs/cgroup/pod/one/cpu.max": "max 100000\n",
        "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/pod/one/memory.max": "134217728\n",
        "sys/fs/cgroup/pod/memory.max": "536870912\n",
    },
    arch="x86_64",
    cpus=8,
    modules=(),
    free_mb=30,
    synchronised=None,
)
