"""From the start of the process to the guest's first instruction, and out again."""

from __future__ import annotations

from tests.benchmarks import bare_metal
from tests.benchmarks.bare_metal import KvmLoop
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Machine, Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

BARE = Metric("start to first instruction and out", "ms", lower_is_better=True)
KERNEL = Metric("the same, of a kernel", "ms", lower_is_better=True)
LARGE = Metric("the same, of a kernel with 5 GiB", "ms", lower_is_better=True)


def measure(bench: Bench) -> None:
    """QEMU with a ROM that ends at once, for its firmware does not count; then with firmware and kernel."""
    first = Machine(bare_metal.first())
    large = Machine(bare_metal.first(), memory=5120)
    rom = Qemu(rom=bare_metal.first_rom())
    bench.alternate(
        {"pyvmm": timed(PyVmm(), first, BARE), "QEMU": timed(rom, first, BARE), "C": timed(KvmLoop(), first, BARE)},
        runs=20,
    )
    for metric, machine in ((KERNEL, first), (LARGE, large)):
        bench.alternate({"pyvmm": timed(PyVmm(), machine, metric), "QEMU": timed(Qemu(), machine, metric)}, runs=10)


def timed(vmm: Vmm, machine: Machine, metric: Metric) -> Contender:
    """Measures the time from the process's start to its end, and the CPU time that it takes."""
    cpu = Metric(f"{metric.name}, CPU", "ms", lower_is_better=True)

    def measure_once() -> dict[Metric, float]:
        seconds, cpu_seconds = bare_metal.time_to_end(vmm, machine)
        return {metric: 1000 * seconds, cpu: 1000 * cpu_seconds}

    return measure_once


ROW = Row("start", "process start to the guest's first instruction and out again", measure)
