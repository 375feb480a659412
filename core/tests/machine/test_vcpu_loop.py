"""What a vCPU's exits become: accesses to buses, or the end of the machine."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from pyvmm._native import lib
from pyvmm.bus import Bus, BusDevice
from pyvmm.exit_reason import End, ExitReason
from pyvmm.kvm import KvmError, VcpuExit
from pyvmm.machine.vcpu_loop import VcpuLoop

DATA = 0x40


@dataclass
class Exit:
    """The fields of an exit, and for reads of the guest what it gets."""

    reason: int
    address: int = 0
    size: int = 4
    count: int = 1
    is_write: bool = False
    data: bytes = b""
    detail: int = 0
    data_offset: int = DATA
    key: int = 0
    error: int = 0


class ScriptedVcpu:
    """A vCPU that has the exits that it is told, and is interrupted ever after."""

    index = 3

    def __init__(self, exits: Sequence[Exit | Exception]) -> None:
        self.exits = list(exits)
        self.run_area = memoryview(bytearray(4096))
        self.exit = Exit(0)
        self.read: list[bytes] = []
        self.events: list[str] = []

    def enter(self) -> int:
        if self.exits and not isinstance(self.exits[0], Exception):
            self._finish()
            vars(self.exit).update(vars(self.exits.pop(0)))  # one struct for all exits, as the real one
            self.run_area[DATA : DATA + 256] = b"\xff" * 256
            self.run_area[DATA : DATA + len(self.exit.data)] = self.exit.data
            self.exit.error = errno.EINTR if self.exit.reason == VcpuExit.INTERRUPTED else 0
            return self.exit.key
        self._finish()
        if self.exits:
            raise self.exits.pop(0)  # type: ignore[misc]
        self.exit.error, self.exit.key = errno.EIO, 0
        return 0

    def _finish(self) -> None:
        if not self.exit.is_write:
            self.read.append(bytes(self.run_area[DATA : DATA + self.exit.size * self.exit.count]))

    def enter_thread(self) -> None:
        self.events.append("enter")

    def leave_thread(self) -> None:
        self.events.append("leave")

    def exit_detail(self) -> int:
        return self.exit.detail

    def describe(self) -> str:
        return "the registers"


class Recorder(BusDevice):
    """Reads as 1, 2, 3, …, one number a call; remembers all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bytes]] = []
        self.next = 1

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.next]) * len(data)
        self.next += 1
        self.calls.append((offset, b""))

    def write(self, offset: int, data: memoryview) -> None:
        self.calls.append((offset, bytes(data)))


def serve(exits: Sequence[Exit | Exception]) -> tuple[ScriptedVcpu, Recorder, Recorder, list[ExitReason]]:
    """Run a loop over the exits: the vCPU, the devices at 0x1000 of the MMIO bus and the port bus, the reasons."""
    vcpu, mmio, ports = ScriptedVcpu(exits), Bus("MMIO"), Bus("port", 0x10000)
    memory_device, port_device = Recorder(), Recorder()
    mmio.insert(memory_device, 0x1000, 0x10)
    ports.insert(port_device, 0x1000, 0x10)
    reasons: list[ExitReason] = []
    VcpuLoop(vcpu, mmio, ports, reasons.append, reasons).run()  # type: ignore[arg-type]
    return vcpu, memory_device, port_device, reasons


@pytest.mark.parametrize("reason", [VcpuExit.MMIO, VcpuExit.IO])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_access_reaches_its_bus(reason: int, size: int) -> None:
    vcpu, memory_device, port_device, _ = serve(
        [Exit(reason, 0x1004, size, is_write=True, data=b"abcd"[:size]), Exit(reason, 0x1008, size)]
    )
    hit, missed = (memory_device, port_device) if reason == VcpuExit.MMIO else (port_device, memory_device)
    assert hit.calls == [(4, b"abcd"[:size]), (8, b"")]
    assert missed.calls == []
    assert vcpu.read[-1] == b"\1" * size


def test_an_access_of_8_bytes_to_memory_is_one() -> None:
    vcpu, device, _, _ = serve([Exit(VcpuExit.MMIO, 0x1000, 8)])
    assert vcpu.read[-1] == b"\1" * 8
    assert device.calls == [(0, b"")]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 64])
def test_string_output_is_many_writes_of_one_port(size: int, count: int) -> None:
    data = bytes(number & 0xFF for number in range(size * count))
    _, _, device, _ = serve([Exit(VcpuExit.IO, 0x1002, size, count, True, data)])
    assert device.calls == [(2, data[at : at + size]) for at in range(0, size * count, size)]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 64])
def test_string_input_is_many_reads_of_one_port(size: int, count: int) -> None:
    vcpu, _, device, _ = serve([Exit(VcpuExit.IO, 0x1002, size, count)])
    assert vcpu.read[-1] == b"".join(bytes([number + 1]) * size for number in range(count))
    assert device.calls == [(2, b"")] * count


