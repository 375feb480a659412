"""Accesses that the VMM answers: how many a second, how long the slow ones take, and beside a device at work."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks import images
from tests.benchmarks.bare_metal import KvmLoop, Result, run_tests
from tests.benchmarks.harness import OURS, Bench, Contender, Metric
from tests.benchmarks.machines import Disk, Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

SCRATCH_REGISTER = "0x3ff"
"""The serial port's, which has no meaning."""

WINDOWS = {"pyvmm": "0xd0000000", "QEMU": "0xfeb00000", "C": "0xd0000000"}
"""Where each VMM has its first virtio-mmio window."""

MS = 300
BUSY_MS = 1000
DEPTH = 32

_KINDS = {"portin": "port reads", "portout": "port writes", "mmioin": "MMIO reads", "mmioout": "MMIO writes"}


def measure(bench: Bench) -> None:
    """All kinds of access, at both privilege levels; then the slow ones, with a disk idle and busy."""
    with tempfile.TemporaryDirectory(dir=images.directory()) as scratch:
        disk = Disk(images.random_image(Path(scratch, "disk.img")), read_only=True)
        vmms: tuple[Vmm, ...] = (PyVmm(), Qemu(), KvmLoop())
        for level in (0, 3):
            contenders: dict[str, Contender] = {vmm.name: partial(_rates, vmm, level, disk) for vmm in vmms}
            bench.alternate(contenders, runs=5)
        bench.alternate({vmm.name: partial(_busy, bench, vmm, disk) for vmm in vmms[:2]}, runs=5)


def _rates(vmm: Vmm, level: int, disk: Disk) -> dict[Metric, float]:
    words = [
        f"exits,{kind},{SCRATCH_REGISTER if kind.startswith('port') else WINDOWS[vmm.name]},{MS}" for kind in _KINDS
    ]
    results = run_tests(vmm, words, level=level, disks=[disk])
    values: dict[Metric, float] = {}
    for kind, result in zip(_KINDS.values(), results, strict=True):
        values[Metric(f"{kind}, level {level}", "1/s")] = result.rate
        values[Metric(f"{kind}, level {level}, CPU each", "µs", lower_is_better=True)] = _cpu_each(result)
    return values


def _cpu_each(result: Result) -> float:
    """With the guest's own: an idle machine spends nothing else, and a busy host cannot blur it."""
    return 1e6 * (result.cpu.vcpus + result.cpu.others) / result.count


def _busy(bench: Bench, vmm: Vmm, disk: Disk) -> dict[Metric, float]:
    access = f"exits,portin,{SCRATCH_REGISTER},{BUSY_MS}"
    images.read(disk.path)
    idle, busy = run_tests(vmm, [access, f"{access},block,{DEPTH}"], disks=[disk])
    half = Metric("half of port reads within, disk busy", "µs", lower_is_better=True)
    slow = Metric("99 % of port reads within, disk busy", "µs", lower_is_better=True)
    rate = Metric("port reads, level 3, disk busy", "1/s")
    served = Metric("requests of the disk meanwhile", "1/s")
    if vmm.name == OURS:
        bench.add(half, "pyvmm, disk idle", idle.microseconds("p50"))
        bench.add(slow, "pyvmm, disk idle", idle.microseconds("p99"))
        bench.add(rate, "pyvmm, disk idle", idle.rate)
    return {
        half: busy.microseconds("p50"),
        slow: busy.microseconds("p99"),
        rate: busy.rate,
        served: busy.values["requests"] / busy.seconds,
    }


ROW = Row("exits", "port and MMIO accesses that the VMM answers, a second; 99th percentile beside a busy disk", measure)
