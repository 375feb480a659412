"""A guest's program that lies: each lie is one line, and the host keeps no more than it has to."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_sandbox import HostSandbox
from pyvmm.errors import HostError, PyvmmError
from pyvmm_run import GuestLostError, ProtocolError, protocol
from pyvmm_run.protocol import CREDIT, DATA, END, EXIT, FAILED, HELLO, MAX_DATA, STARTED, WINDOW, frame
from pyvmm_run.session import CommandError, Session
from pyvmm_run.streams import Sink, Source

HEADER = struct.Struct("<BBHI")
U32 = struct.Struct("<I")
BEGIN = frame(STARTED)
ENDS = frame(END, 1) + frame(END, 2)
END_WELL = ENDS + frame(EXIT, 0, U32.pack(0))

LIES = {
    "noise": b"\xff" * 100,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "an unknown type": BEGIN + frame(99),
    "a frame of the host's": BEGIN + frame(protocol.REQUEST, 0, b"x"),
    "a frame that is too long": BEGIN + HEADER.pack(DATA, 1, 0, MAX_DATA + 1),
    "a frame of 4 GiB": BEGIN + HEADER.pack(DATA, 1, 0, 0xFFFFFFFF),
    "a frame without data": BEGIN + frame(DATA, 1),
    "output before the start": frame(DATA, 1, b"x"),
    "a second start": BEGIN + BEGIN,
    "another hello": BEGIN + frame(HELLO, 0, U32.pack(1)),
    "output on the input": BEGIN + frame(DATA, 0, b"x"),
    "output on no stream": BEGIN + frame(DATA, 3, b"x"),
    "output after its end": BEGIN + frame(END, 1) + frame(DATA, 1, b"x"),
    "more than the window": BEGIN + frame(DATA, 1, bytes(MAX_DATA)) * (WINDOW // MAX_DATA + 2),
    "credit for nothing": BEGIN + frame(CREDIT, 0, U32.pack(1)),
    "credit of 4 GiB": BEGIN + frame(CREDIT, 0, U32.pack(0xFFFFFFFF)),
    "short credit": BEGIN + frame(CREDIT, 0, b"x"),
    "a status before the output's end": BEGIN + frame(EXIT, 0, U32.pack(0)),
    "a status that is none": BEGIN + ENDS + frame(EXIT, 0, U32.pack(256)),
    "a large status": BEGIN + ENDS + frame(EXIT, 0, U32.pack(0xFFFFFFFF)),
    "a failure after the start": BEGIN + frame(FAILED, 0, U32.pack(2)),
    "a failure that is no error": frame(FAILED, 0, U32.pack(0)),
    "a failure with a large number": frame(FAILED, 0, U32.pack(0xFFFFFFFF)),
    "more after the end": BEGIN + END_WELL + frame(DATA, 1, b"x"),
    "a header that is not zero": BEGIN + HEADER.pack(END, 1, 1, 0),
}


class Liar:
    """The other end of a session, which says what it is told to, whatever it hears."""

    def __init__(self, says: bytes, *, hangs_up: bool = False) -> None:
        ours, self._theirs = socket.socketpair()
        self.session = Session(ours)
        self._says = says
        self._hangs_up = hangs_up
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        with contextlib.suppress(OSError):
            self._theirs.sendall(self._says)
            if self._hangs_up:
                self._theirs.shutdown(socket.SHUT_WR)
            while self._theirs.recv(1 << 16):
                pass

    def close(self) -> None:
        self._thread.join()
        self._theirs.close()


@contextlib.contextmanager
def lying(says: bytes, *, hangs_up: bool = False) -> Iterator[Session]:
    liar = Liar(says, hangs_up=hangs_up)
    try:
        yield liar.session
    finally:
        liar.close()


def blocked() -> tuple[int, int, Sink]:
    """A pipe that nobody reads, both its ends, and where a stream goes into it."""
    import os

    reading, writing = os.pipe()
    return reading, writing, Sink(writing)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error(lie: str) -> None:
    import os

    reading, writing, sink = blocked()
    with lying(LIES[lie]) as session, pytest.raises(ProtocolError) as caught:
        session.run(protocol.command(["true"], {}, "/"), Source(b""), sink, Sink(None))
    os.close(reading)
    os.close(writing)

    assert str(caught.value).startswith("the guest's program breaks the protocol: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("says", [b"", BEGIN, BEGIN + b"\3", BEGIN + ENDS, frame(FAILED, 0, U32.pack(2))[:-1]])
def test_an_end_in_the_middle_is_an_error(says: bytes) -> None:
    with lying(says, hangs_up=True) as session, pytest.raises(GuestLostError):
        session.run(protocol.command(["true"], {}, "/"), Source(b"x" * WINDOW * 2), Sink(None), Sink(None))


def test_a_failure_s_text_cannot_write_on_a_terminal() -> None:
    with lying(frame(FAILED, 0, U32.pack(2) + b"\x1b[2J\n\xff")) as session, pytest.raises(CommandError) as caught:
        session.run(protocol.command(["true"], {}, "/"), Source(b""), Sink(None), Sink(None))

    assert str(caught.value).isprintable()


def test_a_guest_that_takes_no_input_costs_a_window_of_it() -> None:
    with lying(BEGIN + END_WELL) as session:
        source = Source(bytes(64 * WINDOW))
        status = session.run(protocol.command(["true"], {}, "/"), source, Sink(None), Sink(None))

    assert status == 0
    assert len(source.read(1)) == 1  # there is more


class Fake(HostSandbox):
    """A sandbox whose guest's program is a script."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self._script = script

    def _start_machine(self, directory: str) -> subprocess.Popen[bytes]:
        program = f"import socket\nhost = socket.socket(socket.AF_UNIX)\nhost.connect('vsock_1024')\n{self._script}"
        with open(f"{directory}/log", "wb") as log:
            return subprocess.Popen(
                ["/usr/bin/python3", "-c", program], cwd=directory, stdin=subprocess.PIPE, stdout=log, stderr=log
            )