def test_string_io_where_nobody_is_reads_all_ones() -> None:
    vcpu, _, _, _ = serve([Exit(VcpuExit.IO, 0x2000, 2, 5), Exit(VcpuExit.IO, 0x2000, 2, 5, True)])
    assert b"\xff" * 10 in vcpu.read


def test_an_interrupted_run_is_no_access_and_no_end() -> None:
    _, memory_device, port_device, reasons = serve([Exit(VcpuExit.INTERRUPTED), Exit(VcpuExit.IO, 0x1000, 1)])
    assert (memory_device.calls, port_device.calls) == ([], [(0, b"")])
    assert len(reasons) == 1


def test_a_stop_ends_the_loop_after_the_present_access() -> None:
    vcpu = ScriptedVcpu([Exit(VcpuExit.IO, 0x1000, 1, is_write=True, data=b"x")] * 3)
    reasons: list[ExitReason] = []

    class Stopper(BusDevice):
        def write(self, offset: int, data: memoryview) -> None:
            reasons.append(ExitReason(End.POWEROFF))

    ports = Bus("port")
    ports.insert(Stopper(), 0x1000, 1)
    VcpuLoop(vcpu, Bus("MMIO"), ports, reasons.append, reasons).run()  # type: ignore[arg-type]
    assert len(vcpu.exits) == 2
    assert reasons == [ExitReason(End.POWEROFF)]
    assert vcpu.events == ["enter", "leave"]


@pytest.mark.parametrize(
    ("exit_", "end", "words"),
    [
        (Exit(VcpuExit.SYSTEM_EVENT, detail=lib.KVM_SYSTEM_EVENT_SHUTDOWN), End.POWEROFF, []),
        (Exit(VcpuExit.SYSTEM_EVENT, detail=lib.KVM_SYSTEM_EVENT_RESET), End.REBOOT, []),
        (Exit(VcpuExit.SYSTEM_EVENT, detail=lib.KVM_SYSTEM_EVENT_CRASH), End.CRASH, ["system event 3"]),
        (Exit(VcpuExit.SHUTDOWN), End.CRASH, ["triple fault", "the registers"]),
        (Exit(VcpuExit.INTERNAL_ERROR, detail=1), End.CRASH, ["KVM internal error, suberror 1", "the registers"]),
        (Exit(VcpuExit.FAIL_ENTRY, detail=0x80000021), End.CRASH, ["refused to enter", "0x80000021"]),
        (Exit(VcpuExit.HLT), End.CRASH, ["exit 5"]),
        (Exit(VcpuExit.UNKNOWN, detail=77), End.CRASH, ["exit 0", "0x4d"]),
        (Exit(4711), End.CRASH, ["exit 4711"]),
    ],
)
def test_an_exit_that_is_no_access_ends_the_machine(exit_: Exit, end: End, words: list[str]) -> None:
    vcpu, _, _, (reason,) = serve([exit_, Exit(VcpuExit.IO, 0x1000)])
    assert reason.end is end
    for word in words:
        assert word in reason.detail
    assert vcpu.events == ["enter", "leave"]


def test_a_run_that_fails_is_the_hosts_failure_and_names_the_ioctl() -> None:
    vcpu, _, _, (reason,) = serve([KvmError("KVM_RUN", 14)])
    assert (reason.end, reason.detail) == (End.HOST_FAILURE, "vCPU 3: KVM_RUN: Bad address (EFAULT)")
    assert vcpu.events == ["enter", "leave"]


def test_a_bug_is_the_hosts_failure_with_its_traceback() -> None:
    _, _, _, (reason,) = serve([RuntimeError("a bug")])
    assert reason.end is End.HOST_FAILURE
    assert "Traceback" in reason.detail
    assert "RuntimeError: a bug" in reason.detail


def test_what_was_done_before_is_found_by_its_key_until_a_bus_changes() -> None:
    first, second = Recorder(), Recorder()
    bus = Bus("MMIO")
    bus.insert(first, 0x1000, 0x10)
    vcpu = ScriptedVcpu([Exit(VcpuExit.MMIO, 0x1004, key=1), Exit(VcpuExit.MMIO, 0x1004, key=1)])
    VcpuLoop(vcpu, bus, Bus("port"), lambda reason: None, []).run()  # type: ignore[arg-type]
    assert len(first.calls) == 2 and first.calls[0] == first.calls[1]

    def enter() -> int:
        if len(vcpu.exits) == 1:
            bus.insert(second, 0x2000, 0x10)
        return ScriptedVcpu.enter(vcpu)

    vcpu = ScriptedVcpu([Exit(VcpuExit.MMIO, 0x2000, key=2), Exit(VcpuExit.MMIO, 0x2000, key=2)])
    vcpu.enter = enter  # type: ignore[method-assign]
    VcpuLoop(vcpu, bus, Bus("port"), lambda reason: None, []).run()  # type: ignore[arg-type]
    assert len(second.calls) == 1
    assert vcpu.read[1] == b"\xff" * 4


