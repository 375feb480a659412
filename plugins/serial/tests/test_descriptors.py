"""Descriptors of every kind that a shell may give us."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.chardev.descriptors import BACKLOG, DescriptorInput, DescriptorOutput, reopen
from pyvmm.host.eventloop import EventLoop, LoopScope, Timer
from pyvmm_serial.cable import INPUT_LIMIT, Line


@pytest.fixture(name="fds")
def _fds() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.fixture(name="loop")
def _loop() -> Iterator[LoopScope]:
    def fail(error: BaseException) -> None:
        raise error

    loop = EventLoop()
    yield LoopScope(loop, fail)
    loop.close()


def fill(output: DescriptorOutput) -> int:
    """Write until no more fits; how many bytes did."""
    total = 0
    while taken := output.write(bytes(4096)):
        total += taken
        assert total < 16 << 20
    return total


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_reopening_leaves_the_original_blocking(kind: str, fds: list[int]) -> None:
    fds += os.pipe() if kind == "pipe" else os.openpty()

    opened = reopen(fds[1], os.O_WRONLY)
    fds.append(opened)

    assert opened != fds[1]
    assert os.get_blocking(fds[1]) and not os.get_blocking(opened)


def test_regular_file_keeps_its_descriptor_and_position(tmp_path: Path, fds: list[int]) -> None:
    fds.append(os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    os.write(fds[0], b"before ")

    assert reopen(fds[0], os.O_WRONLY) == fds[0]
    assert DescriptorOutput("test", fds[0]).write(b"after") == 5
    assert (tmp_path / "file").read_bytes() == b"before after"


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
@pytest.mark.parametrize("blocking", [False, True])
def test_full_output_does_not_block(kind: str, blocking: bool, fds: list[int]) -> None:
    if kind == "socket":
        fds += (end.detach() for end in socket.socketpair())
    else:
        fds += os.pipe() if kind == "pipe" else os.openpty()
    write_end = fds[1]
    os.set_blocking(write_end, blocking)
    output = DescriptorOutput("test", write_end)

    assert fill(output) > 0
    while output.wait(0.2):
        fill(output)  # the kernel moves what a terminal has been given in its own time, and then there is room again
    while not output.wait(0):
        assert os.read(fds[0], 65536)
    assert output.write(b"x") == 1


@pytest.mark.parametrize("kind", ["closed pipe", "/dev/full"])
def test_output_that_fails_is_lost_with_one_line(kind: str, fds: list[int], caplog: pytest.LogCaptureFixture) -> None:
    if kind == "/dev/full":
        fds.append(os.open(kind, os.O_WRONLY))
    else:
        read_end, write_end = os.pipe()
        os.close(read_end)
        fds.append(write_end)
    output = DescriptorOutput("serial0", fds[0])

    assert [output.write(b"hello") for _ in range(3)] == [5, 5, 5]
    assert [record.getMessage() for record in caplog.records] == [
        f"serial0: {'Broken pipe' if kind == 'closed pipe' else 'No space left on device'}; output is lost"
    ]


class Reader:
    """A line that is read by a guest when the test says so."""

    def __init__(self, loop: LoopScope, fd: int) -> None:
        self.loop, self.line, self.ended = loop, Line(), 0
        self.input = DescriptorInput(fd, self.line, on_end=self.on_end)
        self.line.attach(self, loop, self.input.resume)
        self.input.start(loop)

    def on_end(self) -> None:
        self.ended += 1

    def send_all(self) -> None: ...

    def transmitter_ready(self) -> None: ...

    def receiver_ready(self) -> None: ...

    def turn(self) -> int:
        """Serve the loop until nothing is left to do; how often something was."""
        turns = 0
        while self.loop.loop.run_once(0):
            turns += 1
            assert turns < 1000, "the loop spins"
        return turns

    def take_all(self) -> bytes:
        data = bytearray()
        self.turn()
        while taken := self.line.take(16):
            data += taken
            self.turn()
        return bytes(data)


def test_pipe_is_read_to_its_end(loop: LoopScope, fds: list[int]) -> None:
    read_end, write_end = os.pipe()
    fds.append(read_end)
    reader = Reader(loop, read_end)
    os.write(write_end, b"all of it")
    os.close(write_end)

    assert reader.take_all() == b"all of it"
    assert reader.ended == 1
    assert reader.turn() == 0


def test_pipe_is_not_read_beyond_the_bound_and_its_end_does_not_spin(loop: LoopScope, fds: list[int]) -> None:
    read_end, write_end = os.pipe()
    fds.append(read_end)
    reader = Reader(loop, read_end)
    data = os.urandom(60_000)
    os.write(write_end, data)
    os.close(write_end)  # a hang-up that epoll reports for ever

    reader.turn()
    assert len(reader.line._unread) == INPUT_LIMIT
    assert reader.turn() == 0

    assert reader.take_all() == data
    assert reader.ended == 1


def test_regular_file_is_read_as_the_guest_takes_it(loop: LoopScope, fds: list[int], tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "input").write_bytes(data)
    fds.append(os.open(tmp_path / "input", os.O_RDONLY))
    reader = Reader(loop, fds[0])
    assert os.lseek(fds[0], 0, os.SEEK_CUR) == INPUT_LIMIT

    assert reader.take_all() == data
    assert reader.ended == 1


def test_dev_null_has_no_input(loop: LoopScope, fds: list[int]) -> None:
    fds.append(os.open("/dev/null", os.O_RDONLY))

    reader = Reader(loop, fds[0])

    assert reader.ended == 1
    assert reader.turn() == 0


def test_dev_zero_is_bounded(loop: LoopScope, fds: list[int]) -> None:
    fds.append(os.open("/dev/zero", os.O_RDONLY))
    reader = Reader(loop, fds[0])

    reader.turn()

    assert len(reader.line._unread) == INPUT_LIMIT
    assert reader.ended == 0


def test_directory_as_input_is_an_end(loop: LoopScope, fds: list[int], tmp_path: Path) -> None:
    fds.append(os.open(tmp_path, os.O_RDONLY))

    assert Reader(loop, fds[0]).ended == 1


class Typed(Reader):
    """A line whose input a person types."""

    def __init__(self, loop: LoopScope, fd: int, may_read: Callable[[], bool] = lambda: True) -> None:
        self.loop, self.line, self.seen = loop, Line(), 0
        self.input = DescriptorInput(fd, self.line, interpret=self.interpret, may_read=may_read)
        self.line.attach(self, loop, self.input.resume)
        self.input.start(loop)

    def interpret(self, data: bytes) -> bytes:
        self.seen += len(data)
        return data


def test_what_does_not_fit_waits_in_the_terminal_while_the_guest_reads(loop: LoopScope, fds: list[int]) -> None:
    fds += os.pipe()
    pasted = bytes(range(256)) * (BACKLOG // 128)  # twice as much
    parts = [pasted[at : at + 4096] for at in range(0, len(pasted), 4096)]
    writing = threading.Thread(target=lambda: [os.write(fds[1], part) for part in parts])
    writing.start()
    reader = Typed(loop, fds[0])
    while reader.seen < BACKLOG + INPUT_LIMIT:
        loop.loop.run_once()
    got = bytearray()
    while len(got) < len(pasted):
        loop.loop.run_once(0)
        got += reader.line.take(4096)
        assert reader.seen <= len(got) + BACKLOG + INPUT_LIMIT
    writing.join()

    assert got == pasted


def test_guest_that_reads_nothing_does_not_keep_keys_from_being_seen(
    loop: LoopScope, fds: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    fds += os.pipe()
    writing = threading.Thread(target=lambda: [os.write(fds[1], bytes(4096)) for _ in range(2 * BACKLOG // 4096)])
    writing.start()
    reader = Typed(loop, fds[0])

    while reader.seen < 2 * BACKLOG:
        loop.loop.run_once()

    writing.join()
    assert len(caplog.records) == 1 and "is lost" in caplog.records[0].getMessage()


def test_looks_for_the_foreground_do_not_add_up(fds: list[int]) -> None:
    fds += os.pipe()
    timers: list[float] = []

    class Loop(EventLoop):
        def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
            timers.append(seconds)
            return super().call_later(seconds, function)

    loop = Loop()
    reader = Typed(LoopScope(loop, lambda error: None), fds[0], may_read=lambda: False)
    for _ in range(100):
        reader.input.resume()

    assert len(timers) == 1
    loop.close()
