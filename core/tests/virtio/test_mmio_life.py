"""A device's life behind virtio-mmio: activation, interrupts, resets at any moment, failures and the end."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable

import pytest
from pyvmm._native import lib
from pyvmm.device_context import DeviceContext
from pyvmm.errors import HostError
from pyvmm.host.eventloop import EventLoop
from pyvmm.memory import GuestMemory
from pyvmm.testing.driver_ring import DriverRing
from pyvmm.testing.mmio_driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    VIRTIO_F_EVENT_IDX,
)
from pyvmm.virtio.mmio import MmioDevice

from core.tests.virtio.probe import Probe, TransportBench, transport

VRING, CONFIG = lib.VIRTIO_MMIO_INT_VRING, lib.VIRTIO_MMIO_INT_CONFIG
UP = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


# --- interrupts


def test_a_used_ring_that_moved_is_the_cause_of_an_interrupt_until_it_is_acknowledged(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    assert bench.driver.interrupt_status == 0
    bench.echo(ring)
    assert bench.interrupted()
    assert bench.driver.interrupt_status == VRING
    assert bench.driver.interrupt_status == VRING
    bench.driver.acknowledge(VRING)
    assert bench.driver.interrupt_status == 0
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING


def test_what_is_used_between_the_look_and_the_acknowledgement_is_not_lost(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING
    bench.echo(ring)
    bench.driver.acknowledge(VRING)
    assert bench.driver.interrupt_status == VRING


def test_an_acknowledgement_without_a_look_hides_nothing(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.echo(ring)
    bench.driver.acknowledge(VRING | CONFIG)
    assert bench.driver.interrupt_status == VRING


def test_each_queue_is_a_cause(bench: TransportBench) -> None:
    rings = bench.start()
    for ring in rings:
        bench.echo(ring)
        assert bench.driver.interrupt_status == VRING
        bench.driver.acknowledge(VRING)


def test_who_serves_a_ring_elsewhere_has_nothing_to_tell_the_transport(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.memory.write_u16(ring.used_ring + 2, 1)  # as another process does
    assert bench.driver.interrupt_status == VRING


@pytest.mark.parametrize("features", [(), (VIRTIO_F_EVENT_IDX,)])
def test_an_interrupt_after_65536_used_entries_has_its_cause(bench: TransportBench, features: tuple[int, ...]) -> None:
    (ring, _) = bench.start(features)
    queue = bench.transport.queues[0]
    ring.write_descriptor(0, 0x8000, 4)
    ring.used_event = 0
    bench.driver.acknowledge(bench.driver.interrupt_status)
    queue.native.next_avail = queue.native.next_used = queue.native.published = 65535  # while the driver polled
    bench.memory.write_u16(ring.used_ring + 2, 65535)
    ring.avail_idx = 65535
    ring.used_event = 0xFFFF
    ring.make_available(0)
    chain = queue.pop()
    assert chain is not None
    chain.complete()
    queue.publish()

    assert bench.interrupted()
    assert ring.used_idx == 0
    assert bench.driver.interrupt_status == VRING


def test_a_changed_configuration_is_a_cause_of_its_own(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    generation = bench.driver.config_generation
    bench.probe.config[0:1] = b"X"
    bench.device.interrupt.signal_config_change()
    assert bench.interrupted()
    assert bench.driver.config_generation != generation
    assert bench.driver.interrupt_status == CONFIG
    bench.echo(ring)
    assert bench.driver.interrupt_status == CONFIG | VRING
    bench.driver.acknowledge(CONFIG)
    assert bench.driver.interrupt_status == VRING


def test_the_generation_stays_while_nothing_changes(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    generation = bench.driver.config_generation
    bench.driver.read_config(0, 12)
    bench.echo(ring)
    assert bench.driver.config_generation == generation


def test_the_generation_wraps_at_32_bits(bench: TransportBench) -> None:
    bench.start()
    bench.transport.config_generation = 0xFFFFFFFF
    bench.device.interrupt.signal_config_change()
    assert bench.driver.config_generation == 0


def test_a_change_before_the_driver_came_is_forgotten_at_its_reset(bench: TransportBench) -> None:
    bench.transport.interrupt(CONFIG)
    assert bench.driver.interrupt_status == CONFIG
    bench.driver.reset()
    assert bench.driver.interrupt_status == 0
    assert not bench.interrupted()


def test_the_transport_can_be_told_to_interrupt(bench: TransportBench) -> None:
    bench.start()
    bench.transport.interrupt(VRING)
    assert bench.interrupted()
    assert bench.driver.interrupt_status == 0  # the rings have not moved


# --- reset


def test_a_reset_takes_everything_back(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.echo(ring)
    bench.driver.write_register(lib.VIRTIO_MMIO_QUEUE_SEL, 1)
    bench.driver.reset()

    assert bench.driver.status == 0
    assert bench.driver.interrupt_status == 0
    assert not bench.interrupted()
    assert not bench.transport.device_activated
    assert bench.transport.acked_features == bench.device.acked_features == 0
    assert bench.transport.queue_select == 0
    for queue in bench.transport.queues:
        assert (queue.ready, queue.size, queue.descriptor_table, queue.used_ring) == (False, queue.max_size, 0, 0)
        assert queue.native is None
        assert queue.event.drain() == 0


def test_a_device_works_after_each_of_many_resets(bench: TransportBench) -> None:
    for _ in range(20):
        bench.heap.reset()
        (ring, second) = bench.start()
        bench.echo(ring)
        bench.echo(second)
    assert bench.probe.calls.count("activate") == 20
    assert bench.probe.calls.count("reset") == 19


@pytest.mark.parametrize("steps", range(6))
def test_a_reset_may_come_at_any_step(bench: TransportBench, steps: int) -> None:
    ring = bench.ring()
    way: list[Callable[[], object]] = [
        lambda: setattr(bench.driver, "status", ACKNOWLEDGE),
        lambda: setattr(bench.driver, "status", ACKNOWLEDGE | DRIVER),
        lambda: bench.driver.negotiate([3]),
        lambda: bench.driver.write_queue(0, 16, 0x1000, 0x2000, 0x3000),
        lambda: bench.driver.set_up_queue(1, ring),
    ]
    for step in way[:steps]:
        step()
    bench.driver.reset()
    assert bench.driver.status == 0
    assert "activate" not in bench.probe.calls
    bench.heap.reset()
    (ring, _) = bench.start()
    bench.echo(ring)


def test_a_reset_with_requests_in_flight_forgets_them(bench: TransportBench) -> None:
    bench.probe.keep = True
    (ring, _) = bench.start()
    for _ in range(4):
        ring.add([b"slow"], [4])
    ring.kick()
    bench.run()
    late = list(bench.probe.chains)
    assert len(late) == 4

    bench.driver.reset()
    bench.heap.reset()
    bench.probe.keep = False
    (ring, _) = bench.start()
    before = bench.memory.read(0, bench.memory.size)
    for chain in late:
        chain.complete(4)
    bench.run()

    assert bench.memory.read(0, bench.memory.size) == before
    assert not bench.interrupted()
    bench.echo(ring)


def test_a_reset_with_a_kick_that_was_not_served_yet_leaves_no_kick(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    ring.add([b"x"], [1])
    ring.kick()
    bench.driver.reset()
    bench.run()
    assert ring.used_idx == 0
    assert "on_kick" not in bench.probe.calls


def test_after_a_reset_a_kick_does_nothing(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.driver.reset()
    ring.add([b"x"], [1])
    bench.driver.notify(0)
    bench.run()
    assert ring.used_idx == 0
    assert bench.driver.status == 0


def test_a_device_that_cannot_reset_says_so_and_is_asked_again(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.probe.can_reset = False
    bench.driver.reset()
    assert bench.driver.status & (FAILED | NEEDS_RESET) == FAILED | NEEDS_RESET
    bench.driver.status = ACKNOWLEDGE
    assert bench.driver.status & FAILED

    bench.probe.can_reset = True
    bench.driver.reset()
    assert bench.driver.status == 0
    bench.heap.reset()
    (ring, _) = bench.start()
    bench.echo(ring)


def test_a_reset_before_anything_else_does_not_bother_the_device(bench: TransportBench) -> None:
    bench.driver.reset()
    assert "reset" not in bench.probe.calls
    assert bench.driver.status == 0


# --- a driver that breaks the rules


def break_ring(bench: TransportBench, ring: DriverRing) -> None:
    ring.make_available(0xFFFF)
    ring.kick()
    bench.run()


def test_a_broken_ring_stops_the_device_until_it_is_reset(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    (ring, other) = bench.start()
    generation = bench.driver.config_generation

    break_ring(bench, ring)

    assert bench.driver.status == UP | NEEDS_RESET
    assert bench.interrupted()
    assert bench.driver.interrupt_status & CONFIG
    assert bench.driver.config_generation != generation
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    for word in ("probe0", "queue 0", "the head of a chain is outside the descriptor table", "until the driver resets"):
        assert word in record.getMessage()
    assert "\n" not in record.getMessage()

    other.add([b"x"], [1])
    for _ in range(3):
        ring.kick()
        other.kick()
        bench.driver.notify(0)
        bench.run()
    assert (ring.used_idx, other.used_idx) == (0, 0)
    assert len(caplog.records) == 1

    bench.heap.reset()
    (ring, other) = bench.start()
    assert bench.driver.status == UP
    bench.echo(ring)
    bench.echo(other)


def test_what_was_completed_before_the_rule_was_broken_is_served_or_lost_but_no_more_is_touched(
    bench: TransportBench,
) -> None:
    (ring, _) = bench.start()
    ring.add([b"good"], [4])
    break_ring(bench, ring)
    assert ring.used_idx <= 1
    before = bench.memory.read(0, bench.memory.size)
    ring.kick()
    bench.driver.notify(0)
    bench.run()
    assert bench.memory.read(0, bench.memory.size) == before


def test_a_ring_at_a_bad_place_stops_the_device_at_driver_ok(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.driver.begin()
    bench.driver.negotiate([])
    bench.driver.write_queue(0, 3, 0x1000, 0x2000, 0x3000)
    bench.driver.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 1)
    bench.driver.driver_ok()

    assert bench.driver.status == UP | NEEDS_RESET
    assert "activate" not in bench.probe.calls
    assert "not a power of two" in caplog.text
    assert bench.driver.interrupt_status == CONFIG
    bench.driver.notify(0)
    bench.run()

    bench.heap.reset()
    (ring, _) = bench.start()
    bench.echo(ring)


def test_a_queue_of_4_billion_entries_costs_the_host_nothing(bench: TransportBench) -> None:
    for size in (1 << 31, 1 << 20, 0xFFFFFFFF):
        bench.driver.begin()
        bench.driver.negotiate([])
        bench.driver.write_queue(0, size, 0x1000, 0x2000, 0x3000)
        bench.driver.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 1)
        bench.driver.driver_ok()
        assert bench.driver.needs_reset


def test_another_device_on_the_loop_goes_on(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    break_ring(bench, ring)
    other = TransportBench.__new__(TransportBench)
    other.memory, other.loop, other.device, other.heap = bench.memory, bench.loop, Probe(), bench.heap
    other.transport = MmioDevice(bench.memory, other.device, "other0", bench.loop)
    other.driver = type(bench.driver)(other.transport)
    (ring, _) = other.start()
    other.echo(ring)
    other.transport.close()


def test_a_driver_that_breaks_and_resets_for_ever_does_not_fill_the_log(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            bench.heap.reset()
            (ring, _) = bench.start()
            break_ring(bench, ring)
            assert bench.driver.needs_reset
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 10


# --- a device that fails


def test_an_exception_in_a_kick_stops_the_device_and_the_log_has_the_traceback(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.probe.failing = {"on_kick"}
    (ring, _) = bench.start()
    ring.add([b"x"], [1])
    ring.kick()
    bench.run()

    assert bench.driver.status == UP | NEEDS_RESET
    assert bench.interrupted()
    (record,) = caplog.records
    assert "probe0" in record.getMessage()
    assert "on_kick went wrong" in record.getMessage()
    assert record.exc_info is not None

    bench.probe.failing.clear()
    bench.heap.reset()
    (ring, _) = bench.start()
    bench.echo(ring)


@pytest.mark.parametrize("method", ["activate", "ack_features", "reset", "read_config", "write_config"])
def test_an_exception_in_any_method_fails_the_device_and_not_the_machine(
    bench: TransportBench, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    bench.probe.failing = {method}
    bench.driver.begin()
    if method == "ack_features":
        assert not bench.driver.accept_features(1 << 32)
    else:
        bench.driver.negotiate([])
        bench.driver.driver_ok()
    bench.driver.read_config(0, 4)
    bench.driver.write_config(0, b"X")
    if method == "reset":
        bench.driver.reset()
        assert bench.driver.status & FAILED

    assert bench.driver.needs_reset
    assert len(caplog.records) == 1
    assert f"{method} went wrong" in caplog.text

    bench.probe.failing.clear()
    bench.heap.reset()
    (ring, _) = bench.start()
    bench.echo(ring)


def test_a_read_of_the_configuration_that_fails_reads_zeros_and_is_logged_once(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.probe.failing = {"read_config"}
    bench.start()
    for _ in range(100):
        assert bench.driver.read_config(0, 4) == bytes(4)
    assert len(caplog.records) == 1


def test_an_exception_in_a_callback_of_the_devices_own_stops_it(
    bench: TransportBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start()
    bench.device.context.loop.post(lambda: 1 // 0)
    bench.run()
    assert bench.driver.needs_reset
    assert "ZeroDivisionError" in caplog.text


def test_what_a_device_completes_in_any_call_is_published(bench: TransportBench) -> None:
    bench.probe.keep = True
    (ring, _) = bench.start()
    ring.add([b"x"], [1])
    ring.kick()
    bench.run()
    bench.device.write_config = lambda offset, data: bench.probe.chains[0].complete(1)  # type: ignore[method-assign]
    bench.driver.write_config(0, b"X")
    assert ring.used_idx == 1
    assert bench.interrupted()


# --- beginning and end


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_device_that_cannot_be_attached_leaves_no_descriptor() -> None:
    class Unwilling(Probe):
        def attach(self, context: DeviceContext) -> None:
            super().attach(context)
            context.loop.add(0, lambda _: None)
            raise HostError("no such tap")

    loop = EventLoop()
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        with GuestMemory.create([(0, 4096)]) as memory:
            before = descriptors()
            with pytest.raises(HostError, match="no such tap"):
                MmioDevice(memory, Unwilling(), "tap0", loop)
            assert descriptors() == before
            os.write(write, b"x")
            assert loop.run_once(0) == 0  # its callbacks are gone
    finally:
        os.dup2(saved, 0)
        for fd in (saved, read, write):
            os.close(fd)
        loop.close()


@pytest.mark.parametrize("active", [True, False])
def test_closing_stops_the_device_and_releases_its_descriptors(active: bool) -> None:
    before = descriptors()
    with transport() as bench:
        if active:
            bench.start()
    assert descriptors() == before
    assert bench.probe.calls[-2:] == (["reset", "close"] if active else [bench.probe.calls[-2], "close"])


@pytest.mark.parametrize("method", ["reset", "close"])
def test_a_device_that_fails_to_close_is_logged_and_leaves_no_descriptor(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = descriptors()
    with transport() as bench:
        bench.start()
        bench.probe.failing = {method}
    assert descriptors() == before
    assert "probe0: closing it failed" in caplog.text


def test_what_was_posted_before_the_end_does_not_run_after_it(bench: TransportBench) -> None:
    bench.start()
    bench.device.context.loop.post(lambda: pytest.fail("ran"))
    bench.transport.close()
    bench.run()
