"""Debian's kernel: from the start of the process to the guest's init, and to the end of the run."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks import namespace
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Card, Disk, Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row
from tests.guest import artefacts

INIT = Metric("start to the guest's init", "s", lower_is_better=True)
CLOCK = Metric("the guest's clock at init", "s", lower_is_better=True)
POWER_OFF = Metric("start to the end, after a power-off", "s", lower_is_better=True)
MEMORY = Metric("unique memory, idle after boot", "MiB", lower_is_better=True)

_IDLE = "echo IDLE; sleep 1"


def measure(bench: Bench) -> None:
    """With a disk and a card, whose drivers the guest's init loads."""
    with tempfile.TemporaryDirectory() as scratch, namespace.tap() as tap:
        disk = Disk(artefacts.fresh_disk(Path(scratch, "disk.img")))
        devices = {"disks": [disk], "cards": [Card(tap.name)]}
        with linux_guest("true", **devices) as guest, linux_guest(_IDLE, **devices) as idle:  # type: ignore[arg-type]
            contenders: dict[str, Contender] = {
                vmm.name: partial(_measure, vmm, guest, idle) for vmm in (PyVmm(), Qemu(linux=True))
            }
            bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest, idle: LinuxGuest) -> dict[Metric, float]:
    return _boot(vmm, guest) | _memory(vmm, idle)


def _boot(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    with guest.run(vmm) as process:
        clock = float(process.wait_for("PYVMM-INIT").split()[1])
        init = time.monotonic() - process.started
    return {INIT: init, CLOCK: clock, POWER_OFF: time.monotonic() - process.started}


def _memory(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    with guest.run(vmm) as process:
        process.wait_for("IDLE")
        return {MEMORY: process.memory(guest.machine.memory).unique}


ROW = Row(
    "boot", "Debian's kernel: process start to init and to the end after a power-off; memory", measure, linux=True
)
