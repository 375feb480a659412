"""The kit's driver on a real vCPU: what it is made of, each kind of access, and how it ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.testing.bare_metal import PROGRAMS
from pyvmm.testing.resources import Resources
from pyvmm.testing.vcpu_driver import CODE, SteeredGuest, VcpuDriver

from core.tests.virtio.probe import Probe

PORT = 0x700


class Memory(BusDevice):
    """Remembers what is written, at ports and in memory."""

    placements = (Placement(ports=BusRange(PORT, 8), mmio_size=4096),)

    def __init__(self) -> None:
        self.content = bytearray(16)

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = self.content[offset : offset + len(data)]

    def write(self, offset: int, data: memoryview) -> None:
        self.content[offset : offset + len(data)] = data


def test_its_bytes_are_those_of_its_source(tmp_path: Path) -> None:
    program, binary = tmp_path / "driver.o", tmp_path / "driver.bin"
    subprocess.run(["gcc", "-c", "-o", program, PROGRAMS / "driver.S"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", program, binary], check=True)
    assert binary.read_bytes() == CODE


def test_accesses_of_each_width() -> None:
    memory = Memory()
    with SteeredGuest() as guest:
        guest.machine.add_device(memory, "memory")
        (base,) = (range_.base for range_, device in guest.machine.devices.bus.devices() if device is memory)
        guest.run()
        for width, write, read, place in (
            *((width, guest.write, guest.read, base) for width in (1, 2, 4, 8)),
            *((width, guest.write_port, guest.read_port, PORT) for width in (1, 2, 4)),
        ):
            memory.content[:] = b"\xee" * 16
            write(place + 4 - width // 2, memoryview(bytes(range(1, width + 1))))
            start = 4 - width // 2
            assert memory.content[start : start + width] == bytes(range(1, width + 1))
            assert memory.content.count(0xEE) == 16 - width
            data = bytearray(width)
            read(place + start, memoryview(data))
            assert data == bytes(range(1, width + 1))
        data = bytearray(4)
        guest.read(base + 0x100000, memoryview(data))
        assert data == b"\xff" * 4


def test_interrupts_are_seen_once() -> None:
    with VcpuDriver(Probe()) as driver:
        driver.start()
        assert not driver.take_interrupt()
        for _ in range(3):
            driver.rings[0].add([b"ping"], [4])
            driver.exchange()
            driver.wait_until(driver.take_interrupt)
            assert not driver.take_interrupt()


def test_it_leaves_nothing_behind_also_when_a_test_fails() -> None:
    before = Resources.now()
    with pytest.raises(ZeroDivisionError), VcpuDriver(Probe()) as driver:
        driver.start()
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="attach went wrong"):
        VcpuDriver(_broken())
    before.assert_no_more_now()


def test_a_guest_that_crashes_is_an_assertion() -> None:
    guest = SteeredGuest()
    guest.run()
    with pytest.raises(AssertionError, match="the machine has ended"):
        guest._do(15, 0)  # behind the last operation
    guest.close()


def _broken() -> Probe:
    probe = Probe()
    probe.failing.add("attach")
    return probe
