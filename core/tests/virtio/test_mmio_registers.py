"""The registers of virtio-mmio: what they say, what they take, and at what width (virtio 1.2, section 4.2.2)."""

from __future__ import annotations

import pytest
from pyvmm._native import lib
from pyvmm.testing.mmio_driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_VERSION_1,
)

from core.tests.virtio.probe import DEVICE_ID, FEATURES, TransportBench

NAMES = [name for name in dir(lib) if name.startswith("VIRTIO_MMIO_") and "_INT_" not in name]
REGISTERS = [getattr(lib, name) for name in NAMES if name != "VIRTIO_MMIO_CONFIG"]
ADDRESSES = [
    lib.VIRTIO_MMIO_QUEUE_DESC_LOW,
    lib.VIRTIO_MMIO_QUEUE_DESC_HIGH,
    lib.VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    lib.VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
    lib.VIRTIO_MMIO_QUEUE_USED_LOW,
    lib.VIRTIO_MMIO_QUEUE_USED_HIGH,
]


def queue_state(bench: TransportBench, index: int = 0) -> tuple[int, bool, int, int, int]:
    queue = bench.transport.queues[index]
    return queue.size, queue.ready, queue.descriptor_table, queue.available_ring, queue.used_ring


# --- identity, widths


def test_a_device_is_found(bench: TransportBench) -> None:
    assert bench.driver.probe() == DEVICE_ID


@pytest.mark.parametrize("width", [1, 2, 8])
def test_a_register_read_at_another_width_answers_nothing(bench: TransportBench, width: int) -> None:
    for register in REGISTERS:
        assert bench.driver.read(register, width) == b"\xff" * width


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_register_read_off_its_start_answers_nothing(bench: TransportBench, shift: int) -> None:
    for register in REGISTERS:
        assert bench.driver.read(register + shift, 4) == b"\xff" * 4


@pytest.mark.parametrize("width", [1, 2, 8])
def test_a_register_written_at_another_width_takes_nothing(bench: TransportBench, width: int) -> None:
    bench.start()
    before = vars(bench.transport).copy(), queue_state(bench)
    for register in REGISTERS:
        bench.driver.write(register, bytes(width))
        bench.driver.write(register, b"\xff" * width)
    assert (vars(bench.transport), queue_state(bench)) == before


@pytest.mark.parametrize("register", [0x0C0, 0x0F0, 0x018, 0x01C, 0x054, 0x0F8])
def test_a_register_that_is_not_there_reads_as_zero_and_takes_nothing(bench: TransportBench, register: int) -> None:
    bench.start()
    bench.driver.write_register(register, 0xFFFFFFFF)
    assert bench.driver.read_register(register) == 0
    assert bench.driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


def test_there_is_no_shared_memory(bench: TransportBench) -> None:
    # "If ... no shared memory region has this id, the length is -1" (section 4.2.2).
    for register in (lib.VIRTIO_MMIO_SHM_LEN_LOW, lib.VIRTIO_MMIO_SHM_LEN_HIGH):
        assert bench.driver.read_register(register) == 0xFFFFFFFF


def test_registers_that_are_only_written_read_as_zero(bench: TransportBench) -> None:
    bench.start()
    for register in (*ADDRESSES, lib.VIRTIO_MMIO_QUEUE_NOTIFY, lib.VIRTIO_MMIO_INTERRUPT_ACK):
        assert bench.driver.read_register(register) == 0


# --- features


def test_all_pages_of_features_are_offered(bench: TransportBench) -> None:
    ring = 1 << VIRTIO_F_INDIRECT_DESC | 1 << VIRTIO_F_EVENT_IDX
    assert bench.driver.offered_features() == FEATURES | 1 << VIRTIO_F_VERSION_1 | ring


