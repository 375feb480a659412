"""What the UART lets vCPUs' threads do by themselves, and the order of what they did and what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from pyvmm.bus import BusDevice
from pyvmm.device_context import DeviceContext
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.kvm import FastPort
from pyvmm_serial.registers import (
    UART_FCR,
    UART_IER,
    UART_IER_THRI,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_IIR_THRI,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LSR,
    UART_LSR_DR,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR,
    UART_MCR_LOOP,
    UART_MCR_RTS,
    UART_RX,
    UART_SCR,
    UART_TX,
)
from pyvmm_serial.uart import Uart

from plugins.serial.tests.linux_8250 import Linux8250
from plugins.serial.tests.wiring import FakePeer

EMPTY = UART_LSR_THRE | UART_LSR_TEMT


class FakeFastPort:
    """A fast port without a vCPU's thread (native/fastport.c)."""

    SIZE = 8192

    def __init__(self) -> None:
        self.event = EventFd()
        self.signal = self.event.signal
        self.collects = False
        self.answer: int | None = None
        self.collected = bytearray()

    def set(self, *, collect_writes: bool = False, answer: int | None = None) -> None:
        self.collects, self.answer = collect_writes, answer

    def drain(self) -> bytes:
        self.event.drain()
        data = bytes(self.collected)
        self.collected.clear()
        return data


class Guest(BusDevice):
    """A UART whose accesses go through fast ports where those are on."""

    def __init__(self) -> None:
        self.loop, self.irq, self.peer = EventLoop(), EventFd(), FakePeer()
        self.ports = {UART_TX: FakeFastPort(), UART_LSR: FakeFastPort()}
        self.calls: list[tuple[str, int]] = []
        self.uart = Uart(self.peer)
        self.events = [port.event for port in self.ports.values()]

        def fast_port(offset: int) -> FastPort:
            return cast(FastPort, self.ports[offset])

        scope = LoopScope(self.loop, self._raise)
        self.uart.attach(DeviceContext("serial0", scope, lambda reason: None, self.irq, fast_port))
        self.driver = Linux8250(self, self.irq)

    @staticmethod
    def _raise(error: BaseException) -> None:
        raise error

    @property
    def thr(self) -> FakeFastPort:
        return self.ports[UART_TX]

    @property
    def lsr(self) -> FakeFastPort:
        return self.ports[UART_LSR]

    def read(self, offset: int, data: memoryview) -> None:
        port = self.ports.get(offset)
        if port is not None and port.answer is not None:
            data[0] = port.answer
        else:
            self.calls.append(("read", offset))
            self.uart.read(offset, data)

    def write(self, offset: int, data: memoryview) -> None:
        port = self.ports.get(offset)
        if port is not None and port.collects and len(port.collected) < port.SIZE:
            if not port.collected:
                port.signal()
            port.collected += data
        else:
            self.calls.append(("write", offset))
            self.uart.write(offset, data)

    def calls_during_the_last_step(self) -> list[tuple[str, int]]:
        calls, self.calls = self.calls, []
        return calls

    def turn(self) -> None:
        """Let the event loop see to what waits."""
        while self.loop.run_once(0):
            pass


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.uart.close()
    for event in (guest.irq, *guest.events):
        event.close()
    guest.loop.close()


def test_console_output_calls_the_device_only_around_it(guest: Guest) -> None:
    guest.driver.console_write(b"a line\r\n")

    assert guest.calls_during_the_last_step() == [("write", UART_IER), ("write", UART_IER)]
    guest.turn()
    assert guest.peer.sent == b"a line\r\n"


def test_more_than_the_port_collects_stays_in_order(guest: Guest) -> None:
    text = bytes(i % 251 for i in range(FakeFastPort.SIZE * 3))

    guest.driver.console_write(text)
    guest.turn()

    assert guest.peer.sent == text


