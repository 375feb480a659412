"""The cost of a device at the start, and in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks import bare_metal, images
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Disk, Machine, Vmm
from tests.benchmarks.process import Process
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

COUNTS = (0, 2, 8)


def measure(bench: Bench) -> None:
    """Machines with so many disks beside the serial port."""
    with tempfile.TemporaryDirectory(dir=images.directory()) as scratch:
        disks = [Disk(images.random_image(Path(scratch, f"{i}.img"), 1 << 20)) for i in range(max(COUNTS))]
        for count in COUNTS:
            start = Metric(f"start to first instruction and out, {count} disks", "ms", lower_is_better=True)
            memory = Metric(f"unique memory, idle, {count} disks", "MiB", lower_is_better=True)
            used = tuple(disks[:count])
            first = Machine(bare_metal.first(), disks=used)
            idle = Machine(bare_metal.guest(0), bare_metal.command_line(["idle"]), disks=used)
            contenders: dict[str, Contender] = {
                "pyvmm": _both(start, PyVmm(), first, memory, PyVmm(), idle),
                "QEMU": _both(start, Qemu(rom=bare_metal.first_rom()), first, memory, Qemu(), idle),
            }
            bench.alternate(contenders, runs=10)


def _both(start: Metric, starting: Vmm, first: Machine, memory: Metric, idling: Vmm, idle: Machine) -> Contender:
    def measure_both() -> dict[Metric, float]:
        with Process(idling.command(idle)) as process:
            process.wait_for("READY")
            unique = process.memory(idle.memory).unique
        return {start: 1000 * bare_metal.time_to_end(starting, first)[0], memory: unique}

    return measure_both


ROW = Row("devices", "start and memory with 0, 2 and 8 disks", measure)