@pytest.mark.parametrize("page", [4, 5, 0x80000000, 0xFFFFFFFF])
def test_a_page_of_features_that_is_not_there_is_empty(bench: TransportBench, page: int) -> None:
    bench.driver.begin()
    bench.driver.write_register(lib.VIRTIO_MMIO_DEVICE_FEATURES_SEL, page)
    assert bench.driver.read_register(lib.VIRTIO_MMIO_DEVICE_FEATURES) == 0
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL, page)
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES, 0xFFFFFFFF)
    assert bench.transport.acked_features == 0


def test_the_device_hears_what_was_agreed_on(bench: TransportBench) -> None:
    bench.driver.begin()
    accepted = FEATURES | 1 << VIRTIO_F_VERSION_1
    assert bench.driver.accept_features(accepted)
    assert bench.device.acked_features == accepted
    assert bench.device.has_feature(35)
    assert not bench.device.has_feature(VIRTIO_F_EVENT_IDX)


@pytest.mark.parametrize(
    "features",
    [
        0,
        FEATURES,  # no VERSION_1
        1 << VIRTIO_F_VERSION_1 | 1 << 4,  # the device's, not offered
        1 << VIRTIO_F_VERSION_1 | 1 << 33,  # the transport's, not offered: ACCESS_PLATFORM
        1 << VIRTIO_F_VERSION_1 | 1 << 127 | 1 << 126,
        2**128 - 1,
    ],
)
def test_features_that_were_not_offered_or_lack_version_1_are_refused(bench: TransportBench, features: int) -> None:
    bench.driver.begin()
    assert not bench.driver.accept_features(features)
    assert bench.driver.status == ACKNOWLEDGE | DRIVER
    assert "ack_features" not in bench.probe.calls

    assert bench.driver.accept_features(1 << VIRTIO_F_VERSION_1)  # it may try again


@pytest.mark.parametrize("status", [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER | FEATURES_OK])
def test_features_are_taken_between_driver_and_features_ok_only(bench: TransportBench, status: int) -> None:
    bench.driver.begin()
    if status & FEATURES_OK:
        bench.driver.negotiate([])
    else:
        bench.driver.reset()
        bench.driver.status = status
    before = bench.transport.acked_features
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0)
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES, 1 << 3)
    assert bench.transport.acked_features == before


# --- status


def test_a_driver_comes_up_step_by_step(bench: TransportBench) -> None:
    for status in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
        bench.driver.status = status
        assert bench.driver.status == status
    bench.driver.negotiate([])
    assert not bench.transport.driver_was_ok
    bench.driver.driver_ok()
    assert bench.driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    assert bench.transport.device_activated
    assert bench.transport.driver_was_ok


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([DRIVER], 0),
        ([FEATURES_OK], 0),
        ([DRIVER_OK], 0),
        ([ACKNOWLEDGE, ACKNOWLEDGE | FEATURES_OK], ACKNOWLEDGE),
        ([ACKNOWLEDGE, ACKNOWLEDGE | DRIVER_OK], ACKNOWLEDGE),
        ([ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK], ACKNOWLEDGE | DRIVER),
        ([ACKNOWLEDGE, ACKNOWLEDGE], ACKNOWLEDGE),
        ([0x10], 0),
        ([ACKNOWLEDGE | 0x30, ACKNOWLEDGE | 0x30 | DRIVER], ACKNOWLEDGE | DRIVER),
        ([0xFFFFFF00], 0),
    ],
)
def test_steps_out_of_order_and_bits_that_nobody_knows_are_ignored(
    bench: TransportBench, steps: list[int], expected: int
) -> None:
    for step in steps:
        bench.driver.status = step
    assert bench.driver.status == expected
    assert not bench.transport.device_activated


def test_some_drivers_take_two_steps_in_one_write(bench: TransportBench) -> None:
    bench.driver.status = ACKNOWLEDGE | DRIVER
    assert bench.driver.status == ACKNOWLEDGE | DRIVER
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1)
    bench.driver.write_register(lib.VIRTIO_MMIO_DRIVER_FEATURES, 1)
    bench.driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    assert bench.transport.device_activated


