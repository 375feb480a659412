"""The transport of virtio over MMIO, version 2 (virtio 1.2, section 4.2)."""

from __future__ import annotations

import struct

from pyvmm._native import lib
from pyvmm.bus import BusDevice
from pyvmm.device_context import DeviceContext, MachineView
from pyvmm.errors import PyvmmError
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.logs import logger
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.interrupt_status import InterruptStatus
from pyvmm.virtio.queue import Queue, QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    from pyvmm.exit_reason import ExitReason
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.device import VirtioDevice

    T = TypeVar("T")

__all__ = ["MmioDevice"]

log = logger(__name__)


_LOGGED_FAILURES: Final = 10
"""How often a device's failures are worth a line in the log."""

_U32: Final = struct.Struct("<I")
_get_u32: Final = _U32.unpack_from
_put_u32: Final = _U32.pack_into
_MAGIC: Final = 0x74726976  # "virt"
_VERSION: Final = 2
_VENDOR: Final = 0x4D4D5650  # "PVMM"

_ACKNOWLEDGE: Final[int] = lib.VIRTIO_CONFIG_S_ACKNOWLEDGE
_DRIVER: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER
_DRIVER_OK: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER_OK
_FEATURES_OK: Final[int] = lib.VIRTIO_CONFIG_S_FEATURES_OK
_NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET
_FAILED: Final[int] = lib.VIRTIO_CONFIG_S_FAILED

_STEPS: Final = {
    _ACKNOWLEDGE: 0,
    _DRIVER: _ACKNOWLEDGE,
    _FEATURES_OK: _ACKNOWLEDGE | _DRIVER,
    _DRIVER_OK: _ACKNOWLEDGE | _DRIVER | _FEATURES_OK,
}
"""Each step of the initialization and what must have come before it (section 3.1.1)."""

_TRANSPORT_FEATURES: Final = 1 << lib.VIRTIO_F_VERSION_1

_CONFIG: Final[int] = lib.VIRTIO_MMIO_CONFIG
_INT_CONFIG: Final[int] = lib.VIRTIO_MMIO_INT_CONFIG


