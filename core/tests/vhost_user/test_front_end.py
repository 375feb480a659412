"""The front end with our own back end: what a driver sees of a device that others serve."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from pyvmm._native import lib
from pyvmm.errors import PyvmmError
from pyvmm.testing.mmio_driver import FAILED, FEATURES_OK
from pyvmm.testing.virtio_driver import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VirtioDriver
from pyvmm.testing.waiting import wait_until
from pyvmm.virtio.device import VirtioDevice

from core.tests.vhost_user.served import CONFIG_SIZE, Mirror, Threaded, driver_of, front_end

CONFIG_CHANGED = lib.VIRTIO_MMIO_INT_CONFIG
USED = lib.VIRTIO_MMIO_INT_VRING


@pytest.fixture
def source() -> Threaded:
    """A back end that serves a Mirror."""
    return Threaded()


@pytest.fixture
def driver(source: Threaded) -> Iterator[VirtioDriver]:
    """A driver of its front end, not started."""
    with driver_of(source) as driver:
        yield driver


def exchange(driver: VirtioDriver, queue: int = 0, data: bytes = b"hello") -> bytes:
    """What the device answers."""
    chain = driver.rings[queue].add([data], [len(data)])
    driver.exchange(queue)
    return chain.written()


def mirror(source: Threaded) -> Mirror:
    """The device, once it is active if it is started: that is so a moment after the driver's DRIVER_OK."""
    device = source.device
    assert isinstance(device, Mirror)
    wait_until(lambda: not source.is_started or device.queues)
    return device


def test_device_offers_what_its_back_end_offers(driver: VirtioDriver) -> None:
    ring = 1 << VIRTIO_F_EVENT_IDX | 1 << VIRTIO_F_INDIRECT_DESC
    assert driver.offered_features() == 0b101 | ring | 1 << lib.VIRTIO_F_VERSION_1
    assert driver.probe() == 4


def test_features_can_be_withheld(source: Threaded) -> None:
    with driver_of(source, feature_mask=0b001) as driver:
        assert driver.offered_features() & 0xFFFFFF == 0b001


def test_requests_of_all_queues_are_served(driver: VirtioDriver) -> None:
    driver.start()
    for queue in (0, 1, 0, 1):
        assert exchange(driver, queue) == b"olleh"


@pytest.mark.parametrize("features", [[], [VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_EVENT_IDX]])
def test_rings_work_with_each_of_their_features(driver: VirtioDriver, features: list[int]) -> None:
    driver.start(features, indirect=VIRTIO_F_INDIRECT_DESC in features)
    for i in range(300):
        data = b"%d" % i
        assert exchange(driver, 1, data) == data[::-1]


def test_queue_that_the_driver_left_out_is_no_concern_of_the_others(driver: VirtioDriver) -> None:
    driver.start(queue_sizes=[0, 32])
    assert exchange(driver, 1) == b"olleh"


def test_interrupt_is_for_a_used_ring_until_acknowledged(driver: VirtioDriver) -> None:
    driver.start()
    assert driver.interrupt_status == 0
    exchange(driver, 0)
    exchange(driver, 1)
    assert driver.take_interrupt()
    assert driver.interrupt_status == USED
    driver.acknowledge(USED)
    assert driver.interrupt_status == 0


def test_entry_used_between_look_and_acknowledgement_is_not_lost(driver: VirtioDriver) -> None:
    driver.start()
    exchange(driver, 0)
    assert driver.interrupt_status == USED
    exchange(driver, 1)
    driver.acknowledge(USED)
    assert driver.interrupt_status == USED


def test_interrupt_tells_config_and_used_ring_apart(driver: VirtioDriver, source: Threaded) -> None:
    driver.start()
    source.loop.call(mirror(source).interrupt.signal_config_change)
    driver.run_until(lambda: driver.interrupt_status == CONFIG_CHANGED)
    exchange(driver)
    assert driver.interrupt_status == CONFIG_CHANGED | USED
    driver.acknowledge(CONFIG_CHANGED)
    assert driver.interrupt_status == USED


