"""The transport of virtio over MMIO, version 2 (virtio 1.2, section 4.2)."""

from __future__ import annotations

import struct

from pyvmm._native import lib
from pyvmm.bus import BusDevice
from pyvmm.host.eventfd import EventFd
from pyvmm.startup.closing import Closers
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.interrupt_status import InterruptStatus
from pyvmm.virtio.queue import Queue
from pyvmm.virtio.register_transport import RegisterTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pyvmm.device_context import MachineView
    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.eventloop import EventLoop
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.device import VirtioDevice

__all__ = ["MmioDevice"]

_U32: Final = struct.Struct("<I")
_get_u32: Final = _U32.unpack_from
_put_u32: Final = _U32.pack_into
_MAGIC: Final = 0x74726976  # "virt"
_VERSION: Final = 2
_VENDOR: Final = 0x4D4D5650  # "PVMM"

_CONFIG: Final[int] = lib.VIRTIO_MMIO_CONFIG
_INT_CONFIG: Final[int] = lib.VIRTIO_MMIO_INT_CONFIG


class MmioDevice(RegisterTransport, BusDevice):
    """A 4 KiB window of registers through which the guest drives one :class:`~pyvmm.virtio.device.VirtioDevice`.

    Registers are answered on the vCPU's thread; every method of the device is called on the thread of its event loop.
    The window ignores each access that is out of order, has the wrong width or is to a register that does not exist.
    """

    def __init__(
        self,
        mem: GuestMemory,
        device: VirtioDevice,
        name: str,
        loop: EventLoop,
        stop: Callable[[ExitReason], None] = lambda reason: None,
        machine: MachineView | None = None,
    ) -> None:
        """Attach ``device``, under the id ``name``. Raises what the device's ``attach`` raises.

        ``loop`` is the event loop for devices without a loop of their own. ``stop`` ends the machine, and ``machine``
        is the device's view of it.
        """
        self.mem = mem
        self.features_select = 0
        self.acked_features_select = 0
        self.queue_select = 0
        queues = []
        with Closers() as events:
            for index, size in enumerate(device.queue_max_sizes):
                queues.append(Queue(index, size, events.closing(EventFd())))
            self.interrupt_event = events.closing(EventFd())
            """Signalled for every interrupt of the driver; an irqfd."""
            line = Interrupt(self.interrupt_event, self.config_changed, self.fail)
            self.interrupt_status = InterruptStatus(line, len(queues))
            events.take_all()
        super().__init__(device, name, loop, queues, [line] * len(queues), line, stop, machine)

    def interrupt(self, irq_mask: int) -> None:
        """Interrupt the driver. VIRTIO_MMIO_INT_CONFIG sets its bit; the bit for used rings follows from the rings."""
        if irq_mask & _INT_CONFIG:
            self.config_changed()
        self.interrupt_event.signal()

    def read(self, offset: int, data: memoryview) -> None:
        """Answer a register (4 bytes, aligned) or part of the configuration space (any width)."""
        if offset >= _CONFIG:
            self.read_config(offset - _CONFIG, data)
        elif len(data) == 4 and offset & 3 == 0:
            _put_u32(data, 0, _READERS.get(offset, _read_nothing)(self))

    def write(self, offset: int, data: memoryview) -> None:
        """Take a write to a register (4 bytes, aligned) or to the configuration space (any width)."""
        if offset >= _CONFIG:
            self.write_config(offset - _CONFIG, data)
        elif len(data) == 4 and (register := _WRITERS.get(offset)):
            register(self, _get_u32(data)[0])

    def config_changed(self) -> None:
        super().config_changed()
        self.interrupt_status.set_config(True)

    @property
    def _memory(self) -> GuestMemory:
        return self.mem

    def _start_queues(self, event_idx: bool, indirect: bool) -> None:
        super()._start_queues(event_idx, indirect)
        self.interrupt_status.begin(self.queues)

    def _stop_queues(self) -> None:
        self.interrupt_status.end()
        super()._stop_queues()

    def _forget_driver(self) -> None:
        super()._forget_driver()
        self.features_select = self.acked_features_select = self.queue_select = 0
        self.interrupt_status.set_config(False)

    def _release(self) -> None:
        super()._release()
        self.interrupt_status.close()

    @property
    def _queue(self) -> Queue | None:
        """The queue that the driver selected; None if there is no such queue."""
        return self.queues[self.queue_select] if self.queue_select < len(self.queues) else None

    def _read_device_features(self) -> int:
        return self.offered_features >> 32 * self.features_select & 0xFFFFFFFF if self.features_select < 4 else 0

    def _read_queue_num_max(self) -> int:
        return queue.max_size if (queue := self._queue) else 0

    def _read_queue_ready(self) -> int:
        return int(queue.ready) if (queue := self._queue) else 0

    def _write_device_features_sel(self, value: int) -> None:
        self.features_select = value

    def _write_driver_features_sel(self, value: int) -> None:
        self.acked_features_select = value

    def _write_driver_features(self, value: int) -> None:
        self.accept_features(self.acked_features_select, value)

    def _write_queue_sel(self, value: int) -> None:
        self.queue_select = value

    def _write_queue_num(self, value: int) -> None:
        queue = self.queue_to_set_up(self.queue_select)
        if queue and not queue.ready:  # a queue that is in use does not move
            queue.size = value

    def _write_queue_ready(self, value: int) -> None:
        if queue := self.queue_to_set_up(self.queue_select):
            queue.ready = bool(value & 1)

    def _write_queue_address(self, field: str, shift: int, value: int) -> None:
        queue = self.queue_to_set_up(self.queue_select)
        if queue and not queue.ready:
            setattr(queue, field, getattr(queue, field) & ~(0xFFFFFFFF << shift) | value << shift)

    def _write_queue_notify(self, value: int) -> None:
        # Usually KVM handles the write, by an ioeventfd.
        if value < len(self.queues):
            self.queues[value].event.signal()

    def _write_interrupt_ack(self, value: int) -> None:
        self.interrupt_status.acknowledge(value)


