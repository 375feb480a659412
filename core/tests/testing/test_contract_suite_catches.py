"""The contract suite catches devices that do wrong: each of these has one fault, and the test that is to find it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partialmethod

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.memory import GuestMemory
from pyvmm.testing.contract import BusDeviceContract, VirtioDeviceContract
from pyvmm.testing.hostile_ring import CHAINS
from pyvmm.testing.queue_driver import QueueDriver
from pyvmm.testing.resources import Resources
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.interrupt import Interrupt
from pyvmm.virtio.queue import DescriptorChain, Queue, QueueError


class Sound(VirtioDevice):
    """Does nothing wrong: answers each request with what it reads, up to 64 bytes."""

    device_type = 42
    queue_max_sizes = (16,)
    config = b"config"

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            chain.complete(chain.write(0, chain.read(0, 64)))


class WritesAfterReset(Sound):
    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            self.context.loop.loop.post(lambda chain=chain: chain.write(0, b"too late"))  # type: ignore[misc]


class LeaksDescriptors(Sound):
    def __init__(self) -> None:
        self.files: list[int] = []

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        super().activate(mem, interrupt, queues)
        self.files.append(os.open("/dev/null", os.O_RDONLY))

    def close(self) -> None:
        for fd in self.files:
            os.close(fd)


class LeaksThreads(Sound):
    def __init__(self) -> None:
        self.ended = threading.Event()

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        super().activate(mem, interrupt, queues)
        threading.Thread(target=self.ended.wait, daemon=True).start()

    def close(self) -> None:
        self.ended.set()


class CopiesWholeRequests(Sound):
    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            chain.write(0, bytes(min(chain.writable_length, 64 << 20)))
            chain.complete()


class ConfigFromNowhere(Sound):
    def read_config(self, offset: int, data: memoryview) -> None:
        data[:] = b"\xff" * len(data)


class ConfigByWordsOnly(Sound):
    def read_config(self, offset: int, data: memoryview) -> None:
        if len(data) == 4:
            super().read_config(offset, data)


class WritableConfig(Sound):
    def write_config(self, offset: int, data: memoryview) -> None:
        if offset == 0:
            self.config = bytes(data)


class FailsWithoutItsFeature(Sound):
    device_features = 1 << 5

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        super().activate(mem, interrupt, queues)
        if not self.has_feature(5):
            raise RuntimeError("what now?")


class OffersReservedFeature(Sound):
    device_features = 1 << 40


class OddQueue(Sound):
    queue_max_sizes = (24,)


class SwallowsBrokenRules(Sound):
    def on_kick(self, queue: Queue) -> None:
        try:
            super().on_kick(queue)
        except QueueError:
            pass


class RemembersTheLoop(Sound):
    """Waits for a timer before it answers, and takes a plain flag for it."""

    def __init__(self) -> None:
        self.waits = False
        self.chains: list[DescriptorChain] = []

    def on_kick(self, queue: Queue) -> None:
        if not self.waits:
            self.waits = True
            self.context.loop.post(lambda: self.answer(queue))

    def answer(self, queue: Queue) -> None:
        self.waits = False
        super().on_kick(queue)

    def reset(self) -> bool:
        self.waits = False
        return super().reset()


class ForgetsItsState(Sound):
    """Counts requests where nobody saves it."""

    class Counter:
        count = 0

    def __init__(self) -> None:
        self.counter = self.Counter()

    def on_kick(self, queue: Queue) -> None:
        for chain in queue:
            self.counter.count += 1
            chain.complete()

    def read_config(self, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.counter.count]) * len(data)


class StaysBroken(Sound):
    broken = False

    def on_kick(self, queue: Queue) -> None:
        if self.broken:
            raise RuntimeError("still broken")
        self.broken = True
        super().on_kick(queue)
        self.broken = False


def suite(make: type[VirtioDevice]) -> VirtioDeviceContract:
    """The suite, with a device that has one queue which answers."""

    class Suite(VirtioDeviceContract):
        cycles = 3

        def make(self) -> VirtioDevice:
            return make()

        def exercise(self, driver: QueueDriver) -> None:
            driver.rings[0].add([b"x"], [64])
            driver.exchange(timeout=PATIENCE if make is Sound else 1)
            assert not driver.needs_reset

    return Suite()


FAULTS: dict[type[VirtioDevice], str] = {
    WritesAfterReset: "test_a_reset_amid_requests_ends_all_access_to_memory",
    LeaksDescriptors: "test_many_drivers_leave_nothing_behind",
    LeaksThreads: "test_many_drivers_leave_nothing_behind",
    CopiesWholeRequests: "test_requests_of_4_gib_take_no_memory_of_the_host",
    ConfigFromNowhere: "test_config_past_the_end_reads_as_zeros",
    ConfigByWordsOnly: "test_config_reads_the_same_by_bytes_and_by_words",
    WritableConfig: "test_config_changes_only_where_a_driver_may_write",
    FailsWithoutItsFeature: "test_takes_a_driver_that_knows_no_feature",
    OffersReservedFeature: "test_offers_version_1_and_no_reserved_feature",
    OddQueue: "test_has_an_id_and_queues_of_valid_sizes",
    RemembersTheLoop: "test_goes_on_after_save_and_load_amid_requests",
    ForgetsItsState: "test_goes_on_after_save_and_load",
}


@pytest.mark.parametrize("device", FAULTS, ids=lambda device: device.__name__)
def test_the_fault_is_found(device: type[VirtioDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(suite(Sound), FAULTS[device])()
    monkeypatch.setattr(Resources, "assert_no_more_now", partialmethod(Resources.assert_no_more_now, timeout=0))
    with pytest.raises(AssertionError):
        getattr(suite(device), FAULTS[device])()


class Port(BusDevice):
    """Does nothing wrong."""

    placements: Sequence[Placement] = (Placement(ports=BusRange(0x500, 4)),)

    def __init__(self) -> None:
        self.value = 0

    def read(self, offset: int, data: memoryview) -> None:
        data[0] = self.value

    def write(self, offset: int, data: memoryview) -> None:
        self.value = data[0]


class TakesBytesOnly(Port):
    def write(self, offset: int, data: memoryview) -> None:
        (self.value,) = data


class Grows(Port):
    def __init__(self) -> None:
        super().__init__()
        self.log = b""

    def write(self, offset: int, data: memoryview) -> None:
        self.log += bytes(data)


class ForgetsItsValue(Port):
    def __init__(self) -> None:
        self.values = iter(range(256))

    def read(self, offset: int, data: memoryview) -> None:
        data[0] = next(self.values, 0)

    def write(self, offset: int, data: memoryview) -> None:
        pass


class LeaksFiles(Port):
    files: list[int] = []  # noqa: RUF012 - to be closed by the test

    def __init__(self) -> None:
        super().__init__()
        self.files.append(os.open("/dev/null", os.O_RDONLY))


class Nowhere(Port):
    placements = (Placement(ports=BusRange(0x500, 4), acpi_hid="a clock"),)


BUS_FAULTS: dict[Callable[[], BusDevice], str] = {
    Grows: "test_a_guest_that_floods_it_does_not_make_it_grow",
    ForgetsItsValue: "test_goes_on_after_save_and_load",
    LeaksFiles: "test_many_machines_leave_nothing_behind",
    Nowhere: "test_says_where_it_wants_to_be",
    TakesBytesOnly: "test_answers_accesses_of_any_width_anywhere",
}


@pytest.mark.parametrize("device", BUS_FAULTS, ids=lambda device: device.__name__)
def test_the_fault_at_a_port_is_found(
    device: Callable[[], BusDevice], request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def test(make: Callable[[], BusDevice]) -> None:
        class Suite(BusDeviceContract):
            cycles = 3

            def make(self) -> BusDevice:
                return make()

        method = getattr(Suite(), BUS_FAULTS[device])
        method(*[caplog] * (method.__code__.co_argcount - 1))

    test(Port)
    try:
        with pytest.raises(AssertionError):
            test(device)
    finally:
        while LeaksFiles.files:
            os.close(LeaksFiles.files.pop())


def test_a_swallowed_rule_is_found(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    suite(Sound).test_chain_that_breaks_the_rules(CHAINS[0], caplog)
    monkeypatch.setattr(VirtioDriver, "run_until", partialmethod(VirtioDriver.run_until, timeout=0.01))
    with pytest.raises(AssertionError, match="did not come true"):
        suite(SwallowsBrokenRules).test_chain_that_breaks_the_rules(CHAINS[0], caplog)


def test_a_device_that_stays_broken_is_found(caplog: pytest.LogCaptureFixture) -> None:
    suite(Sound).test_broken_queue_fails_after_good_requests_too(caplog)
    with pytest.raises(AssertionError):
        suite(StaysBroken).test_broken_queue_fails_after_good_requests_too(caplog)


def test_a_suite_has_to_say_how_its_device_is_made() -> None:
    class Nothing(VirtioDeviceContract):
        pass

    with pytest.raises(NotImplementedError, match="Nothing has to say how its device is made"):
        Nothing().test_works()
