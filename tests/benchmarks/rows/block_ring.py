"""The disk's data plane at native speed: a bare-metal guest that keeps the queue full."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.benchmarks import images
from tests.benchmarks.bare_metal import Result, run_tests
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Disk, Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

MS = 500
DEPTHS = (1, 32, 128)

_SMALL = {"read": "4 KiB random read", "write": "4 KiB random write"}
_LARGE = {"seqread": "1 MiB sequential read", "seqwrite": "1 MiB sequential write"}
_LARGE_DEPTH = 4


def measure(bench: Bench) -> None:
    """Through the page cache, then without it."""
    with tempfile.TemporaryDirectory(dir=images.directory()) as scratch:
        disk = Disk(images.random_image(Path(scratch, "disk.img")))
        for direct in (False, True):
            if direct and not images.has_direct(disk.path):
                bench.note("no figures without the page cache: the file system has no O_DIRECT")
                continue
            vmms: tuple[Vmm, ...] = (PyVmm(), Qemu(), Qemu("QEMU io_uring", aio="io_uring"))
            used = replace(disk, direct=direct)
            contenders: dict[str, Contender] = {vmm.name: partial(_ring, vmm, used) for vmm in vmms}
            bench.alternate(contenders, runs=3)


def _ring(vmm: Vmm, disk: Disk) -> dict[Metric, float]:
    small = {
        f"{name}, depth {depth}": f"block,{operation},4096,{depth},{MS}"
        for operation, name in _SMALL.items()
        for depth in DEPTHS
    }
    large = {
        f"{name}, depth {_LARGE_DEPTH}": f"block,{operation},{1 << 20},{_LARGE_DEPTH},{MS}"
        for operation, name in _LARGE.items()
    }
    if not disk.direct:
        images.read(disk.path)
    values: dict[Metric, float] = {}
    how = ", direct" if disk.direct else ""
    results: dict[str, Result] = {}
    for words in (small, large):
        os.sync()  # who wrote much in the test before is not to have more to clean up in the next
        results |= zip(words, run_tests(vmm, list(words.values()), disks=[disk]), strict=True)
    for name, result in results.items():
        unit = "MiB/s" if name.startswith("1 MiB") else "1/s"
        values[Metric(name + how, unit)] = result.rate
        if result.count:
            cpu = 1e6 * result.cpu.others / result.count
            values[Metric(f"{name}{how}, CPU each", "µs", lower_is_better=True)] = cpu
        if name.endswith("depth 1"):
            for part, percentile in (("half", "p50"), ("99 %", "p99")):
                latency = result.microseconds(percentile)
                values[Metric(f"{name}{how}, {part} within", "µs", lower_is_better=True)] = latency
    return values


ROW = Row("block-ring", "a disk's queue kept full by a bare-metal guest, with and without the page cache", measure)
