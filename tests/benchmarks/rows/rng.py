"""Entropy under Debian's kernel, which asks for 64 bytes at a time."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.linux_guest import CLOCK, LinuxGuest, linux_guest, seconds_between
from tests.benchmarks.machines import Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

READS = 400
_BYTES = 64

_SCRIPT = f"""{CLOCK}
[ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ] || exit 1
clock; dd if=/dev/hwrng of=/dev/null bs={_BYTES} count={READS} 2>/dev/null || exit 2
clock
"""


def measure(bench: Bench) -> None:
    """Both read what the host's kernel gives without waiting."""
    options = ("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng")
    with linux_guest(_SCRIPT) as guest:
        contenders: dict[str, Contender] = {
            vmm.name: partial(_measure, vmm, guest)
            for vmm in (PyVmm(devices=("rng",)), Qemu(linux=True, options=options))
        }
        bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    with guest.run(vmm) as process:
        [seconds] = seconds_between(process, 2)
    return {Metric(f"{_BYTES} bytes of /dev/hwrng, one after the other", "1/s"): READS / seconds}


ROW = Row("rng", "entropy under Debian's kernel: requests of 64 bytes", measure, linux=True)
