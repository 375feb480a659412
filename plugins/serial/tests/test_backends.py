"""The file, the pty and the socket, in a machine whose guest is the test."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyvmm.chardev.file import File
from pyvmm.device_context import MachineView
from pyvmm.errors import UsageError
from pyvmm.machine import Console
from pyvmm.machine.console import Consoles
from pyvmm.testing.waiting import PATIENCE, wait_until
from pyvmm_serial import SerialOptions, make
from pyvmm_serial.cable import INPUT_LIMIT, OUTPUT_FULL
from pyvmm_serial.registers import UART_LSR, UART_LSR_THRE, UART_TX

from plugins.serial.tests.wiring import Running, running

TEXT = bytes(range(256)) * 400


def read(fd: int, size: int) -> bytes:
    """``size`` bytes, or less where nothing comes for a long time or the end does."""
    data = bytearray()
    while len(data) < size and select.select([fd], [], [], PATIENCE)[0]:
        if not (chunk := os.read(fd, size - len(data))):
            break
        data += chunk
    return bytes(data)


def receive(machine: Running, size: int) -> bytes:
    """What the guest's driver receives, up to ``size`` bytes."""
    while len(machine.driver.received) < size and machine.driver.serve_interrupt():
        pass
    data = bytes(machine.driver.received)
    machine.driver.received.clear()
    return data


def transmit(machine: Running, data: bytes) -> None:
    """Send ``data`` as a process in the guest does."""
    machine.driver.write(data)
    while machine.driver.xmit:
        assert machine.driver.serve_interrupt()


# A file


def test_file_takes_the_output_and_is_emptied_first(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"of an earlier machine")

    with running(SerialOptions(file=tmp_path / "log")) as machine:
        machine.driver.console_write(TEXT)

    assert (tmp_path / "log").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("name", "reason"),
    [(".", "Is a directory"), ("missing/log", "No such file or directory"), ("fifo", "No such device or address")],
)
def test_file_that_cannot_be_written_is_the_users_mistake(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "fifo")  # that nobody reads

    with pytest.raises(UsageError, match=f"^serial: file={re.escape(str(tmp_path / name))}: {reason}; give a path"):
        make(SerialOptions(file=tmp_path / name))


def test_full_disk_loses_output_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with running(SerialOptions(file=Path("/dev/full"))) as machine:
        machine.driver.console_write(TEXT)

    assert [record.getMessage() for record in caplog.records] == [
        "serial0: /dev/full: No space left on device; output is lost"
    ]


def test_fifo_that_somebody_reads_loses_no_byte(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read(reader, len(TEXT))))

    with running(SerialOptions(file=tmp_path / "fifo")) as machine:
        thread.start()
        machine.driver.console_write(TEXT)
        thread.join()

    os.close(reader)
    assert got == [TEXT]


# A pty


@pytest.fixture(name="pty")
def _pty(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[Running, str]]:
    with running(SerialOptions(backend="pty")) as machine:
        machine.driver.startup()
        match = re.fullmatch(r"serial0: (/dev/pts/\d+)\n", capsys.readouterr().err)
        assert match
        yield machine, match[1]