def test_all_steps_in_one_write_stop_at_features_that_were_refused(bench: TransportBench) -> None:
    bench.driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    assert bench.driver.status == ACKNOWLEDGE | DRIVER
    assert not bench.transport.device_activated


@pytest.mark.parametrize("status", [ACKNOWLEDGE, DRIVER, DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK])
def test_only_a_reset_takes_bits_back(bench: TransportBench, status: int) -> None:
    (ring, _) = bench.start()
    up = bench.driver.status
    bench.driver.status = status
    assert bench.driver.status == up
    bench.echo(ring)


def test_a_driver_that_gave_up_gets_nowhere_but_by_a_reset(bench: TransportBench) -> None:
    bench.driver.begin()
    bench.driver.status |= FAILED
    for status in (ACKNOWLEDGE | DRIVER | FAILED | FEATURES_OK, ACKNOWLEDGE | DRIVER):
        bench.driver.status = status
        assert bench.driver.status == ACKNOWLEDGE | DRIVER | FAILED
    bench.driver.write_config(0, b"X")
    assert "write_config" not in bench.probe.calls
    (ring, _) = bench.start()
    bench.echo(ring)


def test_driver_ok_twice_activates_once(bench: TransportBench) -> None:
    bench.start()
    bench.driver.driver_ok()
    assert bench.probe.calls.count("activate") == 1


# --- queues


def test_a_queue_says_its_maximum(bench: TransportBench) -> None:
    assert [bench.driver.queue_size_max(index) for index in range(3)] == [64, 16, 0]


@pytest.mark.parametrize("index", [2, 0x10000, 0x80000000, 0xFFFFFFFF])
def test_a_queue_that_is_not_there_is_never_ready_and_takes_nothing(bench: TransportBench, index: int) -> None:
    bench.driver.begin()
    bench.driver.negotiate([])
    before = [queue_state(bench, at) for at in range(2)]
    bench.driver.set_up_queue(index, bench.ring())
    assert bench.driver.read_register(lib.VIRTIO_MMIO_QUEUE_READY) == 0
    assert bench.driver.read_register(lib.VIRTIO_MMIO_QUEUE_NUM_MAX) == 0
    bench.driver.notify(index)
    assert [queue_state(bench, at) for at in range(2)] == before
    bench.run()
    assert bench.driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK


def test_a_queue_is_not_set_up_before_features_ok(bench: TransportBench) -> None:
    bench.driver.begin()
    before = queue_state(bench)
    bench.driver.set_up_queue(0, bench.ring())
    assert queue_state(bench) == before


def test_a_queue_is_not_changed_after_driver_ok(bench: TransportBench) -> None:
    # Firecracker's CVE-2026-5747 was a size that changed here.
    (ring, _) = bench.start()
    before = queue_state(bench)
    bench.driver.write_queue(0, 64, 0x1000, 0x2000, 0x3000)
    bench.driver.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 0)
    assert queue_state(bench) == before
    bench.driver.set_up_queue(1, bench.ring(1))
    bench.echo(ring)


def test_a_queue_that_is_ready_does_not_move(bench: TransportBench) -> None:
    bench.driver.begin()
    bench.driver.negotiate([])
    ring = bench.ring()
    bench.driver.set_up_queue(0, ring)
    before = queue_state(bench)
    bench.driver.write_queue(0, 64, 0x1000, 0x2000, 0x3000)
    assert queue_state(bench) == before

    bench.driver.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 0)  # until it is ready no more
    bench.driver.write_queue(0, 8, 0x1000, 0x2000, 0x3000)
    assert queue_state(bench) == (8, False, 0x1000, 0x2000, 0x3000)