def test_used_index_that_has_gone_round_is_seen_with_event_idx(driver: VirtioDriver) -> None:
    driver.start([VIRTIO_F_EVENT_IDX])
    ring = driver.rings[0]
    exchange(driver)
    driver.acknowledge(driver.interrupt_status)
    assert driver.interrupt_status == 0
    # 65,536 entries that the driver saw without an interrupt, but for the last.
    ring.used_event = ring.used_idx - 1
    assert driver.interrupt_status == USED


def test_config_space_is_the_back_ends(driver: VirtioDriver) -> None:
    assert driver.read_config(0, CONFIG_SIZE) == bytes(range(CONFIG_SIZE))
    assert driver.read_config(12, 8) == bytes([12, 13, 14, 15, 0, 0, 0, 0])


def test_config_write_reaches_the_back_end_and_is_read_back(driver: VirtioDriver, source: Threaded) -> None:
    driver.start()
    driver.write_config(4, b"\xaa\xbb")
    assert mirror(source).config[4:6] == b"\xaa\xbb"
    assert driver.read_config(3, 4) == b"\x03\xaa\xbb\x06"


def test_config_write_past_the_end_is_ignored(driver: VirtioDriver) -> None:
    driver.start()
    driver.write_config(CONFIG_SIZE - 1, b"\xaa\xbb")
    driver.write_config(4000, b"\xaa")
    assert driver.read_config(0, CONFIG_SIZE) == bytes(range(CONFIG_SIZE))
    assert not driver.needs_reset


def test_config_change_interrupts_and_shows_the_new_contents(driver: VirtioDriver, source: Threaded) -> None:
    driver.start()
    generation = driver.config_generation

    def change() -> None:
        mirror(source).config[0] = 0x77
        mirror(source).interrupt.signal_config_change()

    source.loop.call(change)
    driver.run_until(driver.take_interrupt)
    assert driver.interrupt_status == CONFIG_CHANGED
    assert driver.config_generation != generation
    assert driver.read_config(0, 1) == b"\x77"


def test_config_that_depends_on_features_is_read_after_them() -> None:
    class Dependent(Mirror):
        def ack_features(self, page: int, value: int) -> None:
            super().ack_features(page, value)
            self.config[0] = 0x50 | self.acked_features & 1

    with driver_of(Threaded(Dependent)) as driver:
        driver.begin()
        driver.negotiate([0])
        assert driver.read_config(0, 1) == b"\x51"


def test_local_config_needs_no_back_end(source: Threaded) -> None:
    with driver_of(source, config=b"local") as driver:
        driver.start()
        driver.write_config(0, b"x")
        assert driver.read_config(0, 8) == b"local\0\0\0"


def test_device_is_reset_and_activated_again(driver: VirtioDriver) -> None:
    for sizes in ([64, 128], [2, 4], [0, 8], [64, 128]):
        driver.start(queue_sizes=sizes)
        for queue in (i for i, size in enumerate(sizes) if size):
            assert exchange(driver, queue) == b"olleh"
        driver.reset()
        assert driver.status == 0


def test_reset_device_lets_go_of_guest_memory(driver: VirtioDriver, source: Threaded) -> None:
    driver.start()
    mirror(source).hold = True
    ring = driver.rings[0]
    chain = ring.add([b"hello"], [5])
    ring.kick()
    driver.run_until(lambda: bool(mirror(source).held))
    driver.reset()
    mirror(source).hold = False
    ring.add([b"hello"], [5])
    driver.transport.queues[0].event.signal()
    for _ in range(2):  # the turn in which the back end would hear of the kick, and one after it
        source.loop.call(lambda: None)
    assert chain.written() == b"\xa5" * 5
    assert ring.used_idx == 0