def open_pty(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def test_pty_carries_all_bytes_both_ways_and_echoes_none(pty: tuple[Running, str]) -> None:
    machine, path = pty
    fd = open_pty(path)
    everything = bytes(range(256))

    transmit(machine, everything)
    assert read(fd, 256) == everything
    os.write(fd, everything)
    assert receive(machine, 256) == everything

    os.close(fd)


def test_pty_survives_those_who_open_and_leave_it(pty: tuple[Running, str]) -> None:
    machine, path = pty
    for round_ in range(3):
        fd = open_pty(path)
        os.write(fd, b"hello %d" % round_)
        assert receive(machine, 7) == b"hello %d" % round_
        transmit(machine, b"and back")
        assert read(fd, 8) == b"and back"
        os.close(fd)
        transmit(machine, b"to nobody")


def test_pty_that_nobody_has_open_holds_up_no_guest_and_does_not_spin(pty: tuple[Running, str]) -> None:
    machine, _ = pty
    transmit(machine, TEXT)
    assert machine.driver.inb(UART_LSR) & UART_LSR_THRE
    wait_until(lambda: turns_of_calls(machine) == CALLS)


CALLS = 20


def turns_of_calls(machine: Running) -> int:
    """How many turns the loop takes for so many calls: one for each, where nothing else is there to be done."""
    turns = 0
    run_once = machine.loop.run_once

    def count(timeout: float | None = None) -> int:
        nonlocal turns
        turns += 1
        return run_once(timeout)

    machine.loop.run_once = count  # type: ignore[method-assign]
    machine.on_loop(lambda: None)  # the turn after this one is counted
    for _ in range(CALLS - 1):
        machine.on_loop(lambda: None)
    machine.loop.run_once = run_once  # type: ignore[method-assign]
    machine.on_loop(lambda: None)
    return turns


def test_pty_whose_reader_stalls_holds_the_guest_and_frees_it_when_it_leaves(pty: tuple[Running, str]) -> None:
    machine, path = pty
    fd = open_pty(path)
    machine.driver.write(bytes(OUTPUT_FULL + (64 << 10)))
    while machine.driver.inb(UART_LSR) & UART_LSR_THRE:
        assert machine.driver.serve_interrupt()
    assert machine.driver.xmit

    os.close(fd)

    while machine.driver.xmit:
        assert machine.driver.serve_interrupt()


def test_pty_flooded_with_input_loses_nothing_and_is_bounded(pty: tuple[Running, str]) -> None:
    machine, path = pty
    fd = open_pty(path)
    thread = threading.Thread(target=os.write, args=(fd, TEXT))
    thread.start()

    assert receive(machine, len(TEXT)) == TEXT
    assert len(machine.device.line._unread) <= INPUT_LIMIT
    thread.join()
    os.close(fd)


# A UNIX domain socket


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    with running(SerialOptions(unix=tmp_path / "socket")) as machine:
        machine.driver.startup()
        yield machine, tmp_path / "socket"


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def test_socket_carries_all_bytes_both_ways(server: tuple[Running, Path]) -> None:
    machine, path = server
    with connect(path) as client:
        client.sendall(TEXT)
        assert receive(machine, len(TEXT)) == TEXT

        transmit(machine, TEXT)
        assert read(client.fileno(), len(TEXT)) == TEXT


def test_socket_serves_one_client_after_the_other(server: tuple[Running, Path]) -> None:
    machine, path = server
    for round_ in range(3):
        with connect(path) as client:
            client.sendall(b"hello")
            assert receive(machine, 5) == b"hello"
            transmit(machine, b"round %d" % round_)
            assert read(client.fileno(), 7) == b"round %d" % round_


def test_second_client_waits_for_the_first_to_leave(server: tuple[Running, Path]) -> None:
    machine, path = server
    with connect(path) as first, connect(path) as second:
        second.sendall(b"second")
        first.sendall(b"first")
        assert receive(machine, 5) == b"first"
        transmit(machine, b"only the first")
        assert read(first.fileno(), 14) == b"only the first"

        first.close()

        assert receive(machine, 6) == b"second"
        transmit(machine, b"now the second")
        assert read(second.fileno(), 14) == b"now the second"


def test_client_that_shut_down_its_sending_half_still_gets_output(server: tuple[Running, Path]) -> None:
    machine, path = server
    with connect(path) as client:
        client.sendall(b"uname\n")
        client.shutdown(socket.SHUT_WR)
        assert receive(machine, 6) == b"uname\n"

        transmit(machine, b"Linux\r\n")

        assert read(client.fileno(), 7) == b"Linux\r\n"
    with connect(path) as client:  # and when it has left the next one is served
        client.sendall(b"next")
        assert receive(machine, 4) == b"next"


def test_what_a_client_sent_before_it_left_is_not_lost(server: tuple[Running, Path]) -> None:
    machine, path = server
    with connect(path) as client:
        client.sendall(TEXT)

    assert receive(machine, len(TEXT)) == TEXT


def test_socket_without_a_client_holds_up_no_guest(server: tuple[Running, Path]) -> None:
    machine, _ = server

    transmit(machine, bytes(OUTPUT_FULL + (64 << 10)))

    assert machine.driver.inb(UART_LSR) & UART_LSR_THRE


def test_client_that_stalls_holds_the_guest_until_it_leaves(server: tuple[Running, Path]) -> None:
    machine, path = server
    with connect(path) as client:
        client.sendall(b"x")
        assert receive(machine, 1) == b"x"
        machine.driver.write(bytes(OUTPUT_FULL * 2))
        while machine.driver.inb(UART_LSR) & UART_LSR_THRE:
            assert machine.driver.serve_interrupt()

    while machine.driver.xmit:
        assert machine.driver.serve_interrupt()


def test_socket_file_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(SerialOptions(unix=path)):
        assert stat.S_ISSOCK(path.lstat().st_mode)

    assert not path.exists()


def test_device_that_never_came_into_a_machine_leaves_no_socket_file(tmp_path: Path) -> None:
    device = make(SerialOptions(unix=tmp_path / "socket"))

    device.close()
    device.close()

    assert not (tmp_path / "socket").exists()


def test_socket_file_that_is_another_ones_by_now_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(SerialOptions(unix=path)):
        path.unlink()
        path.write_text("precious")

    assert path.read_text() == "precious"


def test_dead_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))

    with running(SerialOptions(unix=tmp_path / "socket")), connect(tmp_path / "socket"):
        pass


