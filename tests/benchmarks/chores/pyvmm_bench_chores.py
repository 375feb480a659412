"""The kind ``chores``: a device that computes in Python for each request, as no good device does in the VMM."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pyvmm.plugin import DeviceKind, hookimpl, option, options
from pyvmm.virtio.constants import VIRTIO_ID_RNG
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import Queue


@options
class ChoresOptions:
    """The options of ``chores``."""

    microseconds: int = option(1000, primary=True, help="how long each request takes")


class Chores(VirtioDevice):
    """Computes, then completes the request."""

    device_type = VIRTIO_ID_RNG
    queue_max_sizes = (16,)

    def __init__(self, options: ChoresOptions) -> None:
        self.seconds = options.microseconds / 1e6

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass
            chain.complete(1)
            # A guest that never stops asking would keep this loop for ever.
            queue.publish()


@hookimpl
def pyvmm_device_kinds() -> Sequence[DeviceKind[Any]]:
    """The kind ``chores``."""
    return [DeviceKind("chores", ChoresOptions, Chores, help="computes for each request")]
