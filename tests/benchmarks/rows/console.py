"""A virtio console under Debian's kernel: bytes one at a time, and as many as go through, both ways."""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.clients import connect, echo, receive
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

ECHOES = 100
KIB = 128

_SCRIPT = f"""
exec 3<>/dev/hvc0 && stty raw -echo <&3 || exit 1
echo READY
dd bs=1 count={ECHOES} <&3 >&3 2>/dev/null || exit 2
head -c {KIB}k <&3 >/dev/null; echo taken >&3
head -c {KIB}k /dev/zero >&3
head -c 1 <&3 >/dev/null
"""


def measure(bench: Bench) -> None:
    """The host's end is a Unix socket."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "console")
        options = (
            *("-device", "virtio-serial-device", "-chardev", f"socket,id=console,path={path},server=on,wait=off"),
            *("-device", "virtconsole,chardev=console"),
        )
        with linux_guest(_SCRIPT) as guest:
            contenders: dict[str, Contender] = {
                vmm.name: partial(_measure, vmm, guest, path)
                for vmm in (PyVmm(devices=(f"console:unix={path}",)), Qemu(linux=True, options=options))
            }
            bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest, path: Path) -> dict[Metric, float]:
    with guest.run(vmm) as process:
        process.wait_for("READY")
        with connect(path) as client:
            echoes = [echo(client) for _ in range(ECHOES)]
            start = time.monotonic()
            client.sendall(bytes(KIB << 10))
            receive(client, len(b"taken\n"))
            taken = time.monotonic()
            receive(client, KIB << 10)
            sent = time.monotonic()
            client.sendall(b".")
    return {
        Metric("a byte echoed, half within", "ms", lower_is_better=True): 1000 * statistics.median(echoes),
        Metric("to the guest", "KiB/s"): KIB / (taken - start),
        Metric("from the guest", "KiB/s"): KIB / (sent - taken),
    }


ROW = Row("console", "a virtio console under Debian's kernel: bytes one at a time, and many", measure, linux=True)