def test_addresses_have_64_bits(bench: TransportBench) -> None:
    bench.driver.begin()
    bench.driver.negotiate([])
    places = (0x1122334455667788, 0x99AABBCCDDEEFF00, 0x0123456789ABCDEF)
    bench.driver.write_queue(1, 16, *places)
    assert queue_state(bench, 1)[2:] == places


def test_a_driver_may_leave_queues_out(bench: TransportBench) -> None:
    (ring,) = bench.start(queues=1)
    bench.echo(ring)
    assert [queue.ready for queue in bench.device.queues] == [True, False]
    bench.driver.notify(1)
    bench.run()
    assert bench.probe.calls.count("on_kick") == 1


def test_a_driver_may_come_up_with_no_queue_at_all(bench: TransportBench) -> None:
    bench.start(queues=0)
    assert bench.transport.device_activated
    bench.driver.notify(0)
    bench.run()
    assert not bench.driver.needs_reset
    assert bench.driver.interrupt_status == 0


def test_a_kick_by_the_register_is_one_by_the_event(bench: TransportBench) -> None:
    (ring, _) = bench.start()
    ring.add([b"x"], [1])
    bench.driver.notify(0)
    bench.run()
    assert len(ring.take_used()) == 1


def test_a_kick_before_driver_ok_is_served_after_it(bench: TransportBench) -> None:
    bench.driver.begin()
    bench.driver.negotiate([])
    ring = bench.ring()
    bench.driver.set_up_queue(0, ring)
    ring.add([b"x"], [1])
    ring.kick()
    bench.run()
    assert ring.used_idx == 0  # "MUST NOT consume buffers ... before DRIVER_OK" (section 3.1.1)
    bench.driver.driver_ok()
    bench.run()
    assert len(ring.take_used()) == 1


# --- configuration space


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
def test_configuration_is_read_at_any_width(bench: TransportBench, width: int) -> None:
    assert bench.driver.read_config(0, 12, width=width) == b"0123456789AB"


@pytest.mark.parametrize("offset", range(13))
def test_configuration_is_read_at_any_offset_and_is_zeros_past_its_end(bench: TransportBench, offset: int) -> None:
    expected = (b"0123456789AB" + bytes(20))[offset : offset + 8]
    assert bench.driver.read_config(offset, 8) == expected


@pytest.mark.parametrize("offset", [12, 100, 0xEFC, 0xEFF])
def test_past_the_end_of_the_configuration_there_are_zeros(bench: TransportBench, offset: int) -> None:
    assert bench.driver.read_config(offset, 1) == b"\0"


def test_configuration_is_written_by_a_driver_only(bench: TransportBench) -> None:
    bench.driver.write_config(0, b"X")
    bench.driver.status = ACKNOWLEDGE
    bench.driver.write_config(0, b"X")
    assert "write_config" not in bench.probe.calls
    bench.driver.status = ACKNOWLEDGE | DRIVER
    bench.driver.write_config(3, b"XY")
    assert bench.driver.read_config(0, 12) == b"012XY56789AB"


def test_a_device_that_has_nothing_to_write_ignores_writes() -> None:
    from pyvmm.virtio.device import VirtioDevice

    from core.tests.virtio.probe import transport

    class Plain(VirtioDevice):
        device_type = 42
        config = b"fixed"

    with transport(Plain()) as bench:
        bench.driver.begin()
        bench.driver.write_config(0, b"XXXX")
        bench.driver.write_config(0xE00, b"X")
        assert bench.driver.read_config(0, 5) == b"fixed"


def test_what_the_device_gets_to_write_is_its_own_copy(bench: TransportBench) -> None:
    got: list[memoryview] = []
    bench.device.write_config = lambda offset, data: got.append(data)  # type: ignore[method-assign]
    bench.driver.begin()
    buffer = bytearray(b"data")
    bench.transport.write(lib.VIRTIO_MMIO_CONFIG, memoryview(buffer))
    buffer[:] = b"gone"
    assert bytes(got[0]) == b"data"
    assert got[0].readonly