def test_driver_that_breaks_a_ring_gets_needs_reset(
    driver: VirtioDriver, source: Threaded, caplog: pytest.LogCaptureFixture
) -> None:
    driver.start()
    ring = driver.rings[0]
    ring.make_available(999)
    ring.kick()
    driver.run_until(lambda: driver.needs_reset)
    assert driver.interrupt_status & CONFIG_CHANGED
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any("outside the descriptor table" in line for line in lines)
    driver.start()
    assert exchange(driver) == b"olleh"


def test_ring_that_is_broken_from_the_start_is_refused_here(driver: VirtioDriver) -> None:
    driver.begin()
    driver.negotiate()
    driver.write_queue(0, 64, 0x1000, 0x1000, 0x1000)
    driver.write_register(lib.VIRTIO_MMIO_QUEUE_READY, 1)
    driver.driver_ok()
    assert driver.needs_reset
    driver.start()
    assert exchange(driver) == b"olleh"


def test_back_end_that_goes_away_fails_the_device(
    driver: VirtioDriver, source: Threaded, caplog: pytest.LogCaptureFixture
) -> None:
    driver.start()
    source.die()
    driver.run_until(lambda: driver.needs_reset)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "device0: the test's back end: the other side has disconnected; it is not served until the driver resets it"
    ]
    assert errors[0].exc_info is None
    assert driver.read_config(0, 2) == b"\0\1"
    driver.write_config(0, b"x")
    driver.reset()
    assert driver.status & FAILED


def test_back_end_that_went_before_the_driver_came_is_noticed(driver: VirtioDriver, source: Threaded) -> None:
    source.die()
    driver.begin()
    driver.accept_features(1 << lib.VIRTIO_F_VERSION_1)
    assert not driver.status & FEATURES_OK
    assert driver.needs_reset


def test_back_end_is_told_to_end_when_the_device_is_closed(source: Threaded) -> None:
    closed = []

    class Closing(Mirror):
        def close(self) -> None:
            closed.append(self)

    source.make = Closing
    with driver_of(source) as driver:
        driver.start()
    assert closed == source.devices


def test_nothing_is_left_open(source: Threaded) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with driver_of(Threaded()) as driver:
            driver.start()
            exchange(driver)
    assert len(os.listdir("/proc/self/fd")) == before
    source.close()


def test_back_end_with_too_few_queues_is_refused(source: Threaded) -> None:
    with pytest.raises(PyvmmError, match="2 queues, not 3"):
        front_end(source, queue_max_sizes=(64, 64, 64))


def test_device_whose_configuration_fails_to_be_read_is_refused() -> None:
    class Broken(Mirror):
        def read_config(self, offset: int, data: memoryview) -> None:
            raise RuntimeError("it cannot be read")

    with pytest.raises(PyvmmError, match="no 16 bytes of configuration space"):
        front_end(Threaded(Broken))


# --- Another back end in place of a lost one


@pytest.fixture
def lasting() -> Threaded:
    """A back end that comes back."""
    return Threaded(restartable=True)


def test_requests_in_flight_are_done_by_the_next_back_end(lasting: Threaded) -> None:
    with driver_of(lasting) as driver:
        driver.start()
        assert exchange(driver) == b"olleh"
        mirror(lasting).hold = True
        ring = driver.rings[0]
        chains = [ring.add([b"%04d" % i], [4]) for i in range(20)]
        ring.kick()
        driver.run_until(lambda: len(mirror(lasting).held) == 20)
        lasting.die()
        used = driver.wait_used(0, 20)
        assert [entry.chain for entry in used] == chains
        assert [chain.written() for chain in chains] == [(b"%04d" % i)[::-1] for i in range(20)]
        assert driver.take_interrupt()
        assert driver.interrupt_status == USED
        assert len(lasting.devices) == 2
        for _ in range(100):
            assert exchange(driver) == b"olleh"


