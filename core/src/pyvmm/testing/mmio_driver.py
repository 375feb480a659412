"""A driver for the registers of a virtio-mmio window, without a guest (virtio 1.2, sections 3.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from pyvmm._native import lib
from pyvmm.memory import GuestAddress
from pyvmm.testing.driver_ring import DriverRing

__all__ = [
    "ACKNOWLEDGE",
    "DRIVER",
    "DRIVER_OK",
    "FAILED",
    "FEATURES_OK",
    "MAGIC",
    "NEEDS_RESET",
    "VIRTIO_F_EVENT_IDX",
    "VIRTIO_F_INDIRECT_DESC",
    "VIRTIO_F_VERSION_1",
    "MmioDriver",
    "Window",
]

MAGIC: Final = 0x74726976
VIRTIO_F_VERSION_1: Final[int] = lib.VIRTIO_F_VERSION_1
VIRTIO_F_INDIRECT_DESC: Final[int] = lib.VIRTIO_RING_F_INDIRECT_DESC
VIRTIO_F_EVENT_IDX: Final[int] = lib.VIRTIO_RING_F_EVENT_IDX

ACKNOWLEDGE: Final[int] = lib.VIRTIO_CONFIG_S_ACKNOWLEDGE
DRIVER: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER
FEATURES_OK: Final[int] = lib.VIRTIO_CONFIG_S_FEATURES_OK
DRIVER_OK: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER_OK
NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET
FAILED: Final[int] = lib.VIRTIO_CONFIG_S_FAILED


class Window(Protocol):
    """An object that answers accesses: a transport, or a whole :class:`~pyvmm.bus.Bus`."""

    def read(self, address: int, data: memoryview, /) -> object:
        """Answer a read: fill ``data``."""

    def write(self, address: int, data: memoryview, /) -> object:
        """Take a write of ``data``."""


class MmioDriver:
    """Performs a driver's steps at a device's registers, in any order.

    ::

        driver = MmioDriver(transport)          # or MmioDriver(bus, base=0xd0000000)
        driver.begin()
        driver.negotiate([VIRTIO_BLK_F_FLUSH])
        driver.set_up_queue(0, ring)
        driver.driver_ok()

    For hostile drivers, :meth:`read` and :meth:`write` take any offset and width, and ``status`` any value.
    """

    def __init__(self, window: Window, base: GuestAddress = 0) -> None:
        """``base`` is the address in ``window`` at which the device's registers start."""
        self.window = window
        self.base = base

    def read(self, offset: int, length: int) -> bytes:
        """One read of ``length`` bytes; all ones if no device answers."""
        data = bytearray(b"\xff" * length)
        self.window.read(self.base + offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """One write."""
        self.window.write(self.base + offset, memoryview(data))

    def read_register(self, offset: int) -> int:
        """The value of a register, at one of the offsets ``VIRTIO_MMIO_…`` (section 4.2.2)."""
        return int.from_bytes(self.read(offset, 4), "little")

    def write_register(self, offset: int, value: int) -> None:
        """Write a register."""
        self.write(offset, (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def read_config(self, offset: int, length: int, *, width: int = 0) -> bytes:
        """Part of the configuration space, in one read or in reads of ``width`` bytes."""
        start = lib.VIRTIO_MMIO_CONFIG + offset
        step = width or max(length, 1)
        return b"".join(self.read(start + at, min(step, length - at)) for at in range(0, length, step))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space, in one write."""
        self.write(lib.VIRTIO_MMIO_CONFIG + offset, data)

    @property
    def config_generation(self) -> int:
        """A number that changes when the configuration changes."""
        return self.read_register(lib.VIRTIO_MMIO_CONFIG_GENERATION)

    @property
    def status(self) -> int:
        """The Status register: ``VIRTIO_CONFIG_S_…``."""
        return self.read_register(lib.VIRTIO_MMIO_STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self.write_register(lib.VIRTIO_MMIO_STATUS, value)

    @property
    def needs_reset(self) -> bool:
        """Whether the device has failed and needs a reset."""
        return bool(self.status & NEEDS_RESET)

    @property
    def interrupt_status(self) -> int:
        """The InterruptStatus register: ``VIRTIO_MMIO_INT_…``."""
        return self.read_register(lib.VIRTIO_MMIO_INTERRUPT_STATUS)

    def acknowledge(self, causes: int) -> None:
        """Write the bits ``causes`` to InterruptACK: these interrupts are handled."""
        self.write_register(lib.VIRTIO_MMIO_INTERRUPT_ACK, causes)

    def probe(self) -> int:
        """The device's virtio ID. Raises AssertionError if there is no virtio-mmio window of version 2."""
        magic, version = self.read_register(lib.VIRTIO_MMIO_MAGIC_VALUE), self.read_register(lib.VIRTIO_MMIO_VERSION)
        assert (magic, version) == (MAGIC, 2), f"no virtio-mmio window: magic {magic:#x}, version {version:#x}"
        return self.read_register(lib.VIRTIO_MMIO_DEVICE_ID)

    def reset(self) -> None:
        """Reset the device."""
        self.status = 0

    def begin(self) -> None:
        """Reset the device, then set ACKNOWLEDGE and DRIVER."""
        self.reset()
        self.status = ACKNOWLEDGE
        self.status = ACKNOWLEDGE | DRIVER

    def offered_features(self) -> int:
        """The features of device, ring and transport, as one number."""
        features = 0
        for page in range(4):
            self.write_register(lib.VIRTIO_MMIO_DEVICE_FEATURES_SEL, page)
            features |= self.read_register(lib.VIRTIO_MMIO_DEVICE_FEATURES) << 32 * page
        return features

    def accept_features(self, features: int) -> bool:
        """Accept exactly ``features``, as one number. Returns whether the device agrees."""
        for page in range(4):
            self.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL, page)
            self.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES, features >> 32 * page)
        self.status |= FEATURES_OK
        return bool(self.status & FEATURES_OK)

    def negotiate(self, bits: Iterable[int] | None = None) -> int:
        """Accept VERSION_1 and the feature ``bits``, by default all offered ones except EVENT_IDX. Returns the agreed
        features.

        Raises AssertionError if the device does not agree.
        """
        if bits is None:
            accepted = self.offered_features() & ~(1 << VIRTIO_F_EVENT_IDX)
        else:
            accepted = sum(1 << bit for bit in {*bits, VIRTIO_F_VERSION_1})
        assert self.accept_features(accepted), f"features {accepted:#x} were refused"
        return accepted

    def queue_size_max(self, index: int) -> int:
        """The largest size that queue ``index`` may have; 0 if there is no such queue."""
        self.write_register(lib.VIRTIO_MMIO_QUEUE_SEL, index)
        return self.read_register(lib.VIRTIO_MMIO_QUEUE_NUM_MAX)

    def write_queue(self, index: int, size: int, descriptor_table: int, available_ring: int, used_ring: int) -> None:
        """Write the registers of queue ``index`` with any values, without making the queue ready."""
        self.write_register(lib.VIRTIO_MMIO_QUEUE_SEL, index)
        self.write_register(lib.VIRTIO_MMIO_QUEUE_NUM, size)
        for low, address in (
            (lib.VIRTIO_MMIO_QUEUE_DESC_LOW, descriptor_table),
            (lib.VIRTIO_MMIO_QUEUE_AVAIL_LOW, available_ring),
            (lib.VIRTIO_MMIO_QUEUE_USED_LOW, used_ring),
        ):
            self.write_register(low, address)
            self.write_register(low + 4, address >> 32)

    def set_up_queue(self, index: int, ring: DriverRing) -> None:
        """Set queue ``index`` up with the addresses of ``ring``."""
        self.write_queue(index, ring.size, ring.descriptor_table, ring.available_ring, ring.used_ring)
        self.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 1)

    def driver_ok(self) -> None:
        """Set DRIVER_OK: the device starts."""
        self.status |= DRIVER_OK

    def notify(self, index: int) -> None:
        """Kick queue ``index`` by the register QueueNotify, as a guest does if KVM does not handle the kick."""
        self.write_register(lib.VIRTIO_MMIO_QUEUE_NOTIFY, index)
