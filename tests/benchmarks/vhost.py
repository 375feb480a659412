"""Frames through the VMM's user space, or past it through the kernel's vhost-net: who can do which."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.benchmarks.harness import Bench
from tests.benchmarks.machines import Vmm
from tests.benchmarks.pyvmm_command import PyVmm, has_device_option
from tests.benchmarks.qemu import Qemu


def ways(bench: Bench, *, linux: bool = False) -> Iterator[tuple[bool, list[Vmm]]]:
    """Without and with vhost, each with the VMMs to be compared; what cannot be is noted."""
    yield False, [PyVmm(), Qemu(linux=linux)]
    if not os.path.exists("/dev/vhost-net"):
        bench.note("no figures for vhost: there is no /dev/vhost-net")
    elif not has_device_option("net", "vhost"):
        bench.note("no figures for vhost: pyvmm's net has no option vhost=on|off yet")
    else:
        yield True, [PyVmm(), Qemu(linux=linux)]
