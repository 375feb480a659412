"""The back end: what a front end sets up, what it is told, and that requests get through."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory, GuestRegion
from pyvmm.vhost_user import served_device
from pyvmm.vhost_user.backend import PROTOCOL_FEATURES, Backend
from pyvmm.vhost_user.connection import Connection
from pyvmm.vhost_user.protocol import (
    BackendRequest,
    ConfigSpace,
    Inflight,
    MemoryRegion,
    ProtocolFeature,
    VhostUserError,
    VringFd,
    VringState,
    pack_memory_table,
    pack_u64,
    unpack_u64,
)
from pyvmm.vhost_user.protocol import FrontendRequest as R
from pyvmm.virtio.device import VirtioDevice

from core.tests.vhost_user.front_end import (
    ALL_BUT_STATUS,
    EVENT_IDX,
    MEMORY_SIZE,
    USER_BASE,
    VERSION_1,
    Echo,
    FrontEnd,
    Holder,
    KilledBackEnd,
)

Connect = Callable[[VirtioDevice], FrontEnd]

FEATURES_OK, DRIVER_OK = 8, 0xF
NEEDS_RESET = 0x40


def test_a_request_gets_through_and_the_ring_is_called(front_end: FrontEnd) -> None:
    front_end.start()

    assert front_end.exchange(b"hello") == b"hello"
    assert front_end.calls[0].drain()
    assert not front_end.errs[0].drain()


def test_more_requests_than_the_ring_is_long_wrap_around(front_end: FrontEnd) -> None:
    front_end.start(size=4)

    for i in range(100):
        assert front_end.exchange(b"%d" % i) == b"%d" % i


def test_each_ring_has_its_own_call(front_end: FrontEnd) -> None:
    front_end.negotiate()
    for index in (0, 1):
        front_end.make_ring(index)
    for index in (0, 1):
        front_end.set_ring(index)

    front_end.exchange(b"hello", 1)

    assert not front_end.calls[0].drain()
    assert front_end.calls[1].drain()


def test_what_is_there_before_the_ring_starts_is_served_without_a_kick(front_end: FrontEnd) -> None:
    front_end.negotiate()
    ring = front_end.make_ring()
    ring.add([b"early"], [5])

    front_end.set_ring()
    front_end.pump()

    [used] = ring.take_used()
    assert used.chain is not None
    assert used.chain.written() == b"early"


def test_event_idx_is_kept(front_end: FrontEnd) -> None:
    front_end.negotiate(features=front_end.number(R.GET_FEATURES))
    ring = front_end.make_ring(event_idx=True)
    front_end.set_ring()
    ring.used_event = 1

    front_end.exchange(b"a")
    assert not front_end.calls[0].drain()
    ring.used_event = 1
    front_end.exchange(b"b")
    assert front_end.calls[0].drain()


def test_without_the_protocols_feature_rings_are_enabled_from_the_start(front_end: FrontEnd) -> None:
    front_end.negotiate(features=VERSION_1)
    front_end.make_ring()
    front_end.set_ring(enable=False)

    assert front_end.exchange(b"hello") == b"hello"


def test_a_disabled_ring_waits(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    front_end.tell(R.SET_VRING_ENABLE, VringState(0, 0).pack())
    front_end.rings[0].add([b"later"], [5])

    assert front_end.kick() == []
    front_end.tell(R.SET_VRING_ENABLE, VringState(0, 1).pack())
    front_end.pump()

    assert len(front_end.rings[0].take_used()) == 1
    assert echo.log == ["activate"]


def test_a_ring_that_comes_late_is_served_and_the_first_goes_on(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    front_end.exchange(b"before")
    front_end.make_ring(1)
    front_end.set_ring(1)

    assert front_end.exchange(b"second", 1) == b"second"
    assert front_end.exchange(b"first") == b"first"
    assert echo.log == ["activate", "reset", "activate"]


def test_a_device_may_kick_a_ring_that_is_not_started(connect: Connect) -> None:
    class Eager(Echo):
        def activate(self, *arguments: object) -> None:
            super().activate(*arguments)
            for queue in self.queues:
                queue.event.signal()

    eager = Eager()
    front_end = connect(eager)
    front_end.start()
    assert front_end.exchange(b"first") == b"first"
    front_end.make_ring(1)
    front_end.set_ring(1)
    assert front_end.exchange(b"second", 1) == b"second"

    front_end.tell(R.RESET_DEVICE)
    front_end.negotiate()
    front_end.make_ring(1)
    front_end.set_ring(1)
    assert front_end.exchange(b"only the second", 1) == b"only the second"
    assert eager.log.count("activate") > 2


def test_a_ring_without_a_kick_is_polled(front_end: FrontEnd) -> None:
    front_end.negotiate()
    ring = front_end.make_ring()
    front_end.set_ring(poll=True)

    ring.add([b"hello"], [5])
    front_end.pump()

    assert len(ring.take_used()) == 1


def test_a_ring_without_a_call_is_served_in_silence(front_end: FrontEnd) -> None:
    front_end.start()
    front_end.tell(R.SET_VRING_CALL, VringFd(0, False).pack())
    front_end.calls[0].drain()

    assert front_end.exchange(b"hello") == b"hello"
    assert not front_end.calls[0].drain()


def test_a_call_that_is_changed_while_the_ring_runs_is_the_one_signalled(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    other = front_end.event()
    front_end.tell(R.SET_VRING_CALL, VringFd(0).pack(), [other.fd])
    front_end.calls[0].drain()

    front_end.exchange(b"hello")

    assert other.drain()
    assert not front_end.calls[0].drain()
    assert echo.log == ["activate"]


def test_a_kick_that_is_changed_while_the_ring_runs_is_the_one_that_counts(front_end: FrontEnd) -> None:
    ring = front_end.start()
    assert ring.queue is not None
    front_end.exchange(b"before")
    ring.queue.event = front_end.event()
    front_end.tell(R.SET_VRING_KICK, VringFd(0).pack(), [ring.queue.event.fd])

    assert front_end.exchange(b"after") == b"after"


def test_a_stopped_ring_says_where_it_goes_on(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    for _ in range(3):
        front_end.exchange(b"x")

    assert front_end.vring_base() == 3
    front_end.rings[0].add([b"y"], [1])
    assert front_end.kick() == []
    assert echo.log == ["activate", "reset"]

    front_end.set_ring(base=3)
    front_end.pump()
    assert len(front_end.rings[0].take_used()) == 1
    assert front_end.vring_base() == 4


def test_stopping_one_ring_of_two_lets_the_other_run(front_end: FrontEnd, echo: Echo) -> None:
    front_end.negotiate()
    for index in (0, 1):
        front_end.make_ring(index)
        front_end.set_ring(index)
    echo.log.clear()

    front_end.vring_base(0)

    assert front_end.exchange(b"second", 1) == b"second"
    assert echo.log == []


def test_requests_in_flight_are_waited_for_when_their_ring_stops(connect: Connect, holder: Holder) -> None:
    front_end = connect(holder)
    front_end.start()
    front_end.rings[0].add([b"slow"], [4])
    front_end.kick()
    timer = front_end.event()
    front_end.loop.add(timer.fd, lambda _: (timer.drain(), holder.answer(0)))
    timer.signal()

    assert front_end.vring_base() == 1
    front_end.loop.remove(timer.fd)
    assert len(front_end.rings[0].take_used()) == 1


def test_requests_that_are_held_for_ever_come_again_when_the_ring_goes_on(
    connect: Connect, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_device, "DRAIN_TIMEOUT", 0.01)
    front_end = connect(holder)
    front_end.start()
    for data in (b"one", b"two", b"three"):
        front_end.rings[0].add([data], [8])
    front_end.kick()
    holder.answer(1)

    base = front_end.vring_base()
    assert base == 3
    assert holder.held == []
    front_end.set_ring(base=base)
    front_end.pump()

    assert holder.seen == [b"one", b"two", b"three", b"one", b"three"]
    holder.answer(0, 1)
    assert [used.chain.written()[:3] for used in front_end.kick() if used.chain] == [b"two", b"one", b"thr"]
    assert front_end.rings[0].in_flight == 0


def test_a_late_ring_leaves_requests_in_flight_as_they_were(connect: Connect, holder: Holder) -> None:
    front_end = connect(holder)
    front_end.start()
    front_end.rings[0].add([b"early"], [8])
    front_end.kick()

    front_end.make_ring(1)
    front_end.set_ring(1)
    front_end.pump()

    assert holder.seen == [b"early", b"early"]
    holder.answer(0)
    assert len(front_end.kick()) == 1


def test_a_killed_back_ends_requests_are_taken_by_the_next_in_their_order(loop: EventLoop) -> None:
    memory = GuestMemory.create([(0, MEMORY_SIZE)])
    dead = KilledBackEnd(loop, memory)
    front_end = dead.front_end
    front_end.negotiate()
    description, fd = front_end.get_inflight(2, 16)
    front_end.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    ring = front_end.make_ring()
    front_end.set_ring()
    for data in (b"a", b"b", b"c", b"d", b"answer 2,1", b"e", b"complete 0", b"f"):
        ring.add([data], [16])
    used = front_end.kick()  # some of what the process answers, or none yet
    dead.wait_until_idle()
    dead.kill()

    holder = Holder()
    backend = Backend(holder, "second", loop)
    again = FrontEnd(backend, loop, memory=memory)
    again.negotiate()
    again.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    again.rings, again.calls, again.errs = front_end.rings, front_end.calls, front_end.errs
    again.calls[0].drain()
    again.set_ring(base=ring.used_idx)  # what QEMU says when the back end did not answer GET_VRING_BASE
    again.pump()

    # b and c were used; a was completed, but the driver never heard of it.
    assert [data[:1] for data in holder.seen] == [b"a", b"d", b"a", b"e", b"c", b"f"]
    assert again.calls[0].drain()
    holder.answer(1, 0, 5, 2, 4, 3)
    used += again.kick()
    heads = [entry.chain.readable[0].read()[:1] for entry in used if entry.chain]
    assert heads == [b"c", b"b", b"d", b"a", b"f", b"a", b"c", b"e"]
    assert again.vring_base() == 8
    again.close()
    backend.close()
    dead.close()
    memory.close()
    os.close(fd)


def test_a_front_end_that_comes_back_finds_its_requests(loop: EventLoop, holder: Holder) -> None:
    backend = Backend(holder, "device0", loop)
    memory = GuestMemory.create([(0, MEMORY_SIZE)])
    front_end = FrontEnd(backend, loop, memory=memory)
    front_end.negotiate()
    description, fd = front_end.get_inflight(1, 16)
    front_end.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    ring = front_end.make_ring()
    front_end.set_ring()
    for data in (b"a", b"b", b"c"):
        ring.add([data], [1])
    front_end.kick()
    holder.answer(1)
    holder.seen.clear()
    front_end.connection.close()
    front_end.pump()

    again = FrontEnd(backend, loop, memory=memory)
    again.negotiate()
    again.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    again.rings, again.calls, again.errs = front_end.rings, front_end.calls, front_end.errs
    again.set_ring(base=ring.used_idx)
    again.pump()

    assert holder.seen == [b"a", b"c"]
    again.close()
    front_end.close()
    backend.close()
    memory.close()
    os.close(fd)


def test_death_between_the_used_index_and_the_account_repeats_nothing(connect: Connect, holder: Holder) -> None:
    front_end = connect(holder)
    front_end.negotiate()
    description, fd = front_end.get_inflight(1, 16)
    ring = front_end.make_ring()
    ring.add([b"done"], [8])
    ring.add([b"not done"], [8])
    # The first is used and the index says so; the process died before it took the first out of the account.
    head = ring.available_ring
    first = front_end.memory.read_u16(head + 4)
    second = front_end.memory.read_u16(head + 6)
    front_end.memory.write(ring.used_ring + 4, struct.pack("<II", first, 8))
    front_end.memory.write_u16(ring.used_ring + 2, 1)
    account = bytearray(description.mmap_size)
    struct.pack_into("<QHHHH", account, 0, 0, 1, 16, first, 0)
    struct.pack_into("<B5xHQ", account, 16 + 16 * first, 1, 0, 0)
    struct.pack_into("<B5xHQ", account, 16 + 16 * second, 1, 0, 1)
    os.pwrite(fd, account, 0)

    front_end.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    front_end.set_ring(base=1)
    front_end.pump()

    assert holder.seen == [b"not done"]
    assert struct.unpack_from("<H", os.pread(fd, 16, 0), 14) == (1,)
    os.close(fd)


def test_an_inflight_area_of_nonsense_fails_the_ring_and_nothing_else(front_end: FrontEnd) -> None:
    front_end.negotiate()
    description, fd = front_end.get_inflight(1, 16)
    os.pwrite(fd, b"\xff" * description.mmap_size, 0)
    front_end.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    os.close(fd)
    front_end.make_ring()
    front_end.set_ring()

    assert front_end.errs[0].drain()
    assert not front_end.disconnected


def test_an_inflight_area_whose_account_is_cyclic_is_survived(front_end: FrontEnd) -> None:
    front_end.negotiate()
    description, fd = front_end.get_inflight(1, 16)
    account = bytearray(description.mmap_size)
    struct.pack_into("<QHHHH", account, 0, 0, 1, 16, 0, 5)  # 65,531 entries ago
    for head in range(16):
        struct.pack_into("<B5xHQ", account, 16 + 16 * head, head & 1, head, 2**64 - 1)
    os.pwrite(fd, account, 0)
    front_end.tell(R.SET_INFLIGHT_FD, description.pack(), [fd])
    os.close(fd)
    front_end.make_ring()
    front_end.set_ring()
    front_end.pump()

    assert not front_end.disconnected


@pytest.mark.parametrize(
    "description", [Inflight(0, 0, 3, 16), Inflight(0, 0, 0, 16), Inflight(0, 0, 1, 0), Inflight(0, 0, 1, 65535)]
)
def test_an_inflight_area_for_rings_that_are_not_there_ends_the_connection(
    front_end: FrontEnd, description: Inflight
) -> None:
    front_end.negotiate()
    front_end.send(R.GET_INFLIGHT_FD, description.pack())

    assert front_end.disconnected


def test_a_front_end_that_says_no_driver_ok_is_served(front_end: FrontEnd, echo: Echo) -> None:
    front_end.negotiate(protocol_features=ALL_BUT_STATUS | ProtocolFeature.STATUS.mask)
    front_end.tell(R.SET_STATUS, pack_u64(FEATURES_OK))
    front_end.make_ring()
    front_end.set_ring()

    assert front_end.exchange(b"hello") == b"hello"

    front_end.tell(R.SET_STATUS, pack_u64(DRIVER_OK))
    assert front_end.number(R.GET_STATUS) == DRIVER_OK
    assert echo.log == ["activate"]


def test_a_status_of_zero_resets_the_device_and_it_can_be_started_again(front_end: FrontEnd, echo: Echo) -> None:
    front_end.negotiate(protocol_features=ALL_BUT_STATUS | ProtocolFeature.STATUS.mask)
    front_end.make_ring()
    front_end.set_ring()
    front_end.tell(R.SET_STATUS, pack_u64(DRIVER_OK))

    front_end.tell(R.SET_STATUS, pack_u64(0))
    assert echo.log == ["activate", "reset"]
    assert echo.acked_features == 0
    front_end.rings[0] = front_end.make_ring()
    front_end.tell(R.SET_FEATURES, pack_u64(VERSION_1))
    front_end.set_ring()
    front_end.tell(R.SET_STATUS, pack_u64(DRIVER_OK))

    assert front_end.exchange(b"hello") == b"hello"


def test_reset_device_disables_the_rings(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    front_end.tell(R.RESET_DEVICE)

    front_end.rings[0].add([b"x"], [1])
    assert front_end.kick() == []
    assert echo.log == ["activate", "reset"]


def test_reset_owner_disables_the_rings(front_end: FrontEnd) -> None:
    front_end.start()
    front_end.tell(R.RESET_OWNER)

    front_end.rings[0].add([b"x"], [1])
    assert front_end.kick() == []


def test_the_configuration_space_is_read_and_written(front_end: FrontEnd) -> None:
    front_end.negotiate()

    assert front_end.get_config(0, 20) == bytes(range(16)) + bytes(4)
    assert front_end.get_config(3, 2) == b"\x03\x04"
    front_end.tell(R.SET_CONFIG, ConfigSpace(4, b"\xaa\xbb").pack())
    assert front_end.get_config(3, 4) == b"\x03\xaa\xbb\x06"


def test_a_device_that_changes_its_configuration_tells(front_end: FrontEnd, echo: Echo) -> None:
    mine, its = socket.socketpair()
    front_end.start()
    front_end.tell(R.SET_BACKEND_REQ_FD, fds=[its.fileno()])
    its.close()

    echo.interrupt.signal_config_change()
    front_end.pump()

    with Connection(mine) as channel:
        message = channel.receive(1)
        assert message.request == BackendRequest.CONFIG_CHANGE_MSG
        assert not message.is_reply
        assert not message.needs_reply


def test_a_front_end_that_reads_no_config_changes_stalls_nobody(front_end: FrontEnd, echo: Echo) -> None:
    mine, its = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    front_end.start()
    front_end.tell(R.SET_BACKEND_REQ_FD, fds=[its.fileno()])
    its.close()

    for _ in range(1000):
        echo.interrupt.signal_config_change()
    front_end.pump()
    assert front_end.exchange(b"hello") == b"hello"

    mine.close()
    echo.interrupt.signal_config_change()
    front_end.pump()
    assert front_end.exchange(b"hello") == b"hello"


def test_what_the_back_end_offers(front_end: FrontEnd) -> None:
    front_end.negotiate()

    assert front_end.number(R.GET_QUEUE_NUM) == 2
    assert front_end.number(R.GET_MAX_MEM_SLOTS) == 8
    assert front_end.number(R.GET_PROTOCOL_FEATURES) == PROTOCOL_FEATURES


def test_the_device_hears_of_its_own_features_only(front_end: FrontEnd, echo: Echo) -> None:
    front_end.negotiate()

    assert echo.acked_features == front_end.number(R.GET_FEATURES) & ~EVENT_IDX & ~(1 << 30)


def test_features_are_still_accepted_when_the_device_was_stopped_and_started(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    before = echo.acked_features
    base = front_end.vring_base()
    front_end.set_ring(base=base)

    assert echo.acked_features == before


def test_a_legacy_driver_is_not_served(front_end: FrontEnd, caplog: pytest.LogCaptureFixture) -> None:
    front_end.negotiate(features=0)
    front_end.make_ring()
    front_end.set_ring()

    assert front_end.errs[0].drain()
    assert "VERSION_1" in caplog.text


def test_a_driver_that_breaks_a_rule_of_the_ring_is_told_by_err(
    front_end: FrontEnd, caplog: pytest.LogCaptureFixture
) -> None:
    front_end.negotiate(protocol_features=ALL_BUT_STATUS | ProtocolFeature.STATUS.mask)
    for index in (0, 1):
        front_end.make_ring(index)
        front_end.set_ring(index)
    front_end.tell(R.SET_STATUS, pack_u64(DRIVER_OK))
    front_end.rings[1].make_available(99)
    front_end.kick(1)

    assert front_end.errs[1].drain()
    assert not front_end.errs[0].drain()
    assert front_end.number(R.GET_STATUS) == DRIVER_OK | NEEDS_RESET
    assert "device0: queue 1: the head of a chain is outside the descriptor table" in caplog.text
    assert not front_end.disconnected


def test_a_device_that_raises_is_stopped_and_can_be_started_again(
    front_end: FrontEnd, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    front_end.start()
    front_end.rings[0].add([b"raise"], [5])
    assert front_end.kick() == []
    assert front_end.errs[0].drain()
    assert "ZeroDivisionError: asked to" in caplog.text
    caplog.clear()  # it holds the traceback, and so guest memory
    assert echo.log == ["activate", "reset"]

    front_end.vring_base()
    front_end.make_ring()
    front_end.set_ring()
    assert front_end.exchange(b"hello") == b"hello"


def test_a_device_whose_configuration_fails_says_so(front_end: FrontEnd) -> None:
    front_end.start()
    front_end.tell(R.SET_CONFIG, ConfigSpace(15, b"xx").pack())

    assert front_end.errs[0].drain()
    assert not front_end.disconnected


def test_a_memory_table_that_is_replaced_while_rings_run(front_end: FrontEnd, echo: Echo) -> None:
    front_end.start()
    front_end.exchange(b"before")

    front_end.set_memory()

    assert front_end.exchange(b"after") == b"after"
    assert echo.log == ["activate"]


def test_a_memory_table_without_the_rings_fails_the_device(front_end: FrontEnd) -> None:
    front_end.start()
    front_end.tell(R.SET_MEM_TABLE, pack_memory_table([]))

    assert front_end.errs[0].drain()
    front_end.rings[0].add([b"x"], [1])
    assert front_end.kick() == []


def test_regions_are_added_and_removed_while_rings_run(front_end: FrontEnd) -> None:
    front_end.start()
    extra = GuestMemory.create([(0, 1 << 20)])
    region = MemoryRegion(1 << 32, 1 << 20, USER_BASE + (1 << 32), 0)
    extra.write(0, b"far away")
    ring = front_end.rings[0]

    front_end.tell(R.ADD_MEM_REG, region.pack(), [extra.fd])
    ring.write_descriptor(14, 1 << 32, 8, 1, 15)
    ring.write_descriptor(15, (1 << 32) + 0x1000, 8, 2)
    ring.make_available(14)
    [used] = front_end.kick()
    assert used.length == 8
    assert extra.read(0x1000, 8) == b"far away"

    front_end.tell(R.REM_MEM_REG, region.pack(), [extra.fd])  # some send a descriptor, and it must be closed
    assert front_end.exchange(b"hello") == b"hello"
    with pytest.raises(VhostUserError):
        front_end.tell(R.REM_MEM_REG, region.pack())
    ring.make_available(14)
    front_end.kick()
    assert front_end.errs[0].drain()
    extra.close()


def test_removing_the_region_with_the_rings_fails_the_device(front_end: FrontEnd) -> None:
    front_end.start()
    front_end.tell(R.REM_MEM_REG, MemoryRegion(0, MEMORY_SIZE, USER_BASE, 0).pack())

    assert front_end.errs[0].drain()
    assert not front_end.disconnected


def test_regions_at_odd_places_of_their_descriptors(loop: EventLoop, echo: Echo) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 8 << 20)
    regions = [GuestRegion(0, MEMORY_SIZE, 0x3000), GuestRegion(1 << 32, 0x2000, 0x501000)]
    memory = GuestMemory(fd, regions)
    backend = Backend(echo, "device0", loop)
    with FrontEnd(backend, loop, memory=memory) as front_end:
        front_end.start()
        assert front_end.exchange(b"hello") == b"hello"
    backend.close()
    memory.close()


def test_memory_of_huge_pages(loop: EventLoop, echo: Echo) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    os.ftruncate(fd, 6 << 20)
    try:
        memory = GuestMemory(fd, [GuestRegion(0, MEMORY_SIZE, 0x1000)])
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    backend = Backend(echo, "device0", loop)
    with FrontEnd(backend, loop, memory=memory) as front_end:
        front_end.start()
        assert front_end.exchange(b"hello") == b"hello"
    backend.close()
    memory.close()


@pytest.mark.parametrize(
    ("regions", "fds"),
    [
        ([MemoryRegion(0, 0x10000, 0, 0), MemoryRegion(0x8000, 0x10000, 1 << 20, 0)], 2),
        ([MemoryRegion(0, MEMORY_SIZE + 4096, 0, 0)], 1),
        ([MemoryRegion(0, 4096, 0, 1 << 62)], 1),
        ([MemoryRegion(0, 4096, 0, (1 << 63) - 4096)], 1),
        ([MemoryRegion(0, 1 << 62, 0, 0)], 1),
        ([MemoryRegion(0, 4096, 0, 0)], 0),
        ([MemoryRegion(0, 4096, 0, 0)], 2),
    ],
    ids=["overlap", "beyond", "offset", "offset at the limit", "huge", "no descriptor", "two descriptors"],
)
def test_a_memory_table_that_lies_is_refused_and_the_old_one_kept(
    front_end: FrontEnd, regions: list[MemoryRegion], fds: int
) -> None:
    front_end.start()
    with pytest.raises(VhostUserError):
        front_end.tell(R.SET_MEM_TABLE, pack_memory_table(regions), [front_end.memory.fd] * fds)

    assert front_end.exchange(b"hello") == b"hello"


def test_a_descriptor_that_is_no_memory_is_refused(front_end: FrontEnd) -> None:
    front_end.negotiate()
    with pytest.raises(VhostUserError):
        front_end.tell(
            R.SET_MEM_TABLE, pack_memory_table([MemoryRegion(0, 4096, 0, 0)]), [front_end.connection.fileno()]
        )


@pytest.mark.parametrize("request_", [R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR])
def test_a_kick_call_or_err_that_is_no_eventfd_is_refused(front_end: FrontEnd, request_: R) -> None:
    front_end.negotiate()
    read_end, write_end = os.pipe()
    for fd in (read_end, write_end, front_end.memory.fd, front_end.connection.fileno()):
        with pytest.raises(VhostUserError):
            front_end.tell(request_, VringFd(0).pack(), [fd])
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (R.SET_VRING_NUM, VringState(0, 0).pack()),
        (R.SET_VRING_NUM, VringState(0, 12).pack()),
        (R.SET_VRING_NUM, VringState(0, 512).pack()),
        (R.SET_VRING_NUM, VringState(2, 16).pack()),
        (R.SET_VRING_BASE, VringState(0, 0x10000).pack()),
        (R.SET_VRING_ENABLE, VringState(0, 2).pack()),
        (R.SET_VRING_KICK, VringFd(0).pack()),
        (R.SET_VRING_KICK, VringFd(7, False).pack()),
        (R.SET_VRING_KICK, pack_u64(1 << 9)),
        (R.SET_FEATURES, pack_u64(1 << 63)),
        (R.SET_PROTOCOL_FEATURES, pack_u64(ProtocolFeature.PAGEFAULT.mask)),
        (R.SET_STATUS, pack_u64(1)),
        (R.SET_BACKEND_REQ_FD, b""),
        (R.SET_LOG_BASE, pack_u64(0)),
        (R.IOTLB_MSG, bytes(32)),
        (R.SET_CONFIG, bytes(11)),
        (R.SET_CONFIG, ConfigSpace(255, b"ab").pack()),
        (R.ADD_MEM_REG, bytes(40)),
        (77, b""),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_is_wrong_is_refused_where_an_answer_is_wanted(front_end: FrontEnd, request_: int, payload: bytes) -> None:
    front_end.start()
    answer = front_end.ask(request_, payload, flags=1 << 3)

    assert unpack_u64(answer.payload) == 1
    assert front_end.exchange(b"hello") == b"hello"


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (R.SET_VRING_NUM, VringState(0, 0).pack()),
        (R.GET_VRING_BASE, VringState(9, 0).pack()),
        (R.GET_CONFIG, ConfigSpace(200, bytes(100)).pack()),
        (R.GET_STATUS, b""),
        (77, b""),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_is_wrong_ends_the_connection_where_no_answer_is_wanted(
    front_end: FrontEnd, request_: int, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    front_end.start()
    front_end.send(request_, payload)

    assert front_end.disconnected
    assert "breaks the protocol" in caplog.text


def test_a_base_for_a_ring_that_runs_is_refused(front_end: FrontEnd) -> None:
    front_end.start()
    with pytest.raises(VhostUserError):
        front_end.tell(R.SET_VRING_BASE, VringState(0, 5).pack())


def test_one_front_end_after_the_other(loop: EventLoop, echo: Echo) -> None:
    backend = Backend(echo, "device0", loop)
    for _ in range(3):
        with FrontEnd(backend, loop) as front_end:
            front_end.start()
            assert front_end.exchange(b"hello") == b"hello"
            with pytest.raises(RuntimeError):
                backend.serve(front_end.connection)  # type: ignore[arg-type]
        assert front_end.disconnected
        assert not backend.connected
        assert echo.acked_features == 0
    backend.close()
    assert echo.closed == 1


def test_a_front_end_that_goes_with_requests_in_flight(connect: Connect, holder: Holder) -> None:
    front_end = connect(holder)
    front_end.start()
    front_end.rings[0].add([b"x"], [1])
    front_end.kick()
    front_end.connection.close()
    front_end.pump()

    assert front_end.disconnected
    assert holder.log == ["activate", "reset"]