def test_requests_done_out_of_order_are_not_done_twice(lasting: Threaded) -> None:
    class Every2nd(Mirror):
        def on_kick(self, queue):  # type: ignore[no-untyped-def]
            for i, chain in enumerate(queue):
                if i % 2 or len(lasting.devices) > 1:
                    self.served += 1
                    chain.complete(chain.write(0, chain.read(0, 100)[::-1]))
                else:
                    self.held.append(chain)

    lasting.make = Every2nd
    with driver_of(lasting) as driver:
        driver.start()
        ring = driver.rings[1]
        for i in range(50):
            ring.add([b"%04d" % i], [4])
        ring.kick()
        done = driver.wait_used(1, 25)
        lasting.die()
        done += driver.wait_used(1, 25)
        assert sorted(entry.head for entry in done) == sorted({entry.head for entry in done})
        assert [device.served for device in lasting.devices if isinstance(device, Mirror)] == [25, 25]
        assert ring.in_flight == 0


def test_requests_made_while_there_is_no_back_end_are_done(lasting: Threaded) -> None:
    with driver_of(lasting) as driver:
        driver.start()
        lasting.die()
        for _ in range(10):
            assert exchange(driver) == b"olleh"


def test_next_back_end_gets_the_drivers_configuration(lasting: Threaded) -> None:
    with driver_of(lasting) as driver:
        driver.start()
        driver.write_config(2, b"\x99")
        driver.write_config(2, b"\x98")
        driver.write_config(7, b"\x97")
        lasting.die()
        assert exchange(driver) == b"olleh"
        assert mirror(lasting).config[2] == 0x98
        assert mirror(lasting).config[7] == 0x97
        assert mirror(lasting).acked_features & 0b101 == 0b101
        assert driver.read_config(2, 1) == b"\x98"


def test_back_end_lost_at_each_step_of_the_driver_is_made_good(lasting: Threaded) -> None:
    with driver_of(lasting) as driver:
        lasting.die()
        driver.begin()
        lasting.die()
        driver.negotiate()
        lasting.die()
        driver.reset()
        driver.start()
        lasting.die()
        driver.reset()
        assert driver.status == 0
        driver.start()
        assert exchange(driver) == b"olleh"
        assert not driver.needs_reset


def test_back_end_that_dies_again_and_again_fails_the_device(
    lasting: Threaded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.vhost_user.front_end.RESTART_WINDOW", float("inf"))
    with driver_of(lasting) as driver:
        driver.start()
        while not driver.needs_reset:
            known = len(lasting.devices)
            lasting.die()
            driver.run_until(lambda known=known: len(lasting.devices) > known or driver.needs_reset)  # type: ignore[misc]
        assert driver.needs_reset
        assert sum("a new one replaces it" in record.getMessage() for record in caplog.records) == 5
        driver.reset()
        assert driver.status & FAILED


def test_next_back_end_that_lacks_a_feature_fails_the_device(
    lasting: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.vhost_user.front_end.RESTART_TIMEOUT", 0.3)
    with driver_of(lasting) as driver:
        driver.start()

        def without() -> VirtioDevice:
            device = Mirror()
            device.device_features = 0
            return device

        lasting.make = without
        lasting.die()
        driver.run_until(lambda: driver.needs_reset)


def test_reset_after_a_restart_begins_anew(lasting: Threaded) -> None:
    with driver_of(lasting) as driver:
        driver.start()
        mirror(lasting).hold = True
        ring = driver.rings[0]
        ring.add([b"hello"], [5])
        ring.kick()
        driver.run_until(lambda: bool(mirror(lasting).held))
        lasting.make = lambda: _holding()
        lasting.die()
        driver.run_until(lambda: len(lasting.devices) == 2 and bool(mirror(lasting).held))
        lasting.make = Mirror
        mirror(lasting).hold = False
        driver.start()
        assert exchange(driver) == b"olleh"
        assert mirror(lasting).served == 1


def _holding() -> Mirror:
    device = Mirror()
    device.hold = True
    return device