def test_what_was_collected_is_sent_before_the_next_register_is_written(guest: Guest) -> None:
    guest.driver.outb(UART_TX, ord("a"))

    guest.driver.outb(UART_SCR, 5)  # nothing follows from it
    assert (guest.peer.sent, guest.driver.inb(UART_SCR)) == (b"", 5)
    guest.driver.outb(UART_MCR, 0)

    assert guest.peer.sent == b"a"


@pytest.mark.parametrize(("register", "value"), [(UART_LCR, UART_LCR_DLAB), (UART_MCR, UART_MCR_LOOP)])
def test_thr_that_is_not_plain_is_not_collected(guest: Guest, register: int, value: int) -> None:
    guest.driver.outb(UART_TX, ord("a"))
    guest.driver.outb(register, value)
    assert not guest.thr.collects
    guest.driver.outb(UART_TX, ord("b"))
    guest.driver.outb(register, 0)
    guest.driver.outb(UART_TX, ord("c"))
    guest.turn()

    assert guest.peer.sent == b"ac"


def test_full_peer_ends_collecting_and_says_so_in_lsr(guest: Guest) -> None:
    guest.peer.full = True
    guest.driver.outb(UART_TX, ord("a"))
    guest.turn()
    assert not guest.thr.collects
    assert guest.lsr.answer == 0

    guest.peer.full = False
    guest.uart.transmitter_ready()

    assert guest.thr.collects
    assert guest.lsr.answer == EMPTY


def test_received_data_is_in_the_answer(guest: Guest) -> None:
    guest.driver.outb(UART_FCR, 1)
    guest.driver.outb(UART_MCR, UART_MCR_RTS)
    guest.peer.input += b"x"
    guest.uart.receiver_ready()
    assert guest.lsr.answer == EMPTY | UART_LSR_DR

    guest.driver.inb(UART_RX)

    assert guest.lsr.answer == EMPTY


def test_lsr_with_an_error_to_clear_is_not_answered(guest: Guest) -> None:
    guest.driver.outb(UART_MCR, UART_MCR_LOOP)
    guest.driver.outb(UART_TX, 1)
    guest.driver.outb(UART_TX, 2)
    assert guest.lsr.answer is None

    guest.driver.inb(UART_LSR)

    assert guest.lsr.answer == EMPTY | UART_LSR_DR


def test_lsr_that_may_be_polled_for_waiting_input_is_not_answered(guest: Guest) -> None:
    guest.peer.input += b"x"
    guest.uart.receiver_ready()
    guest.driver.console_write(b"." * 2000)
    assert guest.peer.input == b"x"  # the console polls as well, but between its writes

    for _ in range(300):
        guest.driver.inb(UART_LSR)

    assert guest.driver.inb(UART_RX) == ord("x")


def test_burst_behind_a_pending_interrupt_is_collected(guest: Guest) -> None:
    guest.driver.outb(UART_IER, UART_IER_THRI)
    assert guest.driver.inb(UART_IIR) == UART_IIR_THRI
    guest.irq.drain()
    guest.calls_during_the_last_step()

    for byte in range(16):
        guest.driver.outb(UART_TX, byte)

    assert guest.calls_during_the_last_step() == [("write", UART_TX)]
    assert guest.driver.inb(UART_IIR) == UART_IIR_THRI
    assert guest.driver.inb(UART_IIR) == UART_IIR_NO_INT
    assert guest.peer.sent == bytes(range(16))
    assert guest.irq.drain() == 1


def test_tty_output_is_whole_and_quiet_afterwards(guest: Guest) -> None:
    guest.driver.startup()
    guest.irq.drain()
    data = bytes(i % 251 for i in range(50_000))

    guest.driver.write(data)
    while guest.driver.serve_interrupt(timeout=0):
        guest.turn()

    assert guest.peer.sent == data
    assert not guest.driver.serve_interrupt(timeout=0)


def test_what_was_collected_is_sent_when_somebody_asks(guest: Guest) -> None:
    guest.driver.startup()
    assert guest.thr.collects
    guest.driver.outb(UART_TX, ord("x"))
    assert guest.peer.sent == b""

    guest.uart.send_all()

    assert guest.peer.sent == b"x"
