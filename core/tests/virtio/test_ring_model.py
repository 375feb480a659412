"""Driver and device do whatever they may, in any order: what comes of it is what a simple model says."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pyvmm.testing.driver_ring import DriverChain, GuestHeap
from pyvmm.virtio.queue import DescriptorChain

from core.tests.virtio.ring_bench import RingBench

HEAP = 0x40000
lengths = st.lists(st.integers(1, 40), max_size=4)


class RingModel(RuleBasedStateMachine):
    """A driver that keeps to the rules, a device that completes in any order, and what both must see."""

    @initialize(
        log_size=st.integers(0, 6),
        event_idx=st.booleans(),
        indirect=st.booleans(),
        start=st.sampled_from([0, 1, 65530, 65535]),
    )
    def set_up(self, log_size: int, event_idx: bool, indirect: bool, start: int) -> None:
        self.bench = RingBench(1 << log_size, event_idx=event_idx, indirect=indirect)
        self.ring, self.queue = self.bench.ring, self.bench.queue
        self.ring.heap = GuestHeap(self.bench.memory, HEAP, self.bench.memory.regions[0].end)
        native = self.queue.native
        native.next_avail = native.next_used = native.published = start
        self.bench.memory.write_u16(self.ring.used_ring + 2, start)
        self.ring.avail_idx = start
        self.ring._kicked_idx = self.ring._last_used = start
        self.indirect = indirect
        self.made: dict[int, tuple[DriverChain, bytes]] = {}
        self.available: deque[int] = deque()
        self.held: list[DescriptorChain] = []
        self.last: DescriptorChain | None = None
        self.completed: list[tuple[int, bytes]] = []
        self.published: list[tuple[int, bytes]] = []
        self.used_index = start
        self.idle = False
        """Whether the device looked last when there was nothing, and so has to be kicked."""

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.held.clear()
            self.last = None
            self.bench.close()

    # --- the driver

    @rule(readable=lengths, writable=lengths, indirect=st.booleans(), byte=st.integers(0, 255))
    def add(self, readable: list[int], writable: list[int], indirect: bool, byte: int) -> None:
        entries = len(readable) + len(writable)
        indirect = indirect and self.indirect
        if entries == 0 or (1 if indirect else entries) > len(self.ring._free):
            return
        if self.bench.heap.memory.regions[0].end - self.ring.heap._next < 1024:
            self.ring.heap.reset() if not self.made else None
            return
        content = [bytes([byte]) * length for length in readable]
        chain = self.ring.add(content, list(writable), indirect=indirect)
        self.made[chain.head] = (chain, b"".join(content))
        self.available.append(chain.head)

    @rule()
    def kick(self) -> None:
        kicked = self.ring.kick()
        assert kicked == (self.queue.event.drain() > 0)
        if self.idle and self.available:
            assert kicked, "a kick is lost: the device sleeps and the driver does not wake it"
        if kicked:
            self.idle = False

    @rule()
    def take_used(self) -> None:
        used = self.ring.take_used()
        assert [(entry.head, entry.length) for entry in used] == [
            (head, len(written)) for head, written in self.published
        ]
        for entry, (_, written) in zip(used, self.published, strict=True):
            assert entry.chain is not None
            assert entry.chain.written()[: len(written)] == written
            del self.made[entry.head]
        self.published.clear()

    @rule(wanted=st.booleans())
    def want_interrupts(self, wanted: bool) -> None:
        self.ring.interrupts = wanted

    @rule(distance=st.integers(-3, 70))
    def want_an_interrupt_later(self, distance: int) -> None:
        if self.ring.event_idx:
            self.ring.used_event = self.used_index + distance

    # --- the device

    @rule()
    def pop(self) -> None:
        chain = self.queue.pop()
        if not self.available:
            assert chain is None
            self.idle = True
            return
        self.idle = False
        head = self.available.popleft()
        assert chain is not None
        assert chain.head == head
        made, content = self.made[head]
        assert chain.read(0, 1000) == content
        assert [len(view) for view in chain.writable] == [buffer.length for buffer in made.writable]
        self.held.append(chain)
        self.last = chain

    @precondition(lambda self: self.held and self.held[-1] is self.last)
    @rule()
    def unpop(self) -> None:
        chain = self.held.pop()
        self.queue.unpop(chain)
        self.available.appendleft(chain.head)
        self.idle = False  # who puts a chain back knows that it is there
        self.last = None

    @precondition(lambda self: self.held)
    @rule(data=st.data(), content=st.binary(max_size=60))
    def complete(self, data: st.DataObject, content: bytes) -> None:
        chain = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        written = chain.write(0, content)
        chain.complete(written)
        self.completed.append((chain.head, content[:written]))

    @rule()
    def publish(self) -> None:
        old, new = self.used_index, self.used_index + len(self.completed)
        if self.ring.event_idx:
            wanted = (self.ring.used_event - old) & 0xFFFF < new - old
        else:
            wanted = self.ring.interrupts and new != old
        self.bench.interrupt.drain()
        self.queue.publish()
        assert (self.bench.interrupt.drain() > 0) == wanted
        self._published()

    def _published(self) -> None:
        self.used_index = self.used_index + len(self.completed) & 0xFFFF
        self.published += self.completed
        self.completed.clear()

    # --- always

    @invariant()
    def the_driver_sees_what_was_published(self) -> None:
        if not hasattr(self, "bench"):
            return
        if self.ring.used_idx != self.used_index:
            # Before it sleeps, the queue publishes by itself.
            assert self.idle
            self._published()
        assert self.ring.used_idx == self.used_index

    @invariant()
    def no_chain_is_lost(self) -> None:
        if hasattr(self, "bench"):
            count = len(self.available) + len(self.held) + len(self.completed) + len(self.published)
            assert count == len(self.made) == self.ring.in_flight


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=25, stateful_step_count=50, deadline=None)
