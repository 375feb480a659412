"""What a driver was interrupted for: acknowledgements that KVM took, and looks of many vCPUs at a time."""

from __future__ import annotations

import threading

from pyvmm._native import ffi, lib
from pyvmm.host.eventfd import EventFd
from pyvmm.kvm import InterruptStatusTable
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.interrupt_status import InterruptStatus

from core.tests.virtio.probe import TransportBench

VRING, CONFIG = lib.VIRTIO_MMIO_INT_VRING, lib.VIRTIO_MMIO_INT_CONFIG


def acknowledge_by_kvm(bench: TransportBench) -> None:
    """What KVM does where a driver writes VRING alone."""
    bench.transport.interrupt_status.acknowledged.signal()


def test_an_acknowledgement_that_kvm_took_counts(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    for _ in range(3):
        bench.echo(ring)
        assert bench.driver.interrupt_status == VRING
        acknowledge_by_kvm(bench)
        assert bench.driver.interrupt_status == 0


def test_it_counts_for_what_the_driver_had_seen_then(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING
    acknowledge_by_kvm(bench)
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING


def test_it_says_nothing_of_the_configuration(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.transport.interrupt(CONFIG)
    bench.echo(ring)
    assert bench.driver.interrupt_status == CONFIG | VRING
    acknowledge_by_kvm(bench)
    assert bench.driver.interrupt_status == CONFIG


def test_one_of_the_driver_before_is_none_of_the_next(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING
    bench.driver.reset()
    acknowledge_by_kvm(bench)
    (ring, _) = bench.start()
    assert bench.driver.interrupt_status == 0
    bench.echo(ring)
    assert bench.driver.interrupt_status == VRING


def test_looks_and_acknowledgements_at_once_lose_nothing(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    status, done = bench.transport.interrupt_status, threading.Event()

    def look() -> None:
        while not done.is_set():
            status.acknowledge(status.read())

    others = [threading.Thread(target=look) for _ in range(3)]
    for thread in others:
        thread.start()
    for index in range(1, 20_000):
        bench.memory.write_u16(ring.used_ring + 2, index)
        if index % 100 == 0:
            status.begin(bench.transport.queues)
        elif index % 70 == 0:
            status.end()
    done.set()
    for thread in others:
        thread.join()
    status.begin(bench.transport.queues)
    assert status.read() == 0
    bench.memory.write_u16(ring.used_ring + 2, 20_000)
    assert status.read() == VRING


def test_more_devices_than_it_has_room_for_are_left_to_the_transport() -> None:
    table, event = InterruptStatusTable(), EventFd()
    statuses = [InterruptStatus(Interrupt(event), 1) for _ in range(lib.PYVMM_MAX_INTERRUPT_STATUS + 1)]
    try:
        entered = [status.enter(table, 0x1000 * at) for at, status in enumerate(statuses)]
        assert entered == [True] * lib.PYVMM_MAX_INTERRUPT_STATUS + [False]
    finally:
        for status in statuses:
            status.close()
        event.close()


def test_signals_are_counted_for_native_code_as_well() -> None:
    event = EventFd()
    interrupt = Interrupt(event)
    interrupt.used_signals = 0xFFFF_FFFF
    interrupt.signal_used_queue()
    assert (interrupt.used_signals, ffi.unpack(interrupt.native, 1)) == (0, [0])
    event.close()
