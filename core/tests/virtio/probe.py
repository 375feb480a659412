"""A virtio device that records its calls, echoes its chains, and fails in the calls that a test chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyvmm.device_context import DeviceContext
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing, GuestHeap
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX, MmioDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.mmio import MmioDevice
from pyvmm.virtio.queue import DescriptorChain, Queue

DEVICE_ID = 42
FEATURES = 1 << 3 | 1 << 35 | 1 << 70 | 1 << 127
"""One of the device's in each page."""


class Probe(VirtioDevice):
    """See above."""

    device_type = DEVICE_ID
    device_features = FEATURES

    def __init__(self, sizes: Sequence[int] = (64, 16)) -> None:
        self.queue_max_sizes = tuple(sizes)
        self.config: bytearray = bytearray(b"0123456789AB")
        self.calls: list[str] = []
        self.failing: set[str] = set()
        """Methods that raise."""
        self.keep = False
        """Whether chains are kept in ``chains`` and not completed."""
        self.chains: list[DescriptorChain] = []
        self.can_reset = True

    def note(self, call: str) -> None:
        """Record ``call``, and fail if the test chose it."""
        self.calls.append(call)
        if call in self.failing:
            raise RuntimeError(f"{call} went wrong")

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        self.note("attach")

    def features(self, page: int) -> int:
        self.note("features")
        return super().features(page)

    def ack_features(self, page: int, value: int) -> None:
        self.note("ack_features")
        super().ack_features(page, value)

    def read_config(self, offset: int, data: memoryview) -> None:
        self.note("read_config")
        super().read_config(offset, data)

    def write_config(self, offset: int, data: memoryview) -> None:
        self.note("write_config")
        self.config[offset : offset + len(data)] = data

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        self.note("activate")
        super().activate(mem, interrupt, queues)

    def on_kick(self, queue: Queue) -> None:
        self.note("on_kick")
        for chain in queue:
            if self.keep:
                self.chains.append(chain)
            else:
                chain.complete(chain.write(0, chain.read(0, 4096)))

    def reset(self) -> bool:
        self.note("reset")
        return super().reset() if self.can_reset else False

    def close(self) -> None:
        self.note("close")


class TransportBench:
    """A device behind its transport, with a driver; the loop runs when the test says so."""

    def __init__(self, device: VirtioDevice | None = None, name: str = "probe0") -> None:
        self.memory = GuestMemory.create([(0, 1 << 20)])
        self.loop = EventLoop()
        self.device = device or Probe()
        self.transport = MmioDevice(self.memory, self.device, name, self.loop)
        self.driver = MmioDriver(self.transport)
        self.heap = GuestHeap(self.memory, 0, 1 << 20)

    @property
    def probe(self) -> Probe:
        """The device, which must be a :class:`Probe`."""
        assert isinstance(self.device, Probe)
        return self.device

    def ring(self, index: int = 0, *, event_idx: bool = False, size: int = 16) -> DriverRing:
        """A ring for queue ``index``, which the device does not know yet."""
        ring = DriverRing(self.heap, size=size, event_idx=event_idx)
        ring.queue = self.transport.queues[index]
        return ring

    def start(self, features: Sequence[int] = (), queues: int | None = None) -> list[DriverRing]:
        """Bring the device up as a driver does, with ``queues`` rings: all of them by default."""
        count = len(self.transport.queues) if queues is None else queues
        self.driver.begin()
        self.driver.negotiate(features)
        rings = [self.ring(index, event_idx=VIRTIO_F_EVENT_IDX in features) for index in range(count)]
        for index, ring in enumerate(rings):
            self.driver.set_up_queue(index, ring)
        self.driver.driver_ok()
        return rings

    def run(self) -> None:
        """Run the loop until nothing is ready."""
        for _ in range(1000):
            if not self.loop.run_once(0):
                return
        raise AssertionError("the loop does not come to rest")

    def echo(self, ring: DriverRing, data: bytes = b"echo") -> None:
        """One request that has to be served."""
        ring.add([data], [len(data)])
        ring.kick()
        self.run()
        (used,) = ring.take_used()
        assert used.chain is not None
        assert used.chain.written() == data

    def interrupted(self) -> bool:
        """Whether there was an interrupt since the last time."""
        return self.transport.interrupt_event.drain() > 0


@contextmanager
def transport(device: VirtioDevice | None = None) -> Iterator[TransportBench]:
    """A bench that is closed at the end."""
    bench = TransportBench(device)
    try:
        yield bench
    finally:
        bench.transport.close()
        if isinstance(bench.device, Probe):
            bench.device.chains.clear()  # they hold on to the memory
        bench.loop.close()
        bench.memory.close()
