"""virtio-console: a console with one port, which is connected to the host (virtio 1.2, section 5.3)."""

from __future__ import annotations

import struct

from pyvmm.chardev.options import open_backend
from pyvmm.host.eventloop import LoopScope
from pyvmm.logs import logger
from pyvmm.virtio.constants import VIRTIO_ID_CONSOLE
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.queue import Queue, QueueError

from pyvmm_virtio_console.constants import (
    EMERG_WR_OFFSET,
    RECEIVEQ,
    TRANSMITQ,
    VIRTIO_CONSOLE_F_EMERG_WRITE,
    VIRTIO_CONSOLE_F_SIZE,
)
from pyvmm_virtio_console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt

    from pyvmm_virtio_console import ConsoleOptions

log = logger(__name__)

_CONFIG: Final = struct.Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr (struct virtio_console_config)


class Console(VirtioDevice):
    """A console with a single port. It does not offer VIRTIO_CONSOLE_F_MULTIPORT, so there are no control queues."""

    device_type = VIRTIO_ID_CONSOLE
    queue_max_sizes = (64, 64)

    def __init__(self, options: ConsoleOptions) -> None:
        """Open the host's end. Raises :class:`~pyvmm.errors.PyvmmError` if it cannot be opened."""
        self.port = Port(drops=options.overflow == "drop")
        self._backend = open_backend("console", options)
        self._backend.on_resize = self._on_resize
        self.device_features = 1 << VIRTIO_CONSOLE_F_EMERG_WRITE
        self._size_is_told = False
        self._host_loop: LoopScope | None = None
        self._fill_config()

    def attach(self, context: DeviceContext) -> None:
        """Connect to the host's end. Input waits there until there is a driver."""
        super().attach(context)
        # A scope of its own outlives a failure of the device: a person must be able to leave the terminal in any case.
        self._host_loop = host_loop = LoopScope(context.loop.loop, self._on_host_failure, self._publish)
        self._backend.attach(self.port, context.replace(loop=host_loop))
        if self._backend.size is not None:
            self.device_features |= 1 << VIRTIO_CONSOLE_F_SIZE
        self._fill_config()

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to serve."""
        super().activate(mem, interrupt, queues)
        assert self._host_loop is not None
        self.port.activate(self._host_loop, queues[RECEIVEQ], queues[TRANSMITQ])
        self._size_is_told = False
        self._backend.resume_input()

    def on_kick(self, queue: Queue) -> None:
        """Write the driver's output, or use its new buffers for input."""
        if queue.index == TRANSMITQ:
            self.port.transmit()
            if not self._size_is_told:
                # Linux reads the size only after a change, and only once its console is set up.
                self._size_is_told = True
                self._on_resize()
        else:
            self._backend.resume_input()

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take an emergency write: one character, written immediately, in any state of the queues (section 5.3.4)."""
        if offset == EMERG_WR_OFFSET:
            self.port.send(bytes(data[:1]))

    def reset(self) -> bool:
        """Stop: the driver has gone. Its output is written as far as the host takes it immediately."""
        try:
            self.port.transmit()
        except QueueError:
            pass  # a broken ring has no more output
        self.port.deactivate()
        return super().reset()

    def end(self, active: bool) -> None:
        """End with the machine. First write the guest's output to the host, if the host reads."""
        self._backend.close()
        super().end(active)

    def close(self) -> None:
        """Close the host's end."""
        self._backend.close()
        if self._host_loop is not None:
            self._host_loop.close()
        if self.port.lost:
            log.warning(
                "%s: %d bytes of output were lost, since the host did not read them in time", self.name, self.port.lost
            )
            self.port.lost = 0

    def _publish(self) -> None:
        for queue in self.queues:
            queue.publish()

    def _on_host_failure(self, error: BaseException) -> None:
        """Fail the device when a callback of the host's end fails, as for the device's own callbacks."""
        self.port.deactivate()

        def fail() -> None:
            raise error

        self.context.loop.guard(fail)

    def _fill_config(self) -> None:
        columns, rows = self._backend.size or (0, 0)
        self.config = _CONFIG.pack(columns & 0xFFFF, rows & 0xFFFF, 0, 0)

    def _on_resize(self) -> None:
        self._fill_config()
        if self.queues and self.has_feature(VIRTIO_CONSOLE_F_SIZE):
            self.interrupt.signal_config_change()