class MmioDevice(BusDevice):
    """A 4 KiB window of registers through which the guest drives one :class:`VirtioDevice`.

    Registers are answered on the vCPU's thread; every method of the device is called on its event loop's, which is
    ``loop`` or the device's own. What the driver does out of order, at the wrong width or to a register that is not
    there is ignored.
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
        """``stop`` is what the device may call to end the machine, and ``machine`` what it may know of it."""
        self.name = name
        self._machine = machine or MachineView()
        self.mem = mem
        self.device = device
        self.device_activated = False
        self.features_select = 0
        self.acked_features_select = 0
        self.acked_features = 0
        self.queue_select = 0
        self.driver_status = 0
        self.config_generation = 0
        self.needs_reset = False
        self._failures = 0
        self.driver_was_ok = False
        """Whether a driver ever brought the device up."""
        self.queues = [Queue(index, size, EventFd()) for index, size in enumerate(device.queue_max_sizes)]
        self.interrupt_event = EventFd()
        self._interrupt = Interrupt(self.interrupt_event, self._config_changed, self._fail)
        self.interrupt_status = InterruptStatus(self._interrupt, len(self.queues))
        self._loop: EventLoop = device.own_loop or loop
        self._scope = LoopScope(self._loop, self._callback_failed, self._publish)
        try:
            self._loop.call(lambda: device.attach(DeviceContext(name, self._scope, stop, machine=self._machine)))
        except BaseException:
            self._release()
            raise
        self._offered: int = self._offered_features()

    def interrupt(self, irq_mask: int) -> None:
        """Interrupt the driver for VIRTIO_MMIO_INT_CONFIG; for a used ring, which tells by itself, just interrupt."""
        if irq_mask & _INT_CONFIG:
            self._config_changed()
        self.interrupt_event.signal()

    def read(self, offset: int, data: memoryview) -> None:
        """Answer a register (4 bytes, aligned) or part of the configuration space (any width)."""
        if offset >= _CONFIG:
            self._read_config(offset - _CONFIG, data)
        elif len(data) == 4 and offset & 3 == 0:
            _put_u32(data, 0, _READERS.get(offset, _read_nothing)(self))

    def write(self, offset: int, data: memoryview) -> None:
        """Take a write to a register (4 bytes, aligned) or to the configuration space (any width)."""
        if offset >= _CONFIG:
            self._write_config(offset - _CONFIG, data)
        elif len(data) == 4 and (register := _WRITERS.get(offset)):
            register(self, _get_u32(data)[0])

    def start(self) -> None:
        """Start the device's own thread, where it needs one: from here on the process may have threads."""
        if self.device.own_loop is not None:
            self.device.own_loop.start()

    def close(self) -> None:
        """Stop the device and release its eventfds. On the loop's thread, after the last vCPU's run."""
        active, self.device_activated = self.device_activated, False
        self.interrupt_status.end()
        try:
            self._loop.call(lambda: self.device.end(active))
        except Exception:
            log.exception("%s: closing it failed", self._machine.label(self.name))
        if active:
            for queue in self.queues:
                queue.reset()  # views of the memory that are left in it would keep the memory mapped
        self._release()

    def _release(self) -> None:
        self._loop.call(self._scope.close)
        if self.device.own_loop is not None:
            self.device.own_loop.close()
        for queue in self.queues:
            queue.event.close()
        self.interrupt_event.close()
        self.interrupt_status.close()

    @property
    def _queue(self) -> Queue | None:
        """The one that the driver selected."""
        return self.queues[self.queue_select] if self.queue_select < len(self.queues) else None

    @property
    def _queue_to_set_up(self) -> Queue | None:
        """The selected one, while it is to be set up."""
        settable = self.driver_status & (_FEATURES_OK | _DRIVER_OK | _FAILED) == _FEATURES_OK
        return self._queue if settable else None

    # Not where registers are read and written, which a variable that a lambda needs would make slower.
    def _read_config(self, offset: int, data: memoryview) -> None:
        data[:] = bytes(len(data))
        self._call(lambda: self.device.read_config(offset, data))

    def _write_config(self, offset: int, data: memoryview) -> None:
        if self.driver_status & _DRIVER and not self.driver_status & _FAILED:
            copy = memoryview(bytes(data))
            self._call(lambda: self.device.write_config(offset, copy))

    def _read_device_features(self) -> int:
        return self._offered >> 32 * self.features_select & 0xFFFFFFFF if self.features_select < 4 else 0

    def _read_queue_num_max(self) -> int:
        return queue.max_size if (queue := self._queue) else 0

    def _read_queue_ready(self) -> int:
        return int(queue.ready) if (queue := self._queue) else 0

    def _read_status(self) -> int:
        return self.driver_status | (_NEEDS_RESET if self.needs_reset and self.driver_status else 0)

    def _write_device_features_sel(self, value: int) -> None:
        self.features_select = value

    def _write_driver_features_sel(self, value: int) -> None:
        self.acked_features_select = value

    def _write_driver_features(self, value: int) -> None:
        if self.driver_status & (_DRIVER | _FEATURES_OK) == _DRIVER and self.acked_features_select < 4:
            shift = 32 * self.acked_features_select
            self.acked_features = self.acked_features & ~(0xFFFFFFFF << shift) | value << shift

    def _write_queue_sel(self, value: int) -> None:
        self.queue_select = value

    def _write_queue_num(self, value: int) -> None:
        queue = self._queue_to_set_up
        if queue and not queue.ready:  # a queue that is in use does not move
            queue.size = value

    def _write_queue_ready(self, value: int) -> None:
        if queue := self._queue_to_set_up:
            queue.ready = bool(value & 1)

    def _write_queue_address(self, field: str, shift: int, value: int) -> None:
        queue = self._queue_to_set_up
        if queue and not queue.ready:
            setattr(queue, field, getattr(queue, field) & ~(0xFFFFFFFF << shift) | value << shift)

    def _write_queue_notify(self, value: int) -> None:
        # Usually KVM takes it, as an ioeventfd.
        if value < len(self.queues):
            self.queues[value].event.signal()

    def _write_interrupt_ack(self, value: int) -> None:
        self.interrupt_status.acknowledge(value)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._reset()
            return
        new = value & ~self.driver_status & ~_NEEDS_RESET
        if self.driver_status & ~value or self.driver_status & _FAILED:
            return  # only a reset takes bits back (section 2.1.1)
        if new & _FAILED:
            self.driver_status |= _FAILED
            return
        for step, done in _STEPS.items():  # some drivers make two in one write
            if not new & step:
                continue
            if self.driver_status != done or (step == _FEATURES_OK and not self._accept_features()):
                return
            self.driver_status |= step
        if new & _DRIVER_OK:
            self._call(self._activate)

    def _offered_features(self) -> int:
        offered: int = _TRANSPORT_FEATURES | self.device.ring_features
        for page in range(4):
            offered |= (self._call(lambda page=page: self.device.features(page)) or 0) << 32 * page  # type: ignore[misc]
        return offered

    def _accept_features(self) -> bool:
        acked = self.acked_features
        if acked & ~self._offered or not acked >> lib.VIRTIO_F_VERSION_1 & 1:
            return False

        def tell() -> bool:
            for page in range(4):
                self.device.ack_features(page, acked >> 32 * page & 0xFFFFFFFF)
            return True

        return bool(self._call(tell))

    def _activate(self) -> None:
        event_idx = bool(self.acked_features >> lib.VIRTIO_RING_F_EVENT_IDX & 1)
        indirect = bool(self.acked_features >> lib.VIRTIO_RING_F_INDIRECT_DESC & 1)
        for queue in self.queues:
            if queue.ready:
                queue.activate(self.mem, self._interrupt, event_idx, indirect)
        self.driver_was_ok = True
        self.device_activated = True
        self.interrupt_status.begin(self.queues)
        self.device.activate(self.mem, self._interrupt, self.queues)
        sizes = [queue.size for queue in self.queues if queue.ready]
        log.info("%s: active, features %#x, queues %s", self.name, self.acked_features, sizes)

    def _reset(self) -> None:
        def reset() -> bool:
            done = not self.device_activated or self.device.reset()
            if done:
                self.interrupt_status.end()
                for queue in self.queues:
                    queue.reset()
            return done

        if not self._call(reset):
            self.driver_status |= _FAILED
            self.needs_reset = True
            return
        self.device_activated = False
        self.needs_reset = False
        self.driver_status = 0
        self.acked_features = 0
        self.features_select = self.acked_features_select = self.queue_select = 0
        self.interrupt_status.set_config(False)
        self.interrupt_event.drain()

    def _call(self, function: Callable[[], T]) -> T | None:
        """Run a call of the device on the loop's thread; None when it raised, which fails the device."""

        def run() -> T:
            result = function()
            self._publish()
            return result

        try:
            return self._loop.call(run)
        except Exception as raised:
            error = raised
        self._loop.call(lambda: self._callback_failed(error))
        return None

    def _publish(self) -> None:
        for queue in self.queues:
            queue.publish()

    def _config_changed(self) -> None:
        self.config_generation = self.config_generation + 1 & 0xFFFFFFFF
        self.interrupt_status.set_config(True)

    def _callback_failed(self, error: BaseException) -> None:
        self._scope.close()
        for queue in self.queues:
            queue.take_back()
        if isinstance(error, QueueError | PyvmmError):
            self._fail(str(error))
        else:
            self._fail(f"{type(error).__name__}: {error}", error)
        self.interrupt_event.signal()

    def _fail(self, reason: str, error: BaseException | None = None) -> None:
        if self.needs_reset:
            return  # one line for one failure
        self._failures += 1
        # A driver that breaks the device and resets it, over and over, must not fill the log.
        write = log.error if self._failures <= _LOGGED_FAILURES else log.debug
        label = self._machine.label(self.name)
        write("%s: %s; it is served no more until the driver resets it", label, reason, exc_info=error)
        self.needs_reset = True
        self._config_changed()