def test_living_socket_and_any_other_file_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "living"))
        living.listen()

        with pytest.raises(UsageError, match="another process listens there; give another path"):
            make(SerialOptions(unix=tmp_path / "living"))
    with pytest.raises(UsageError, match="something that is no socket is there; give another path"):
        make(SerialOptions(unix=tmp_path / "file"))

    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "living").exists()


@pytest.mark.parametrize(("name", "reason"), [("x" * 200, "path too long"), ("missing/socket", "No such file")])
def test_path_where_no_socket_can_be_is_the_users_mistake(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^serial: unix=.*{reason}.*; give a path where"):
        make(SerialOptions(unix=tmp_path / name))


# All of them


def test_output_at_the_end_waits_for_a_reader_that_goes_on(tmp_path: Path) -> None:
    got: list[bytes] = []
    with running(SerialOptions(unix=tmp_path / "socket")) as machine:
        machine.driver.startup()
        client = connect(tmp_path / "socket")
        client.sendall(b"x")
        assert receive(machine, 1) == b"x"
        data = TEXT + TEXT
        machine.driver.console_write(data)  # more than the socket holds
        thread = threading.Thread(target=lambda: got.append(read(client.fileno(), len(data))))
        thread.start()
    thread.join()
    client.close()

    assert got == [data]


def test_output_lost_to_a_guest_that_does_not_wait_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with running(SerialOptions(unix=tmp_path / "socket")) as machine:
        machine.driver.startup()
        client = connect(tmp_path / "socket")
        client.sendall(b"x")
        assert receive(machine, 1) == b"x"
        for _ in range(1000):
            machine.device.transmit(bytes(1000))
        client.close()

    assert re.fullmatch(
        r"serial0: \d+ bytes of output were lost, since the host did not read them in time", caplog.messages[0]
    )


def test_a_file_that_a_disk_or_another_line_uses_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 512)
    with path.open("r+b") as disk:
        fcntl.fcntl(disk, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        with pytest.raises(UsageError, match="a disk or another line uses this file; give another one"):
            File("serial", path)
    first = File("serial", path)
    try:
        with pytest.raises(UsageError, match="a disk or another line uses this file"):
            File("console", path)
    finally:
        first.close()
    assert path.read_bytes() == b"x" * 512  # a machine that never ran has emptied nothing


# The stream: a program's end is tested by tests/library


@contextmanager
def streaming() -> Iterator[tuple[Running, Console]]:
    """A serial port, and the program's end of its line."""
    consoles, view = Consoles(), MachineView()
    view.open_stream = consoles.open
    with running(SerialOptions(backend="stream"), view) as machine:
        yield machine, consoles.by_device["serial0"]
    consoles.close()


def is_empty(machine: Running) -> bool:
    """Whether the guest may send."""
    return bool(machine.driver.inb(UART_LSR) & UART_LSR_THRE)


def test_stream_is_for_programs() -> None:
    refused = pytest.raises(UsageError, match=r"serial0: stream is for a Python program that runs a machine; give pty")
    with refused, running(SerialOptions(backend="stream")):
        pass


def test_stream_that_nobody_reads_holds_the_guest_off() -> None:
    with streaming() as (machine, console):
        sent = 0
        while not machine.device.line.full:
            machine.device.line.send(b"x" * 1000)
            sent += 1000
        assert OUTPUT_FULL < sent < 4 * OUTPUT_FULL
        machine.driver.outb(UART_TX, ord("x"))
        sent += 1
        assert not is_empty(machine)
        received = 0
        while received < sent:
            received += len(console.read(timeout=PATIENCE))
        wait_until(lambda: is_empty(machine))
        assert machine.device.line.lost == 0


def test_a_program_that_writes_more_than_the_guest_reads_waits() -> None:
    with streaming() as (machine, console):
        with pytest.raises(TimeoutError, match=r"bytes were not taken in 0\.01 s"):
            while True:
                console.write(bytes(4096), timeout=0.01)
        assert machine.device.line.input_room() == 0


def test_a_program_that_closes_its_end_does_not_hold_the_guest_off() -> None:
    with streaming() as (machine, console):
        console.close()
        console.close()
        machine.driver.console_write(TEXT * 10)
        assert machine.device.line.lost == 0
        assert console.read() == b""
        with pytest.raises(BrokenPipeError):
            console.write(b"x")
