"""A UART alone under the driver that most guests have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugins.serial.tests.wiring import Bench, bench


@pytest.fixture(name="b")
def _bench() -> Iterator[Bench]:
    with bench() as one:
        yield one


def test_autoconfig_finds_a_16550a(b: Bench) -> None:
    assert b.driver.autoconfig() == "16550A"


def test_startup_finds_no_bug(b: Bench) -> None:
    b.driver.autoconfig()

    b.driver.startup()


def test_console_is_written_by_polling_and_without_interrupts(b: Bench) -> None:
    text = b"".join(b"[%12.6f] a line of the kernel's\r\n" % (i / 1e6) for i in range(1000))

    b.driver.console_write(text)

    assert b.peer.sent == text
    assert b.edges() == 0


def test_tty_output_is_interrupt_driven(b: Bench) -> None:
    b.driver.autoconfig()
    b.driver.startup()
    b.edges()
    data = bytes(i % 251 for i in range(100_000))

    b.driver.write(data)
    while b.driver.xmit:
        assert b.driver.serve_interrupt()

    assert b.peer.sent == data


def test_last_interrupt_is_quiet(b: Bench) -> None:
    b.driver.startup()
    b.edges()
    b.driver.write(b"short")

    while b.driver.serve_interrupt(timeout=0):
        pass

    assert b.peer.sent == b"short"
    assert b.driver.interrupts <= 2
    assert b.driver.spurious <= 1


def test_input_is_received_whole_and_without_a_storm(b: Bench) -> None:
    b.driver.startup()
    b.edges()
    data = bytes(i % 251 for i in range(4096))
    b.peer.input += data
    b.uart.receiver_ready()

    while b.driver.serve_interrupt(timeout=0):
        pass

    assert b.driver.received == data
    assert b.driver.interrupts <= 3


def test_input_that_comes_before_the_port_is_opened_is_not_lost(b: Bench) -> None:
    b.peer.input += b"root\nuname -a\npoweroff\n"
    b.uart.receiver_ready()

    b.driver.autoconfig()
    b.driver.console_write(b"booting\r\n" * 100)
    b.driver.startup()
    while b.driver.serve_interrupt(timeout=0):
        pass

    assert b.driver.received == b"root\nuname -a\npoweroff\n"


def test_input_waits_while_the_port_is_closed(b: Bench) -> None:
    b.driver.startup()
    b.driver.shutdown()
    b.edges()
    b.peer.input += b"next"
    b.uart.receiver_ready()
    assert b.edges() == 0

    b.driver.startup()
    while b.driver.serve_interrupt(timeout=0):
        pass

    assert b.driver.received == b"next"


def test_console_and_tty_share_the_transmitter(b: Bench) -> None:
    b.driver.startup()
    b.edges()
    b.driver.write(b"t" * 1000)
    b.driver.console_write(b"k" * 100)  # in the middle, with interrupts off
    while b.driver.xmit:
        assert b.driver.serve_interrupt()

    assert sorted(b.peer.sent) == sorted(b"t" * 1000 + b"k" * 100)


def test_driver_that_never_heeds_thre_is_not_blocked(b: Bench) -> None:
    b.peer.full = True

    b.driver.console_write(b"lost?", polls=3)

    assert b.peer.sent == b"lost?"  # what becomes of it is for the peer to say
