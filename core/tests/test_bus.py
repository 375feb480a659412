"""The bus: who may be where, who is found, and what a device that fails does to the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.bus import ADDRESS_SPACE_END, Bus, BusDevice, BusError, BusRange, DeviceOverlap


class Register(BusDevice):
    """Reads as its tag, and remembers what happened."""

    def __init__(self, name: str = "register", tag: int = 0x5A) -> None:
        self.name = name
        self.tag = tag
        self.accesses: list[tuple[str, int, bytes]] = []

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)
        self.accesses.append(("read", offset, bytes(len(data))))

    def write(self, offset: int, data: memoryview) -> None:
        self.accesses.append(("write", offset, bytes(data)))


class Broken(BusDevice):
    """Raises at each access, after it has touched the data."""

    name = "broken"

    def __init__(self) -> None:
        self.calls = 0

    def read(self, offset: int, data: memoryview) -> None:
        self.calls += 1
        data[:] = bytes(len(data))
        raise RuntimeError("read went wrong")

    def write(self, offset: int, data: memoryview) -> None:
        self.calls += 1
        raise RuntimeError("write went wrong")


def read(bus: Bus, address: int, length: int = 4) -> bytes:
    """What a guest gets; garbage where nobody writes to it."""
    data = bytearray(b"\xaa" * length)
    bus.read(address, memoryview(data))
    return bytes(data)


ALL_ONES = b"\xff" * 4


# --- insert


@pytest.mark.parametrize(("base", "size"), [(0x1000, 0), (0x1000, -1), (0, 0)])
def test_a_range_of_no_size_is_refused(base: int, size: int) -> None:
    with pytest.raises(BusError, match=r"register: .*needs a size above 0"):
        Bus("MMIO").insert(Register(), base, size)


@pytest.mark.parametrize(
    ("base", "size"),
    [(ADDRESS_SPACE_END - 1, 2), (ADDRESS_SPACE_END, 1), (-1, 1), (0, ADDRESS_SPACE_END + 1), (-4, 8)],
)
def test_a_range_outside_the_address_space_is_refused(base: int, size: int) -> None:
    with pytest.raises(BusError, match=r"register: .* is outside the MMIO bus, which ends at 0xffffffffffffffff"):
        Bus("MMIO").insert(Register(), base, size)


def test_the_first_and_the_last_address_can_be_taken() -> None:
    bus = Bus("MMIO")
    bus.insert(Register(tag=1), 0, 1)
    bus.insert(Register(tag=2), ADDRESS_SPACE_END - 1, 1)
    assert (read(bus, 0, 1), read(bus, ADDRESS_SPACE_END - 1, 1)) == (b"\1", b"\2")


def test_a_port_range_ends_at_65535() -> None:
    ports = Bus("port", 0x10000)
    ports.insert(Register(), 0xFFFF, 1)
    with pytest.raises(BusError, match="outside the port bus, which ends at 0xffff"):
        ports.insert(Register(), 0xFFFE, 3)


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (0x1000, 0x1000),  # the same
        (0x1FFF, 1),  # its last byte
        (0x1000, 1),  # its first byte
        (0xFFF, 2),  # over its start
        (0x1FFF, 2),  # over its end
        (0x1800, 0x10),  # inside
        (0, 0x10000),  # around
    ],
)
def test_an_overlap_is_refused_and_names_both(base: int, size: int) -> None:
    bus = Bus("MMIO")
    bus.insert(Register("old"), 0x1000, 0x1000)
    with pytest.raises(DeviceOverlap, match=r"new: .* overlaps old at 0x1000\.\.0x1fff"):
        bus.insert(Register("new"), base, size)
    assert len(bus.devices()) == 1


def test_neighbours_do_not_overlap() -> None:
    bus = Bus("MMIO")
    for base in (0x2000, 0x1000, 0x3000):
        bus.insert(Register(tag=base >> 12), base, 0x1000)
    assert [read(bus, address, 1) for address in (0x1FFF, 0x2000, 0x2FFF, 0x3000)] == [b"\1", b"\2", b"\2", b"\3"]


def test_devices_are_listed_by_address() -> None:
    bus = Bus("MMIO")
    for base in (0x30, 0x10, 0x20):
        bus.insert(Register(str(base)), base, 1)
    assert [(range_, device.name) for range_, device in bus.devices()] == [
        (BusRange(0x10, 1), "16"),
        (BusRange(0x20, 1), "32"),
        (BusRange(0x30, 1), "48"),
    ]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), max_size=20),
    probes=st.lists(st.tuples(st.integers(0, 260), st.integers(1, 8)), max_size=30),
)
def test_lookup_agrees_with_a_list_of_all_ranges(ranges: list[tuple[int, int]], probes: list[tuple[int, int]]) -> None:
    bus = Bus("MMIO")
    inserted: list[tuple[int, int]] = []
    for base, size in ranges:
        free = all(base + size <= other or other + length <= base for other, length in inserted)
        if free:
            bus.insert(Register(tag=len(inserted)), base, size)
            inserted.append((base, size))
        else:
            with pytest.raises(DeviceOverlap):
                bus.insert(Register(), base, size)
    for address, length in probes:
        holders = [
            tag for tag, (base, size) in enumerate(inserted) if base <= address and address + length <= base + size
        ]
        expected = bytes(holders) * length if holders else b"\xff" * length
        assert read(bus, address, length) == expected


# --- access


def test_a_device_gets_the_offset_from_its_base() -> None:
    bus, device = Bus("MMIO"), Register()
    bus.insert(device, 0x1000, 0x100)
    assert bus.write(0x10FC, memoryview(b"abcd"))
    assert bus.read(0x1000, memoryview(bytearray(2)))
    assert device.accesses == [("write", 0xFC, b"abcd"), ("read", 0, b"\0\0")]


@pytest.mark.parametrize("address", [0, 0xFFF, 0x1100, ADDRESS_SPACE_END - 1])
def test_an_access_that_nobody_claims_reads_all_ones_and_writes_nothing(address: int) -> None:
    bus, device = Bus("MMIO"), Register()
    bus.insert(device, 0x1000, 0x100)
    assert read(bus, address, 1) == b"\xff"
    assert not bus.read(address, memoryview(bytearray(1)))
    assert not bus.write(address, memoryview(b"x"))
    assert device.accesses == []


@pytest.mark.parametrize(("address", "length"), [(0x10FD, 4), (0x10FF, 2), (0xFFE, 4), (0x10F9, 8)])
def test_an_access_that_straddles_an_end_of_a_range_reads_all_ones_and_writes_nothing(
    address: int, length: int
) -> None:
    bus, device = Bus("MMIO"), Register()
    bus.insert(device, 0x1000, 0x100)
    assert read(bus, address, length) == b"\xff" * length
    assert not bus.write(address, memoryview(bytes(length)))
    assert device.accesses == []


def test_an_access_that_straddles_two_devices_reaches_neither() -> None:
    bus = Bus("MMIO")
    devices = [Register("a"), Register("b")]
    for device, base in zip(devices, (0x1000, 0x1004), strict=True):
        bus.insert(device, base, 4)
    assert read(bus, 0x1002, 4) == ALL_ONES
    assert [device.accesses for device in devices] == [[], []]


def test_what_a_device_leaves_alone_reads_all_ones() -> None:
    class Half(BusDevice):
        def read(self, offset: int, data: memoryview) -> None:
            data[:2] = b"\0\0"

    bus = Bus("MMIO")
    bus.insert(Half(), 0, 8)
    bus.insert(BusDevice(), 8, 8)
    assert read(bus, 0) == b"\0\0\xff\xff"
    assert read(bus, 8) == ALL_ONES


# --- a device that fails


@pytest.mark.parametrize("access", [lambda bus: read(bus, 0), lambda bus: bus.write(0, memoryview(b"x"))])
def test_a_device_that_raises_is_logged_once_and_answers_all_ones_from_then_on(
    access: Callable[[Bus], object], caplog: pytest.LogCaptureFixture
) -> None:
    bus, device = Bus("MMIO"), Broken()
    bus.insert(device, 0, 16)

    with caplog.at_level(logging.ERROR):
        access(bus)
        for _ in range(3):
            assert read(bus, 0) == ALL_ONES
            assert not bus.write(0, memoryview(b"x"))

    assert device.calls == 1
    (record,) = caplog.records
    assert "broken" in record.getMessage()
    assert record.exc_info is not None


def test_a_device_that_raises_leaves_its_neighbours_alone() -> None:
    bus = Bus("MMIO")
    bus.insert(Broken(), 0, 4)
    bus.insert(Register(tag=7), 4, 4)
    read(bus, 0)
    assert read(bus, 4) == b"\7\7\7\7"


@pytest.mark.parametrize("same_bus", [True, False])
def test_a_device_at_two_places_fails_at_both_and_is_logged_once(
    same_bus: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bus, device = Bus("MMIO"), Broken()
    other = bus if same_bus else Bus("port")
    bus.insert(device, 0, 4)
    other.insert(device, 8, 4)
    read(bus, 0)
    assert read(other, 8) == ALL_ONES
    assert device.calls == 1
    assert len(caplog.records) == 1


def test_a_device_that_was_failed_from_outside_answers_no_more(caplog: pytest.LogCaptureFixture) -> None:
    bus, device = Bus("MMIO"), Register()
    bus.insert(device, 0, 4)
    bus.fail(device, RuntimeError("its backend went away"))
    assert read(bus, 0) == ALL_ONES
    assert device.accesses == []


# --- threads


@pytest.mark.parametrize("places", ["one", "two", "two buses"])
def test_a_device_sees_one_access_at_a_time_from_many_threads(places: str) -> None:
    class Exclusive(BusDevice):
        inside = 0
        worst = 0
        done = 0

        def write(self, offset: int, data: memoryview) -> None:
            self.inside += 1
            self.worst = max(self.worst, self.inside)
            bytes(1000)  # give the interpreter reason to switch
            self.done += 1
            self.inside -= 1

    bus, device = Bus("MMIO"), Exclusive()
    other = Bus("port") if places == "two buses" else bus
    bus.insert(device, 0, 4)
    if places != "one":
        other.insert(device, 4, 4)

    def write(bus: Bus, address: int) -> None:
        for _ in range(2000):
            bus.write(address, memoryview(b"x"))

    ways = [(bus, 0), (other, 4) if places != "one" else (bus, 0)]
    threads = [threading.Thread(target=write, args=ways[number % 2]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (device.worst, device.done) == (1, 8000)


def test_a_device_that_is_slow_does_not_hold_up_another() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(BusDevice):
        def read(self, offset: int, data: memoryview) -> None:
            entered.set()
            release.wait()

    bus = Bus("MMIO")
    bus.insert(Slow(), 0, 4)
    bus.insert(Register(tag=7), 4, 4)
    thread = threading.Thread(target=lambda: read(bus, 0))
    thread.start()
    assert entered.wait(10)

    assert read(bus, 4) == b"\7\7\7\7"

    release.set()
    thread.join()


def test_lookups_go_on_while_devices_are_inserted() -> None:
    bus = Bus("MMIO")
    bus.insert(Register(tag=9), 0x8000, 8)
    wrong: list[bytes] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            answer = read(bus, 0x8000, 1)
            if answer != b"\x09":
                wrong.append(answer)

    thread = threading.Thread(target=look)
    thread.start()
    for at in range(500):
        bus.insert(Register(), 0x7000 - at * 8, 8)
        bus.insert(Register(), 0x9000 + at * 8, 8)
    stop.set()
    thread.join()
    assert wrong == []
