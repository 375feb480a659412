"""A memory balloon under Debian's kernel: how fast the guest gives memory up and takes it back."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.clients import PATIENCE, connect
from tests.benchmarks.harness import Bench, BenchError, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Vmm
from tests.benchmarks.process import Process
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

MEMORY = 256
MIB = 96
STEPS = 10

_SCRIPT = "modprobe virtio_balloon 2>/dev/null; echo READY; sleep 3600\n"

SetSize = Callable[[int], int]
"""Asks for a size in bytes, or with -1 for nothing: the size that the balloon has."""


def measure(bench: Bench) -> None:
    """Both report free pages, and may not run out of memory by the balloon."""
    with tempfile.TemporaryDirectory() as scratch, linux_guest(_SCRIPT, memory=MEMORY) as guest:
        ours, theirs = Path(scratch, "balloon"), Path(scratch, "qmp")
        options = (
            *("-device", "virtio-balloon-device,deflate-on-oom=on,free-page-reporting=on"),
            *("-qmp", f"unix:{theirs},server=on,wait=off"),
        )
        contenders: dict[str, Contender] = {
            "pyvmm": partial(_measure, PyVmm(devices=(f"balloon,socket={ours}",)), guest, partial(_control, ours)),
            "QEMU": partial(_measure, Qemu(linux=True, options=options), guest, partial(_qmp, theirs)),
        }
        bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest, control: Callable[[], Any]) -> dict[Metric, float]:
    with Process(vmm.command(guest.machine)) as process:
        process.wait_for("READY")
        with control() as set_size:
            steps = [_reach(set_size, step << 20) for step in range(1, STEPS + 1)]
            _reach(set_size, 0)
            inflated, deflated = _reach(set_size, MIB << 20), _reach(set_size, 0)
    return {
        Metric("1 MiB more, half within", "ms", lower_is_better=True): 1000 * statistics.median(steps),
        Metric(f"{MIB} MiB given up", "MiB/s"): MIB / inflated,
        Metric(f"{MIB} MiB taken back", "MiB/s"): MIB / deflated,
    }


def _reach(set_size: SetSize, size: int) -> float:
    """Seconds until the balloon has ``size`` bytes."""
    start = time.monotonic()
    actual = set_size(size)
    while actual != size:
        if time.monotonic() - start > PATIENCE:
            raise BenchError(f"the balloon has {actual} bytes in place of {size}")
        time.sleep(0.002)
        actual = set_size(-1)
    return time.monotonic() - start


@contextmanager
def _control(path: Path) -> Iterator[SetSize]:
    with connect(path) as client, client.makefile("rw") as file:

        def set_size(size: int) -> int:
            return int(_ask(file, "size" if size < 0 else f"size {size}")["actual"])

        yield set_size


@contextmanager
def _qmp(path: Path) -> Iterator[SetSize]:
    with connect(path) as client, client.makefile("rw") as file:
        file.readline()  # a greeting
        _execute(file, "qmp_capabilities")

        def set_size(size: int) -> int:
            if size >= 0:
                _execute(file, "balloon", value=(MEMORY << 20) - size)
            return (MEMORY << 20) - int(_execute(file, "query-balloon")["actual"])

        yield set_size


def _execute(file: Any, command: str, **arguments: int) -> dict[str, Any]:
    answer = _ask(file, json.dumps({"execute": command, "arguments": arguments}))
    while "event" in answer:
        answer = json.loads(file.readline())
    if "return" not in answer:
        raise BenchError(f"QEMU: {command}: {answer}")
    return dict(answer["return"])


def _ask(file: Any, line: str) -> dict[str, Any]:
    file.write(line + "\n")
    file.flush()
    return dict(json.loads(file.readline()))


ROW = Row("balloon", "a memory balloon under Debian's kernel: given up and taken back", measure, linux=True)
