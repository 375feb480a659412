"""Many machines on one host: does the hundredth start as fast as the first, and is it as small?"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from tests.benchmarks import bare_metal
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Machine, Vmm
from tests.benchmarks.process import Process
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

TOLD = (1, 10, 100)
"""Which machines are told of; the others just run."""

AROUND = 9
"""The time is the median of so many machines, up to the one that is told of."""


def measure(bench: Bench) -> None:
    """Idle machines, one after the other, all left running."""
    contenders: dict[str, Contender] = {vmm.name: partial(_fill, vmm) for vmm in (PyVmm(), Qemu())}
    bench.alternate(contenders, runs=3)


def _fill(vmm: Vmm) -> dict[Metric, float]:
    machine = Machine(bare_metal.guest(0), bare_metal.command_line(["idle"]))
    command = vmm.command(machine)
    values: dict[Metric, float] = {}
    times: list[float] = []
    with ExitStack() as stack:
        for number in range(1, max(TOLD) + 1):
            process = stack.enter_context(Process(command))
            process.wait_for("READY")
            times.append(1000 * (time.monotonic() - process.started))
            if number in TOLD:
                recent = sorted(times[-AROUND:])
                memory = process.memory(machine.memory)
                values[Metric(f"start to READY, machine {number}", "ms", True)] = recent[len(recent) // 2]
                values[Metric(f"unique memory, machine {number}", "MiB", True)] = memory.unique
                values[Metric(f"proportional memory, machine {number}", "MiB", True)] = memory.proportional
    return values


ROW = Row("density", "time to start and memory of the 1st, 10th and 100th machine", measure)
