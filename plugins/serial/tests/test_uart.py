"""The registers, one by one, as the PC16550D datasheet has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm_serial import registers
from pyvmm_serial.registers import (
    UART_DLL,
    UART_DLM,
    UART_FCR,
    UART_FCR_CLEAR_RCVR,
    UART_FCR_ENABLE_FIFO,
    UART_IER,
    UART_IER_RDI,
    UART_IER_THRI,
    UART_IIR,
    UART_IIR_MSI,
    UART_IIR_NO_INT,
    UART_IIR_RDI,
    UART_IIR_RLSI,
    UART_IIR_RX_TIMEOUT,
    UART_IIR_THRI,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LSR,
    UART_LSR_DR,
    UART_LSR_OE,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR,
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DCTS,
    UART_MSR_DDCD,
    UART_MSR_DDSR,
    UART_MSR_DSR,
    UART_MSR_RI,
    UART_RX,
    UART_SCR,
    UART_TX,
)
from pyvmm_serial.uart import Uart

from plugins.serial.tests.wiring import Bench, bench

READY = UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2


@pytest.fixture(name="b")
def _bench() -> Iterator[Bench]:
    with bench() as one:
        yield one


def test_constants_are_those_of_the_kernels_header() -> None:
    header = Path("/usr/include/linux/serial_reg.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed: linux-libc-dev has it")
    defined = dict(re.findall(r"^#define\s+(UART_\w+)\s+(0x[0-9a-fA-F]+|\d+)\b", header.read_text(), re.M))
    ours = {name: value for name, value in vars(registers).items() if name.startswith("UART_")}

    assert {name: int(defined[name], 0) for name in ours if name in defined} == {
        name: value for name, value in ours.items() if name in defined
    }
    names = {"UART_IIR_FIFO_ENABLED", "UART_LSR_BRK_ERROR_BITS", "UART_MSR_ANY_DELTA"}
    assert ours.keys() - defined.keys() == names - defined.keys()  # newer headers have more of them


def test_after_reset_the_transmitter_is_empty_and_nothing_else_is(b: Bench) -> None:
    assert [b.driver.inb(offset) for offset in range(8)] == [0, 0, 0x01, 0, 0, 0x60, 0xB0, 0]


def test_registers_keep_only_the_bits_that_a_16550a_has(b: Bench) -> None:
    for offset, mask in ((UART_IER, 0x0F), (UART_LCR, 0xFF), (UART_MCR, 0x1F), (UART_SCR, 0xFF)):
        b.driver.outb(offset, 0xFF)
        assert b.driver.inb(offset) == mask
        b.driver.outb(offset, 0)


def test_lsr_and_msr_cannot_be_written(b: Bench) -> None:
    b.driver.outb(UART_LSR, 0)
    b.driver.outb(UART_MSR, 0)

    assert (b.driver.inb(UART_LSR), b.driver.inb(UART_MSR)) == (0x60, 0xB0)


def test_divisor_hides_data_and_ier_behind_dlab(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_RDI)
    b.driver.outb(UART_LCR, UART_LCR_DLAB)
    b.driver.outb(UART_DLL, 0x34)
    b.driver.outb(UART_DLM, 0x12)

    assert (b.driver.inb(UART_DLL), b.driver.inb(UART_DLM)) == (0x34, 0x12)
    b.driver.outb(UART_LCR, 0)
    assert b.driver.inb(UART_IER) == UART_IER_RDI
    assert b.peer.sent == b""


def test_thr_is_transmitted(b: Bench) -> None:
    for byte in b"hello":
        b.driver.outb(UART_TX, byte)

    assert b.peer.sent == b"hello"


def test_many_writes_to_thr_at_once_are_transmitted(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_THRI)
    b.driver.inb(UART_IIR)
    b.edges()

    b.uart.transmit(b"hello")

    assert b.peer.sent == b"hello"
    assert b.edges() == 1


@pytest.mark.parametrize("size", [2, 4, 8])
def test_wide_access_is_one_a_byte_lane(b: Bench, size: int) -> None:
    written = bytes((0x41, 0x00, 0x01, 0x03, 0x0B, 0x00, 0x00, 0x5A))[:size]
    b.uart.write(0, memoryview(written))
    data = memoryview(bytearray(b"\xff" * size))
    b.uart.read(0, data)

    assert b.peer.sent == b"A"
    assert bytes(data) == bytes((0, 0, (0xC1 if size > 2 else 0), 0x03, 0x0B, 0x60, 0xB0, 0x5A))[:size]


@pytest.mark.parametrize(("fcr", "size"), [(0, 1), (1, 16)])
def test_receiver_holds_what_its_fifo_does_and_leaves_the_rest_with_the_peer(b: Bench, fcr: int, size: int) -> None:
    b.driver.outb(UART_FCR, fcr)
    b.driver.outb(UART_MCR, READY)
    b.peer.input += bytes(range(100))
    b.uart.receiver_ready()

    assert len(b.peer.input) == 100 - size
    assert bytes(b.driver.inb(UART_RX) for _ in range(100)) == bytes(range(100))
    assert b.driver.inb(UART_LSR) == 0x60


def test_input_waits_for_rts(b: Bench) -> None:
    b.driver.outb(UART_FCR, 1)
    b.peer.input += b"typed ahead"
    b.uart.receiver_ready()
    assert not b.driver.inb(UART_LSR) & UART_LSR_DR

    b.driver.outb(UART_MCR, READY)

    assert b.driver.inb(UART_LSR) & UART_LSR_DR
    assert bytes(b.driver.inb(UART_RX) for _ in range(11)) == b"typed ahead"


def test_input_reaches_a_driver_that_polls_without_ever_raising_rts(b: Bench) -> None:
    b.peer.input += b"x"
    b.uart.receiver_ready()

    for _ in range(10_000):
        if b.driver.inb(UART_LSR) & UART_LSR_DR:
            break

    assert b.driver.inb(UART_RX) == ord("x")


def test_polling_to_transmit_does_not_call_for_input(b: Bench) -> None:
    b.peer.input += b"x"
    b.uart.receiver_ready()

    b.driver.console_write(b"." * 2000)
    b.peer.full = True
    b.driver.console_write(b"..", polls=2000)

    assert b.peer.input == b"x"


def test_empty_receiver_reads_zero(b: Bench) -> None:
    assert b.driver.inb(UART_RX) == 0


@pytest.mark.parametrize(("trigger", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_iir_says_data_from_the_trigger_level_on_and_timeout_below(b: Bench, trigger: int, level: int) -> None:
    b.driver.outb(UART_FCR, UART_FCR_ENABLE_FIFO | trigger)
    b.driver.outb(UART_MCR, READY)
    b.driver.outb(UART_IER, UART_IER_RDI)

    for count in range(1, 17):
        b.peer.input += b"x"
        b.uart.receiver_ready()
        assert b.driver.inb(UART_IIR) & 0x0F == (UART_IIR_RDI if count >= level else UART_IIR_RX_TIMEOUT)


def test_input_is_one_edge_until_it_was_read(b: Bench) -> None:
    b.driver.outb(UART_FCR, UART_FCR_ENABLE_FIFO | 0x80)
    b.driver.outb(UART_MCR, READY)
    b.driver.outb(UART_IER, UART_IER_RDI)
    for _ in range(5):
        b.peer.input += b"x"
        b.uart.receiver_ready()
    assert b.edges() == 1

    while b.driver.inb(UART_LSR) & UART_LSR_DR:
        b.driver.inb(UART_RX)
    assert b.driver.inb(UART_IIR) & UART_IIR_NO_INT
    b.peer.input += b"x"
    b.uart.receiver_ready()

    assert b.edges() == 1


def test_what_is_left_below_the_trigger_level_is_an_edge_of_its_own(b: Bench) -> None:
    b.driver.outb(UART_FCR, UART_FCR_ENABLE_FIFO | 0x80)
    b.driver.outb(UART_MCR, READY)
    b.driver.outb(UART_IER, UART_IER_RDI)
    b.peer.input += bytes(12)
    b.uart.receiver_ready()
    b.edges()

    for _ in range(8):  # a driver that takes what the trigger level promises, and no more
        b.driver.inb(UART_RX)

    assert b.edges() == 1


def test_enabling_rdi_with_data_there_interrupts(b: Bench) -> None:
    b.driver.outb(UART_MCR, READY)
    b.peer.input += b"x"
    b.uart.receiver_ready()
    assert b.edges() == 0

    b.driver.outb(UART_IER, UART_IER_RDI)

    assert b.edges() == 1


def test_enabling_thri_with_thr_empty_interrupts_each_time(b: Bench) -> None:
    for _ in range(3):
        b.driver.outb(UART_IER, UART_IER_THRI)
        assert b.edges() == 1
        b.driver.outb(UART_IER, 0)


def test_enabling_thri_again_does_not_interrupt(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_THRI)
    b.driver.inb(UART_IIR)
    b.edges()

    b.driver.outb(UART_IER, UART_IER_THRI | UART_IER_RDI)

    assert b.edges() == 0


def test_reading_iir_clears_thre_until_thr_is_written(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_THRI)
    assert b.driver.inb(UART_IIR) == UART_IIR_THRI
    assert b.driver.inb(UART_IIR) == UART_IIR_NO_INT
    b.edges()

    b.driver.outb(UART_TX, 0x41)

    assert b.edges() == 1
    assert b.driver.inb(UART_IIR) == UART_IIR_THRI


def test_a_burst_into_thr_is_one_edge(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_THRI)
    b.driver.inb(UART_IIR)
    b.edges()

    for byte in range(16):
        b.driver.outb(UART_TX, byte)

    assert b.edges() == 1


def test_reading_iir_for_another_cause_leaves_thre(b: Bench) -> None:
    b.driver.outb(UART_MCR, READY)
    b.driver.outb(UART_IER, UART_IER_THRI | UART_IER_RDI)
    b.peer.input += b"x"
    b.uart.receiver_ready()

    assert b.driver.inb(UART_IIR) == UART_IIR_RDI
    b.driver.inb(UART_RX)
    assert b.driver.inb(UART_IIR) == UART_IIR_THRI


def test_causes_are_told_in_the_datasheets_order(b: Bench) -> None:
    b.driver.outb(UART_MCR, UART_MCR_LOOP)  # from DCD, DSR and CTS to none: modem status
    b.driver.outb(UART_IER, 0x0F)  # THR empty
    b.driver.outb(UART_TX, 1)  # received data
    b.driver.outb(UART_TX, 2)  # overrun: line status

    assert b.driver.inb(UART_IIR) == UART_IIR_RLSI
    assert b.driver.inb(UART_LSR) & UART_LSR_OE
    assert b.driver.inb(UART_IIR) == UART_IIR_RDI
    assert b.driver.inb(UART_RX) == 1
    assert b.driver.inb(UART_IIR) == UART_IIR_THRI
    assert b.driver.inb(UART_IIR) == UART_IIR_MSI
    assert b.driver.inb(UART_MSR) == UART_MSR_DDCD | UART_MSR_DDSR | UART_MSR_DCTS
    assert b.driver.inb(UART_IIR) == UART_IIR_NO_INT


def test_full_peer_clears_thre_until_it_has_room(b: Bench) -> None:
    b.peer.full = True
    b.driver.outb(UART_TX, 0x41)
    assert b.driver.inb(UART_LSR) == 0

    b.peer.full = False
    b.uart.transmitter_ready()

    assert b.driver.inb(UART_LSR) == UART_LSR_THRE | UART_LSR_TEMT


def test_room_at_the_peer_is_one_edge_for_a_driver_that_waits(b: Bench) -> None:
    b.driver.outb(UART_IER, UART_IER_THRI)
    b.driver.inb(UART_IIR)
    b.edges()
    b.peer.full = True
    b.driver.outb(UART_TX, 0x41)
    assert b.edges() == 0
    assert b.driver.inb(UART_IIR) == UART_IIR_NO_INT

    b.peer.full = False
    b.uart.transmitter_ready()
    b.uart.transmitter_ready()

    assert b.edges() == 1
    assert b.driver.inb(UART_IIR) == UART_IIR_THRI


def test_enabling_thri_while_the_peer_is_full_interrupts_when_it_has_room(b: Bench) -> None:
    b.peer.full = True
    b.driver.outb(UART_TX, 0x41)
    b.driver.outb(UART_IER, UART_IER_THRI)
    assert b.edges() == 0

    b.peer.full = False
    b.uart.transmitter_ready()

    assert b.edges() == 1


def test_loopback_goes_to_the_own_receiver_and_nowhere_else(b: Bench) -> None:
    b.peer.input += b"from outside"
    b.driver.outb(UART_FCR, 1)
    b.driver.outb(UART_MCR, UART_MCR_LOOP | READY)
    b.uart.receiver_ready()
    for byte in b"loop":
        b.driver.outb(UART_TX, byte)

    assert bytes(b.driver.inb(UART_RX) for _ in range(4)) == b"loop"
    assert not b.driver.inb(UART_LSR) & UART_LSR_DR
    assert b.peer.sent == b""


def test_loopback_overrun_keeps_the_fifo_and_is_told_once(b: Bench) -> None:
    b.driver.outb(UART_FCR, 1)
    b.driver.outb(UART_MCR, UART_MCR_LOOP)
    for byte in range(20):
        b.driver.outb(UART_TX, byte)

    assert b.driver.inb(UART_LSR) & UART_LSR_OE
    assert not b.driver.inb(UART_LSR) & UART_LSR_OE
    assert [b.driver.inb(UART_RX) for _ in range(16)] == list(range(16))


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (UART_MCR_DTR, UART_MSR_DSR),
        (UART_MCR_RTS, UART_MSR_CTS),
        (UART_MCR_OUT1, UART_MSR_RI),
        (UART_MCR_OUT2, UART_MSR_DCD),
    ],
)
def test_loopback_connects_modem_outputs_to_inputs(b: Bench, output: int, line: int) -> None:
    b.driver.outb(UART_MCR, UART_MCR_LOOP)
    b.driver.inb(UART_MSR)

    b.driver.outb(UART_MCR, UART_MCR_LOOP | output)

    assert b.driver.inb(UART_MSR) & 0xF0 == line
    b.driver.outb(UART_MCR, UART_MCR_LOOP)
    assert b.driver.inb(UART_MSR) & 0x0F  # the falling edge is a delta of each, also of RI
    assert b.driver.inb(UART_MSR) == 0


def test_full_peer_does_not_hold_up_loopback(b: Bench) -> None:
    b.peer.full = True
    b.driver.outb(UART_TX, 0x41)
    b.driver.outb(UART_MCR, UART_MCR_LOOP)
    assert b.driver.inb(UART_LSR) & UART_LSR_THRE

    b.driver.outb(UART_MCR, 0)

    assert not b.driver.inb(UART_LSR) & UART_LSR_THRE


@pytest.mark.parametrize("fcr", [UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR, 0])
def test_fifo_is_cleared_on_command_and_when_it_is_switched(b: Bench, fcr: int) -> None:
    b.driver.outb(UART_FCR, 1)
    b.driver.outb(UART_MCR, READY)
    b.driver.outb(UART_IER, UART_IER_RDI)
    b.peer.input += b"gone"
    b.uart.receiver_ready()

    b.driver.outb(UART_FCR, fcr)

    assert not b.driver.inb(UART_LSR) & UART_LSR_DR
    assert b.driver.inb(UART_IIR) & UART_IIR_NO_INT


def test_no_access_of_any_kind_raises(b: Bench) -> None:
    for value in (0x00, 0xFF, 0x93, 0x5A):
        for size in (1, 2, 4, 8):
            for offset in range(9 - size):
                b.uart.write(offset, memoryview(bytes((value,)) * size))
                b.uart.read(offset, memoryview(bytearray(size)))
        b.uart.receiver_ready()
        b.uart.transmitter_ready()


def test_places_are_those_of_a_pc() -> None:
    bases = [placement.ports.base for placement in Uart.placements if placement.ports]

    assert bases == [0x3F8, 0x2F8, 0x3E8, 0x2E8]
    assert [placement.irq for placement in Uart.placements] == [4, 3, None, None]
    assert {placement.acpi_hid for placement in Uart.placements} == {"PNP0501"}