def _read_nothing(_: MmioDevice) -> int:
    return 0


def _address_writer(field: str, shift: int) -> Callable[[MmioDevice, int], None]:
    return lambda transport, value: transport._write_queue_address(field, shift, value)


# A single look-up for any number of registers: an access is answered the faster, the less memory it touches.
_READERS: Final[dict[int, Callable[[MmioDevice], int]]] = {
    lib.VIRTIO_MMIO_MAGIC_VALUE: lambda _: _MAGIC,
    lib.VIRTIO_MMIO_VERSION: lambda _: _VERSION,
    lib.VIRTIO_MMIO_DEVICE_ID: lambda transport: transport.device.device_type,
    lib.VIRTIO_MMIO_VENDOR_ID: lambda _: _VENDOR,
    lib.VIRTIO_MMIO_DEVICE_FEATURES: MmioDevice._read_device_features,
    lib.VIRTIO_MMIO_QUEUE_NUM_MAX: MmioDevice._read_queue_num_max,
    lib.VIRTIO_MMIO_QUEUE_READY: MmioDevice._read_queue_ready,
    lib.VIRTIO_MMIO_INTERRUPT_STATUS: lambda transport: transport.interrupt_status.read(),
    lib.VIRTIO_MMIO_STATUS: lambda transport: transport.status,
    lib.VIRTIO_MMIO_CONFIG_GENERATION: lambda transport: transport.config_generation,
    # There are no shared memory regions, so the length is -1 for every id (section 4.2.2).
    lib.VIRTIO_MMIO_SHM_LEN_LOW: lambda _: 0xFFFFFFFF,
    lib.VIRTIO_MMIO_SHM_LEN_HIGH: lambda _: 0xFFFFFFFF,
    lib.VIRTIO_MMIO_SHM_BASE_LOW: lambda _: 0xFFFFFFFF,
    lib.VIRTIO_MMIO_SHM_BASE_HIGH: lambda _: 0xFFFFFFFF,
}
_WRITERS: Final[dict[int, Callable[[MmioDevice, int], None]]] = {
    lib.VIRTIO_MMIO_DEVICE_FEATURES_SEL: MmioDevice._write_device_features_sel,
    lib.VIRTIO_MMIO_DRIVER_FEATURES: MmioDevice._write_driver_features,
    lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL: MmioDevice._write_driver_features_sel,
    lib.VIRTIO_MMIO_QUEUE_SEL: MmioDevice._write_queue_sel,
    lib.VIRTIO_MMIO_QUEUE_NUM: MmioDevice._write_queue_num,
    lib.VIRTIO_MMIO_QUEUE_READY: MmioDevice._write_queue_ready,
    lib.VIRTIO_MMIO_QUEUE_NOTIFY: MmioDevice._write_queue_notify,
    lib.VIRTIO_MMIO_INTERRUPT_ACK: MmioDevice._write_interrupt_ack,
    lib.VIRTIO_MMIO_STATUS: MmioDevice.set_status,
    lib.VIRTIO_MMIO_QUEUE_DESC_LOW: _address_writer("descriptor_table", 0),
    lib.VIRTIO_MMIO_QUEUE_DESC_HIGH: _address_writer("descriptor_table", 32),
    lib.VIRTIO_MMIO_QUEUE_AVAIL_LOW: _address_writer("available_ring", 0),
    lib.VIRTIO_MMIO_QUEUE_AVAIL_HIGH: _address_writer("available_ring", 32),
    lib.VIRTIO_MMIO_QUEUE_USED_LOW: _address_writer("used_ring", 0),
    lib.VIRTIO_MMIO_QUEUE_USED_HIGH: _address_writer("used_ring", 32),
}
