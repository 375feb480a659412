"""A driver in a guest: a real vCPU makes each access to the device, and KVM delivers each kick and interrupt."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.exit_reason import End, ExitReason
from pyvmm.memory import GuestAddress, GuestMemory
from pyvmm.testing.bare_metal import FREE_MEMORY, PARAMETERS, BareMachine
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.waiting import PATIENCE, wait_until
from pyvmm.virtio.device import VirtioDevice
from pyvmm.x86_64.layout import IRQ_BASE

__all__ = ["CODE", "SteeredGuest", "VcpuDriver"]

CODE: Final = bytes.fromhex(
    """
    bb000030004c8d0524000000ba200500
    00ed488b33488b4b0889f2c1e0044c01
    c0ffe048894310ebe3cccccccccccccc
    ba00060000b034eeebfecccccccccccc
    0fb606ebdecccccccccccccccccccccc
    0fb706ebcecccccccccccccccccccccc
    8b06ebbfcccccccccccccccccccccccc
    488b06ebaecccccccccccccccccccccc
    880eeb88cccccccccccccccccccccccc
    66890ee974ffffffcccccccccccccccc
    890ee965ffffffcccccccccccccccccc
    48890ee954ffffffcccccccccccccccc
    31c0ece95bffffffcccccccccccccccc
    31c066ede94affffffcccccccccccccc
    ede93dffffffcccccccccccccccccccc
    89c8eee914ffffffcccccccccccccccc
    89c866efe903ffffffcccccccccccccc
    89c8efe9f4feffff
    """
)
"""The guest's code: programs/driver.S, assembled. After the start, each operation has 16 bytes."""

_LOAD_ADDRESS: Final = 0x200000
_COMMANDS: Final = 0x520

_END: Final = 0
_READ: Final = {1: 1, 2: 2, 4: 3, 8: 4}
_WRITE: Final = {1: 5, 2: 6, 4: 7, 8: 8}
_IN: Final = {1: 9, 2: 10, 4: 11}
_OUT: Final = {1: 12, 2: 13, 4: 14}
"""Operations, by the width of the access in bytes."""

_COMMAND: Final = struct.Struct("<QQ")  # address, value; the result follows them

# The first of a PC's two interrupt controllers (Intel 8259A), which latches edges. No line is ever unmasked, so no
# handler is needed.
_PIC: Final = 0x20
_PIC_READ_IRR: Final = 0x0A
_PIC_RESET: Final = ((0, 0x11), (1, 0x20), (1, 0x04), (1, 0x01), (1, 0xFF))

_POLL: Final = 0.0005


class _Commands(BusDevice):
    """The port from which the guest reads its orders; it waits there for the next one."""

    name = "commands"
    placements = (Placement(ports=BusRange(_COMMANDS, 4)),)

    def __init__(self) -> None:
        self.orders: SimpleQueue[int] = SimpleQueue()
        self.done: SimpleQueue[bool] = SimpleQueue()
        """An entry for each time that the guest asks for an order; False when it will not ask again."""

    def read(self, offset: int, data: memoryview) -> None:
        """Return the next order. The order before was carried out."""
        self.done.put(True)
        data[:] = self.orders.get().to_bytes(4, "little")