HELLO_1 = frame(HELLO, 0, U32.pack(1))
WAIT = "import sys\nsys.stdin.read()\n"


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (b"\xff" * 8, ProtocolError),
        (frame(STARTED), ProtocolError),
        (frame(HELLO, 0, U32.pack(2)), ProtocolError),
        (HELLO_1 + frame(DATA, 1, b"x"), ProtocolError),
        (HELLO_1 + HELLO_1, ProtocolError),
        (HELLO_1 + frame(FAILED, 0, U32.pack(0xFFFFFFFF)), ProtocolError),
    ],
)
def test_a_lie_at_the_start_is_an_error(says: bytes, error: type[PyvmmError]) -> None:
    with pytest.raises(error) as caught:
        Fake(f"host.sendall({says!r})\n{WAIT}").start()

    assert "\n" not in str(caught.value)


def test_a_start_that_fails_says_why() -> None:
    failed = frame(FAILED, 0, U32.pack(30) + b"/root/mnt")
    script = f"host.sendall({HELLO_1!r})\nhost.recv(100)\nhost.sendall({failed!r})\n"

    with pytest.raises(HostError, match="the guest cannot be set up: /mnt: Read-only file system; it does not exist"):
        Fake(script + WAIT).start()


def test_a_guest_that_says_nothing_is_given_up_after_the_timeout() -> None:
    sandbox = Fake(WAIT)
    with pytest.raises(subprocess.TimeoutExpired):
        sandbox.start(timeout=0.2)

    assert not sandbox.is_running


def test_a_machine_that_ends_at_its_start_says_why() -> None:
    with pytest.raises(PyvmmError, match=r"^no kernel$"):
        Fake("import sys\nsys.exit('no kernel')\n").start()


def test_a_given_up_start_ends_soon_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox = Fake(WAIT)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            sandbox.start()
        except PyvmmError as error:
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    sandbox.abort()
    thread.join()

    assert len(failures) == 1
    assert [*tmp_path.iterdir()] == []
