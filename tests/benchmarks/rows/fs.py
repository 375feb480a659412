"""A directory of the host under Debian's kernel, by the same virtiofsd: a large file, one small request at a time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pyvmm.errors import PyvmmError
from pyvmm_virtio_fs.daemon import Daemon, find

from tests.benchmarks.harness import Bench, BenchError, Contender, Metric
from tests.benchmarks.linux_guest import CLOCK, LinuxGuest, linux_guest, seconds_between
from tests.benchmarks.machines import Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

MEMORY = 256
MIB = 16
LOOKUPS = 300

_SCRIPT = f"""{CLOCK}
modprobe virtiofs
mkdir -p /shared && mount -t virtiofs shared /shared || exit 1
clock; dd if=/dev/zero of=/shared/new bs=1M count={MIB} conv=fsync 2>/dev/null || exit 2
clock; echo 3 >/proc/sys/vm/drop_caches
clock; dd if=/shared/large of=/dev/null bs=1M 2>/dev/null || exit 3
clock; i=0; while [ $i -lt {LOOKUPS} ]; do [ -e /shared/none$i ]; i=$((i+1)); done
clock; rm /shared/new; umount /shared
"""


def measure(bench: Bench) -> None:
    """QEMU's is served by a virtiofsd that was started for it, pyvmm's by one that pyvmm starts."""
    try:
        daemon = find(None)
    except PyvmmError as error:
        raise BenchError(str(error)) from error
    with tempfile.TemporaryDirectory() as scratch:
        shared, sock = Path(scratch, "shared"), Path(scratch, "sock")
        shared.mkdir()
        (shared / "large").write_bytes(os.urandom(1 << 20) * MIB)
        options = (
            *("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on", "-machine", "memory-backend=ram"),
            *("-chardev", f"socket,id=fs,path={sock}", "-device", "vhost-user-fs-device,chardev=fs,tag=shared"),
        )
        qemu, ours = Qemu(linux=True, options=options), PyVmm(devices=(f"fs:{shared},tag=shared",))

        def measure_qemu() -> dict[Metric, float]:
            with _serving(daemon, shared, sock):
                return _measure(qemu, guest)

        with linux_guest(_SCRIPT, memory=MEMORY) as guest:
            contenders: dict[str, Contender] = {ours.name: partial(_measure, ours, guest), qemu.name: measure_qemu}
            bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    with guest.run(vmm) as process:
        write, _, read, lookups = seconds_between(process, 5)
    return {
        Metric(f"write of {MIB} MiB, synced", "MiB/s"): MIB / write,
        Metric(f"read of {MIB} MiB", "MiB/s"): MIB / read,
        Metric("names looked up, one at a time", "1/s"): LOOKUPS / lookups,
    }


@contextmanager
def _serving(daemon: Daemon, directory: Path, sock: Path) -> Iterator[None]:
    """As pyvmm starts it, which is by its defaults."""
    arguments = ["-f", f"--socket-path={sock}", "-o", f"source={directory},cache=auto,sandbox=namespace"]
    if daemon.in_rust:
        arguments = [f"--socket-path={sock}", f"--shared-dir={directory}", "--cache=auto", "--sandbox=namespace"]
    sock.unlink(missing_ok=True)
    process = subprocess.Popen([daemon.path, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not sock.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("virtiofsd does not listen")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


ROW = Row("fs", "a directory of the host under Debian's kernel: a large file, small requests", measure, linux=True)