def _read_nothing(_: MmioDevice) -> int:
    return 0


def _address_writer(field: str, shift: int) -> Callable[[MmioDevice, int], None]:
    return lambda transport, value: transport._write_queue_address(field, shift, value)


# One look-up, however many registers there are: what answers an access is the slower, the more memory it touches.
_READERS: Final[dict[int, Callable[[MmioDevice], int]]] = {
    lib.VIRTIO_MMIO_MAGIC_VALUE: lambda _: _MAGIC,
    lib.VIRTIO_MMIO_VERSION: lambda _: _VERSION,
    lib.VIRTIO_MMIO_DEVICE_ID: lambda transport: transport.device.device_type,
    lib.VIRTIO_MMIO_VENDOR_ID: lambda _: _VENDOR,
    lib.VIRTIO_MMIO_DEVICE_FEATURES: MmioDevice._read_device_features,
    lib.VIRTIO_MMIO_QUEUE_NUM_MAX: MmioDevice._read_queue_num_max,
    lib.VIRTIO_MMIO_QUEUE_READY: MmioDevice._read_queue_ready,
    lib.VIRTIO_MMIO_INTERRUPT_STATUS: lambda transport: transport.interrupt_status.read(),
    lib.VIRTIO_MMIO_STATUS: MmioDevice._read_status,
    lib.VIRTIO_MMIO_CONFIG_GENERATION: lambda transport: transport.config_generation,
    # No shared memory region has whatever id is asked for (section 4.2.2).
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
    lib.VIRTIO_MMIO_STATUS: MmioDevice._write_status,
    lib.VIRTIO_MMIO_QUEUE_DESC_LOW: _address_writer("descriptor_table", 0),
    lib.VIRTIO_MMIO_QUEUE_DESC_HIGH: _address_writer("descriptor_table", 32),
    lib.VIRTIO_MMIO_QUEUE_AVAIL_LOW: _address_writer("available_ring", 0),
    lib.VIRTIO_MMIO_QUEUE_AVAIL_HIGH: _address_writer("available_ring", 32),
    lib.VIRTIO_MMIO_QUEUE_USED_LOW: _address_writer("used_ring", 0),
    lib.VIRTIO_MMIO_QUEUE_USED_HIGH: _address_writer("used_ring", 32),
}
