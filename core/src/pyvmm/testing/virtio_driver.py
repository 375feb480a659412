"""A driver for any virtio device, without a guest: the registers of a transport, rings, and the loop's turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pyvmm.device_context import MachineView
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.stepping_loop import SteppingLoop
from pyvmm.testing.waiting import PATIENCE
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioDevice

__all__ = ["VIRTIO_F_EVENT_IDX", "VIRTIO_F_INDIRECT_DESC", "VirtioDriver"]


class VirtioDriver(QueueDriver):
    """Plays driver, transport registers and event loop for one device, all on the caller's thread.

    ::

        with VirtioDriver(device) as driver:
            driver.start([VIRTIO_BLK_F_FLUSH])
            driver.rings[0].add([header], [512, 1])
            used, = driver.exchange()
    """

    def __init__(
        self,
        device: VirtioDevice,
        *,
        memory: GuestMemory | None = None,
        size: int = 64 << 20,
        name: str = "device0",
        machine: MachineView | None = None,
    ) -> None:
        """``size``: bytes of guest memory from 0 on, if ``memory`` is not given. ``machine``: the device's view of its
        machine, by default without other devices. :meth:`close` closes the device and the memory, and removes the
        machine's files on the host."""
        memory = memory or GuestMemory.create([(0, size)])
        self.machine = machine or MachineView()
        self.loop = SteppingLoop()
        self._put_in(device, memory, name)
        super().__init__(self.transport, memory, device.queue_max_sizes)

    def prepare(
        self, features: Iterable[int] | None = None, *, queue_sizes: Sequence[int] | None = None, indirect: bool = False
    ) -> list[DriverRing]:
        rings = super().prepare(features, queue_sizes=queue_sizes, indirect=indirect)
        self._connect()
        return rings

    def replace_device(self, device: VirtioDevice) -> None:
        """Replace the previous device, which the caller has closed, by ``device`` with fresh registers."""
        name = self.transport.name
        self._put_in(device, self.memory, name)
        self.window = self.transport
        self._connect()

    def kick(self, index: int) -> None:
        self.transport.queues[index].event.signal()  # as KVM does

    def run(self) -> int:
        """Run the loop until nothing is ready. Returns the number of turns."""
        return self.loop.settle()

    def run_until(self, condition: Callable[[], bool], *, timeout: float = PATIENCE) -> None:
        """Run the loop until ``condition`` holds. Raises AssertionError after ``timeout`` seconds."""
        self.loop.run_until(condition, timeout=timeout, longest_wait=self._longest_wait)

    def wait(self, timeout: float) -> None:
        self.loop.run_once(timeout if self._longest_wait is None else min(timeout, self._longest_wait))

    def take_interrupt(self) -> bool:
        return sum(event.drain() for event in self.transport.interrupt_events) > 0

    @property
    def _longest_wait(self) -> float | None:
        """A short wait if the device runs on a thread of its own, since it then works without the loop."""
        return None if self.device.own_loop is None else 0.001

    def _put_in(self, device: VirtioDevice, memory: GuestMemory, name: str) -> None:
        self.device = device
        self.transport = MmioDevice(memory, device, name, self.loop, machine=self.machine)
        self.transport.start()

    def _connect(self) -> None:
        for ring, queue in zip(self.rings, self.transport.queues, strict=True):
            ring.queue = queue

    def close(self) -> None:
        """Close device, loop and memory; remove the device's directory."""
        self.transport.close()
        self.loop.close()
        self.memory.close()
        self.machine.files.remove()

    def __enter__(self) -> VirtioDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