class SteeredGuest:
    """A machine whose only vCPU makes the accesses that a test asks for, one after the other.

    Drivers use it as a :class:`~pyvmm.testing.mmio_driver.Window`. An access takes about 0.1 ms. The test's thread is
    not the event loop's: while the machine runs, only the loop's thread may use a device.
    """

    def __init__(self, *, memfd: bool = False) -> None:
        """Needs /dev/kvm; raises :class:`~pyvmm.errors.HostError`. Devices are added to ``machine``.

        ``memfd``: make guest memory a memfd, for devices that hand it to another process.
        """
        fd = os.memfd_create("program", os.MFD_CLOEXEC)
        try:
            os.write(fd, _executable(CODE))
            self.machine = BareMachine(Path(f"/proc/self/fd/{fd}"), user=True, memfd=memfd)
        finally:
            os.close(fd)
        self._commands = _Commands()
        self.machine.add_device(self._commands, "commands")
        self._thread = threading.Thread(target=self._run, name="machine")
        self.reason: ExitReason | None = None
        """The reason for which the machine ended."""
        self._error: BaseException | None = None

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""
        return self.machine.memory

    def run(self) -> None:
        """Start the machine, and wait until the guest waits for orders."""
        self._thread.start()
        self._wait()

    def read(self, address: GuestAddress, data: memoryview) -> None:
        """One read of 1, 2, 4 or 8 bytes, anywhere in the guest's address space."""
        self._read(_READ, address, data)

    def write(self, address: GuestAddress, data: memoryview) -> None:
        """One write."""
        self._do(_WRITE[len(data)], address, int.from_bytes(data, "little"))

    def read_port(self, port: int, data: memoryview) -> None:
        """One read of 1, 2 or 4 bytes of a port."""
        self._read(_IN, port, data)

    def write_port(self, port: int, data: memoryview) -> None:
        """One write."""
        self._do(_OUT[len(data)], port, int.from_bytes(data, "little"))

    def close(self) -> None:
        """End the machine; raises the exception that its loop raised."""
        if self._thread.ident is not None:
            self._commands.orders.put(_END)
            self._thread.join()
        self.machine.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self.reason = self.machine.run()
        except BaseException as error:
            self._error = error
        finally:
            self._commands.done.put(False)

    def _read(self, operations: dict[int, int], address: int, data: memoryview) -> None:
        value = self._do(operations[len(data)], address)
        data[:] = value.to_bytes(8, "little")[: len(data)]

    def _do(self, operation: int, address: int, value: int = 0) -> int:
        self.memory.write(PARAMETERS, _COMMAND.pack(address, value))
        self._commands.orders.put(operation)
        self._wait()
        return self.memory.read_u64(PARAMETERS + _COMMAND.size)

    def _wait(self) -> None:
        assert self._commands.done.get(timeout=PATIENCE), f"the machine has ended: {self._error or self.reason}"

    def __enter__(self) -> SteeredGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VcpuDriver(QueueDriver):
    """Like :class:`~pyvmm.testing.virtio_driver.VirtioDriver`, but the driver is a guest on a real vCPU.

    ::

        with VcpuDriver(device) as driver:
            driver.start()
            driver.rings[0].add([request], [512])
            used, = driver.exchange()

    Rings are in the guest's memory, which this process sees as well. The vCPU accesses the registers, and KVM delivers
    kicks (ioeventfd) and interrupts (irqfd).
    """

    def __init__(self, device: VirtioDevice, *, name: str = "device0") -> None:
        """Needs /dev/kvm. :meth:`close` closes the device."""
        self.device = device
        self.guest = SteeredGuest(memfd=device.needs_memfd)
        try:
            base = self.guest.machine.add_device(device, name)
            super().__init__(self.guest, self.guest.memory, device.queue_max_sizes, base=base, heap=FREE_MEMORY)
            self.guest.run()
            self._reset_pic()
        except BaseException:
            self.guest.close()
            raise

    def wait(self, timeout: float) -> None:
        """Let some time pass; the device runs on a thread of its own."""
        time.sleep(min(timeout, _POLL))

    def wait_until(self, condition: Callable[[], bool], *, timeout: float = PATIENCE) -> None:
        """Wait until ``condition`` holds; raises AssertionError."""
        wait_until(condition, timeout=timeout)

    def take_interrupt(self) -> bool:
        self._out(0, _PIC_READ_IRR)
        data = bytearray(1)
        self.guest.read_port(_PIC, memoryview(data))
        if data[0] >> IRQ_BASE & 1:
            self._reset_pic()
            return True
        return False

    def close(self) -> None:
        """End the machine, and close the device with it."""
        self.guest.close()
        assert self.guest.reason is None or self.guest.reason.end is End.POWEROFF, self.guest.reason

    def _reset_pic(self) -> None:
        for register, value in _PIC_RESET:
            self._out(register, value)

    def _out(self, register: int, value: int) -> None:
        self.guest.write_port(_PIC + register, memoryview(bytes([value])))

    def __enter__(self) -> VcpuDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _executable(code: bytes) -> bytes:
    """An ELF file with nothing but ``code``."""
    header, program = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
    offset, size = header.size + program.size, len(code)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    return (
        header.pack(ident, 2, 62, 1, _LOAD_ADDRESS, header.size, 0, 0, header.size, program.size, 1, 0, 0, 0)
        + program.pack(1, 7, offset, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 16)
        + code
    )
