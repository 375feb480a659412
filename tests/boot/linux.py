"""Debian's kernels, unmodified, with serial, block and net together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.boot.booting import boot
from tests.guest import artefacts, disk
from tests.guest.tap import tap

LOOK = """
echo CPUS=$(nproc)
echo MEMORY=$(grep MemTotal /proc/meminfo | tr -dc 0-9)
echo RELEASE=$(uname -r)
echo DISK=$(sha256sum /dev/vda | cut -d' ' -f1)
mkdir -p /mnt && mount -t ext4 /dev/vda /mnt || exit 1
echo written by the guest >/mnt/from-guest.txt
sync
umount /mnt
ip addr add $ADDRESS dev eth0 && ip link set eth0 up || exit 2
ping -c 3 -W 5 $HOST >/dev/null || exit 3
dmesg | grep -iE 'warn|bug:|call trace|firmware bug|acpi.*error' | grep -v XSAVE >/tmp/bad
echo COMPLAINTS=$(wc -l </tmp/bad)
head -3 /tmp/bad
"""


def check(tmp_path: Path, *, flavour: str, elf: bool, cpus: int, memory: str, end: str) -> None:
    """Boot it, and see that it uses all that it has."""
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()

    with tap() as interface:
        script = f"ADDRESS={interface.guest}/{interface.prefix} HOST={interface.host}\n{LOOK}"
        result = boot(
            tmp_path,
            script,
            *("--cpus", str(cpus), "--memory", memory),
            *("--device", f"block:{image}", "--device", f"net:{interface.name}"),
            flavour=flavour,
            elf=elf,
            cmdline=f"quiet pyvmm.end={end}",
        )

    result.assert_passed()
    assert result.value("CPUS") == str(cpus)
    megabytes = int(result.value("MEMORY")) / 1024
    asked = int(memory[:-1]) * (1024 if memory.endswith("G") else 1)
    assert 0.6 * asked < megabytes < asked
    assert result.value("RELEASE") == artefacts.ensure(flavour).release
    assert result.value("DISK") == digest
    assert disk.read_file(image, "/from-guest.txt") == b"written by the guest\n"
    assert disk.check(image) == ""
