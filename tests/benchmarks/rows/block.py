"""A disk under Debian's kernel: fio in the guest."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks import images
from tests.benchmarks.harness import Bench, BenchError, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Disk, Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

SECONDS = 3

_JOBS = [
    *(
        (f"4 KiB random {what}, depth {depth}", f"rand{what}", "4k", depth)
        for what in ("read", "write")
        for depth in (1, 32, 128)
    ),
    *((f"1 MiB sequential {what}, depth 4", what, "1m", 4) for what in ("read", "write")),
]

# fio's terse output, version 3, counted from 0
_READ_BANDWIDTH, _READ_IOPS = 6, 7
_WRITE_BANDWIDTH, _WRITE_IOPS = 47, 48


def measure(bench: Bench) -> None:
    """Through the host's page cache: a lab's files are in memory, where there is no O_DIRECT."""
    # The processes of all jobs together take a second of fio's time each, so that it starts once.
    with tempfile.TemporaryDirectory() as scratch:
        disk = Disk(images.random_image(Path(scratch, "disk.img"), 128 << 20))
        with linux_guest(_script(), tools=["fio"], disks=[disk], memory=384) as guest:
            contenders: dict[str, Contender] = {
                vmm.name: partial(_fio, vmm, guest)
                for vmm in (PyVmm(), Qemu(linux=True), Qemu("QEMU io_uring", aio="io_uring", linux=True))
            }
            bench.alternate(contenders, runs=2)


def _script() -> str:
    lines = ["fio --minimal --filename=/dev/vda --direct=1 --ioengine=libaio --time_based --norandommap"]
    lines += [f"--runtime={SECONDS} --randrepeat=0"]
    for number, (_, operation, size, depth) in enumerate(_JOBS):
        lines += [f"--name=job{number} --stonewall --rw={operation} --bs={size} --iodepth={depth}"]
    return " \\\n".join(lines)


def _fio(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    values: dict[Metric, float] = {}
    with guest.run(vmm) as process:
        for name, operation, size, _ in _JOBS:
            fields = process.wait_for("3;").split(";")
            if len(fields) <= _WRITE_IOPS or fields[4] != "0":
                raise BenchError(f"fio: {name}: {';'.join(fields[:5])}")
            write = "write" in operation
            if size == "4k":
                values[Metric(name, "1/s")] = float(fields[_WRITE_IOPS if write else _READ_IOPS])
            else:
                values[Metric(name, "MiB/s")] = float(fields[_WRITE_BANDWIDTH if write else _READ_BANDWIDTH]) / 1024
    return values


ROW = Row("block", "a disk under Debian's kernel: fio, random and sequential", measure, linux=True)
