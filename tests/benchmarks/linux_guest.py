"""Debian's kernel in a VMM, with a script: the same kernel, initramfs and command line for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.benchmarks.harness import BenchError
from tests.benchmarks.machines import Card, Disk, Machine, Vmm
from tests.benchmarks.process import Process
from tests.guest import artefacts

CMDLINE: Final = "console=ttyS0 quiet panic=-1 pci=off"
"""What pyvmm gives by itself, for who does not. quiet, since all that a kernel says costs each VMM its time."""

CLOCK: Final = """clock() { read up rest </proc/uptime; echo CLOCK $up; }"""
"""Shell: ``clock`` tells the guest's time, for :func:`seconds_between`."""

_TOOLS: Final = """
mkdir -p /tools && mount -t ext4 -o ro /dev/vd{letter} /tools || exit 99
for d in dev proc sys; do mount --bind /$d /tools/$d; done
mount -t tmpfs none /tools/tmp
"""


@dataclass(frozen=True)
class LinuxGuest:
    """The guest that all VMMs boot."""

    machine: Machine

    @contextmanager
    def run(self, vmm: Vmm) -> Iterator[Process]:
        """Boot it in ``vmm``; the block reads what the script says. It must have ended well at the end."""
        with Process(vmm.command(self.machine)) as process:
            yield process
            said = process.wait_for("PYVMM-SCRIPT-EXIT")
            if said != "PYVMM-SCRIPT-EXIT 0":
                raise BenchError(f"the guest's script failed: {said}")
            while process.line() is not None:
                pass
            status = process.wait()
            if not vmm.ended_well(status):
                raise BenchError(f"ended with {status}: {process.complaint()}")


def seconds_between(process: Process, count: int) -> list[float]:
    """The time between each of ``count`` calls of ``clock`` and the next."""
    times = [float(process.wait_for("CLOCK").split()[1]) for _ in range(count)]
    return [max(later - earlier, 0.01) for earlier, later in pairwise(times)]


@contextmanager
def linux_guest(
    script: str,
    *,
    tools: Sequence[str] = (),
    disks: Sequence[Disk] = (),
    cards: Sequence[Card] = (),
    memory: int = 256,
    cpus: int = 1,
) -> Iterator[LinuxGuest]:
    """A guest that runs ``script`` with busybox's sh, ``tools`` of this host found under their names."""
    guest = artefacts.ensure()
    disks = list(disks)
    if tools:
        preamble = _TOOLS.format(letter=chr(ord("a") + len(disks)))
        preamble += "".join(f'{tool}() {{ chroot /tools {tool} "$@"; }}\n' for tool in tools)
        script = preamble + script
        disks.append(Disk(artefacts.tools_disk(*tools), read_only=True))
    with tempfile.TemporaryDirectory() as scratch:
        yield LinuxGuest(
            Machine(
                # QEMU enters a bzImage at its 32-bit start, which in the lab meets a defect of the emulated machine.
                kernel=guest.vmlinux,
                cmdline=CMDLINE,
                initrd=artefacts.with_script(guest.initramfs, script, Path(scratch, "initrd")),
                memory=memory,
                cpus=cpus,
                disks=tuple(disks),
                cards=tuple(cards),
            )
        )