class Fragile(Recorder):
    """Raises once it is told to, after it has touched the data; remembers whether its lock was held."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.locked: set[bool] = set()

    @property
    def lock(self) -> threading.Lock:
        assert self._service is not None
        return self._service.lock

    def read(self, offset: int, data: memoryview) -> None:
        self.locked.add(self.lock.locked())
        super().read(offset, data)
        if self.broken:
            raise RuntimeError("read went wrong")

    def write(self, offset: int, data: memoryview) -> None:
        self.locked.add(self.lock.locked())
        super().write(offset, data)
        if self.broken:
            raise RuntimeError("write went wrong")


def serve_fragile(exits: Sequence[Exit], before: Callable[[int, Bus, Fragile], None]) -> tuple[ScriptedVcpu, Fragile]:
    """Run a loop over the exits with a device at 0x1000 of both buses; ``before`` each of them something happens."""
    vcpu, mmio, ports, device = ScriptedVcpu(exits), Bus("MMIO"), Bus("port", 0x10000), Fragile()
    mmio.insert(device, 0x1000, 0x10)
    ports.insert(device, 0x1000, 0x10)

    def enter() -> int:
        before(len(exits) - len(vcpu.exits), mmio, device)
        return ScriptedVcpu.enter(vcpu)

    vcpu.enter = enter  # type: ignore[method-assign]
    reasons: list[ExitReason] = []
    VcpuLoop(vcpu, mmio, ports, reasons.append, reasons).run()  # type: ignore[arg-type]
    return vcpu, device


READ = Exit(VcpuExit.MMIO, 0x1004, key=1)
WRITE = Exit(VcpuExit.MMIO, 0x1004, is_write=True, data=b"abcd", key=2)
PORT = Exit(VcpuExit.IO, 0x1008, key=3)


@pytest.mark.parametrize("exit_", [READ, WRITE, PORT])
def test_an_access_that_is_known_has_the_devices_lock(exit_: Exit) -> None:
    _, device = serve_fragile([exit_] * 3, lambda at, mmio, device: None)
    assert len(device.calls) == 3
    assert device.locked == {True}
    assert not device.lock.locked()


@pytest.mark.parametrize("exit_", [READ, WRITE, PORT])
def test_a_device_that_raises_at_an_access_that_is_known_answers_no_more_on_any_bus(
    exit_: Exit, caplog: pytest.LogCaptureFixture
) -> None:
    def before(at: int, mmio: Bus, device: Fragile) -> None:
        device.broken = at >= 3

    vcpu, device = serve_fragile([READ, WRITE, PORT, exit_, READ, WRITE, PORT], before)
    assert len(device.calls) == 4
    assert vcpu.read[-2:] == [b"\xff" * 4] * 2
    assert not device.lock.locked()
    assert [record.getMessage() for record in caplog.records] == [
        "device: the device failed and does not answer any more"
    ]


def test_a_device_that_somebody_else_fails_answers_no_access_that_is_known() -> None:
    def before(at: int, mmio: Bus, device: Fragile) -> None:
        if at == 2:
            mmio.fail(device, RuntimeError("its backend went away"))

    vcpu, device = serve_fragile([READ, PORT, READ, PORT], before)
    assert len(device.calls) == 2
    assert vcpu.read[-2:] == [b"\xff" * 4] * 2


def test_an_access_where_nobody_is_reads_all_ones_each_time() -> None:
    exits = [Exit(VcpuExit.MMIO, 0x2000, key=1), Exit(VcpuExit.MMIO, 0x2000, is_write=True, data=b"abcd", key=2)]
    vcpu, memory_device, port_device, _ = serve([*exits, *exits, exits[0]])
    assert vcpu.read[1:] == [b"\xff" * 4] * 3
    assert (memory_device.calls, port_device.calls) == ([], [])


def test_a_stop_within_an_access_that_is_known_ends_the_loop_at_the_next_interruption() -> None:
    class Stopper(Recorder):
        def write(self, offset: int, data: memoryview) -> None:
            super().write(offset, data)
            if len(self.calls) == 3:
                reasons.append(ExitReason(End.POWEROFF))
                vcpu.exits.insert(0, Exit(VcpuExit.INTERRUPTED))  # as a kick does

    vcpu = ScriptedVcpu([Exit(VcpuExit.IO, 0x1000, 1, is_write=True, data=b"x", key=1)] * 5)
    reasons: list[ExitReason] = []
    ports, device = Bus("port"), Stopper()
    ports.insert(device, 0x1000, 1)
    VcpuLoop(vcpu, Bus("MMIO"), ports, reasons.append, reasons).run()  # type: ignore[arg-type]
    assert len(device.calls) == 3
    assert reasons == [ExitReason(End.POWEROFF)]


def test_a_loop_that_has_ended_keeps_nothing_of_the_vcpus_memory() -> None:
    vcpu, bus = ScriptedVcpu([READ] * 2), Bus("MMIO")
    bus.insert(Recorder(), 0x1000, 0x10)
    area = vcpu.run_area.obj
    loop = VcpuLoop(vcpu, bus, Bus("port"), lambda reason: None, [])  # type: ignore[arg-type]
    loop.run()
    vcpu.run_area.release()
    assert isinstance(area, bytearray)
    area.clear()  # raises BufferError while there is a view of it
