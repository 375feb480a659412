"""Ports of a guest on a real vCPU: string I/O, and ports that the vCPU's thread serves by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.device_context import DeviceContext
from pyvmm.exit_reason import End
from pyvmm.kvm import FastPort
from pyvmm.testing.bare_metal import BareMachine

PORT = 0x2F8
FREE_MEMORY = 0x400000
STEP = 0x100000
POST_SIZE = 8192

levels = pytest.mark.parametrize("user", [False, True], ids=["level 0", "level 3"])


class Sink(BusDevice):
    """Takes bytes, and gives 0, 1, 2, …"""

    placements = (Placement(ports=BusRange(PORT, 1)),)

    def __init__(self) -> None:
        self.taken = bytearray()
        self.given = 0
        self.calls = 0

    def write(self, offset: int, data: memoryview) -> None:
        self.calls += 1
        assert len(data) == 1
        self.taken += data

    def read(self, offset: int, data: memoryview) -> None:
        self.calls += 1
        data[0] = self.given & 0xFF
        self.given += 1


class FastSink(Sink):
    """Leaves what it can to the vCPU's thread, and keeps the bytes in order all the same."""

    fast: FastPort | None = None
    drains = 0

    def __init__(self, *, drain: bool = True, answer: int | None = None) -> None:
        super().__init__()
        self.drain = drain
        self.answer = answer

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        self.fast = context.fast_port(0)
        assert self.fast is not None
        self.fast.set(collect_writes=True, answer=self.answer)
        if self.drain:
            context.loop.add(self.fast.event.fd, lambda _: self.collect())

    def collect(self) -> None:
        assert self.fast is not None
        self.drains += 1
        self.taken += self.fast.drain()

    def write(self, offset: int, data: memoryview) -> None:
        self.collect()  # what was written before comes first
        super().write(offset, data)


def expected(count: int, cpu: int = 0) -> bytes:
    """What a CPU writes."""
    return bytes(cpu << 4 | number & 15 for number in range(count))


def run(machine: BareMachine, sink: Sink, count: int, cpus: int = 1) -> None:
    machine.add_device(sink, "sink")
    machine.set_parameters(count, PORT, cpus)
    assert machine.run().end is End.POWEROFF


# --- string I/O


@levels
@pytest.mark.parametrize("count", [1, 2, 4095, 4096, 4097])
def test_one_instruction_writes_many_bytes(program: Callable[..., Path], count: int, user: bool) -> None:
    with BareMachine(program("ports.c", "DO=REP_OUT"), user=user) as machine:
        sink = Sink()
        run(machine, sink, count)
        assert sink.taken == expected(count)
        assert sink.calls == count


@levels
@pytest.mark.parametrize("count", [1, 2, 4096, 5000])
def test_one_instruction_reads_many_bytes(program: Callable[..., Path], count: int, user: bool) -> None:
    with BareMachine(program("ports.c", "DO=REP_IN"), user=user) as machine:
        run(machine, Sink(), count)
        assert machine.memory.read(FREE_MEMORY, count) == bytes(number & 0xFF for number in range(count))


def test_string_io_at_a_port_that_nobody_claims_reads_all_ones(program: Callable[..., Path]) -> None:
    with BareMachine(program("ports.c", "DO=REP_IN")) as machine:
        machine.set_parameters(100, PORT, 1)
        machine.run()
        assert machine.memory.read(FREE_MEMORY, 100) == b"\xff" * 100


# --- fast ports


@levels
def test_collected_bytes_come_in_order(program: Callable[..., Path], user: bool) -> None:
    with BareMachine(program("ports.c", "DO=OUT"), user=user) as machine:
        sink = FastSink()
        run(machine, sink, 3000)
        sink.collect()
        assert sink.taken == expected(3000)
        assert sink.calls == 0


@pytest.mark.parametrize("count", [POST_SIZE - 1, POST_SIZE, POST_SIZE + 1, 2 * POST_SIZE + 3])
def test_what_is_beyond_the_room_is_a_call_and_no_byte_is_lost(program: Callable[..., Path], count: int) -> None:
    with BareMachine(program("ports.c", "DO=OUT"), user=True) as machine:
        sink = FastSink(drain=False)
        run(machine, sink, count)
        sink.collect()
        assert sink.taken == expected(count)
        assert sink.calls == count // (POST_SIZE + 1)


@pytest.mark.parametrize("cpus", [2, 4])
def test_several_vcpus_lose_no_byte_and_each_keeps_its_order(program: Callable[..., Path], cpus: int) -> None:
    count = 4000
    with BareMachine(program("ports.c", "DO=OUT"), user=True, cpus=cpus, all_cpus=True) as machine:
        sink = FastSink()
        run(machine, sink, count, cpus)
        sink.collect()
    assert len(sink.taken) == cpus * count
    for cpu in range(cpus):
        assert bytes(byte for byte in sink.taken if byte >> 4 == cpu) == expected(count, cpu)


@levels
def test_string_io_is_a_call_of_the_device_in_order_with_what_was_collected(
    program: Callable[..., Path], user: bool
) -> None:
    with BareMachine(program("ports.c", "DO=REP_OUT"), user=user) as machine:
        sink = FastSink()
        run(machine, sink, 500)
        sink.collect()
        assert sink.taken == expected(500)


def test_reads_are_answered_without_a_call(program: Callable[..., Path]) -> None:
    with BareMachine(program("ports.c", "DO=IN"), user=True) as machine:
        sink = FastSink(answer=0x61)
        run(machine, sink, 1000)
        assert machine.memory.read(FREE_MEMORY, 1000) == b"\x61" * 1000
        assert sink.calls == 0


def test_a_fast_port_that_is_off_is_as_any_port(program: Callable[..., Path]) -> None:
    with BareMachine(program("ports.c", "DO=IN"), user=True) as machine:
        sink = FastSink()
        machine.add_device(sink, "sink")
        assert sink.fast is not None
        sink.fast.set()
        machine.set_parameters(256, PORT, 1)
        machine.run()
        assert machine.memory.read(FREE_MEMORY, 256) == bytes(range(256))
        assert sink.calls == 256


def test_a_flood_into_a_device_that_takes_its_time_costs_no_memory(program: Callable[..., Path]) -> None:
    with BareMachine(program("ports.c", "DO=OUT"), user=True) as machine:
        sink = FastSink(drain=False)
        longest = 0

        def collect() -> None:
            nonlocal longest
            assert sink.fast is not None
            longest = max(longest, len(sink.fast.drain()))

        sink.collect = collect  # type: ignore[method-assign]
        run(machine, sink, 20_000)
        assert longest == POST_SIZE
