"""Memory that only the VMM's processes have, beside the guest's, while the guest is idle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks import bare_metal, images
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Disk, Machine, Vmm
from tests.benchmarks.process import Process
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

BARE = Metric("unique memory, idle, serial port only", "MiB", lower_is_better=True)
BUSY = Metric("unique memory, idle after disk I/O", "MiB", lower_is_better=True)


def measure(bench: Bench) -> None:
    """A guest that halts at once, and one that reads from a disk before it does."""
    with tempfile.TemporaryDirectory(dir=images.directory()) as scratch:
        disk = Disk(images.random_image(Path(scratch, "disk.img")))
        contenders: dict[str, Contender] = {vmm.name: partial(_measure, vmm, disk) for vmm in (PyVmm(), Qemu())}
        bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, disk: Disk) -> dict[Metric, float]:
    return {
        BARE: _idle_memory(vmm, [], []),
        BUSY: _idle_memory(vmm, ["block,read,4096,32,200"], [disk]),
    }


def _idle_memory(vmm: Vmm, words: Sequence[str], disks: Sequence[Disk]) -> float:
    cmdline = bare_metal.command_line([*words, "idle"])
    # At privilege level 0, where it can halt.
    machine = Machine(bare_metal.guest(0), cmdline, disks=tuple(disks))
    with Process(vmm.command(machine)) as process:
        process.wait_for("READY")
        return process.memory(machine.memory).unique


ROW = Row("memory", "unique memory of the process beyond the guest's, idle", measure)
