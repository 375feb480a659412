"""A device's control socket: commands and answers, and clients of all sorts."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import UsageError
from pyvmm.host.control_socket import Answer, ControlSocket
from pyvmm.host.eventloop import EventLoop, LoopScope


class Bench:
    """A control socket with commands that show what it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = EventLoop()
        self.errors: list[BaseException] = []
        self.later: list[Answer] = []
        self.control = ControlSocket(path, f"test: socket={path}")
        self.control.attach(
            LoopScope(self.loop, self.errors.append), {"echo": self.echo, "later": self.wait, "broken": self.broken}
        )

    def echo(self, argument: str, answer: Answer) -> None:
        if argument == "nothing":
            raise ValueError("there is nothing to say")
        answer({"said": argument})

    def wait(self, argument: str, answer: Answer) -> None:
        self.later.append(answer)

    def broken(self, argument: str, answer: Answer) -> None:
        raise RuntimeError("a bug")

    def run(self) -> None:
        while self.loop.run_once(0.01):
            pass

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(os.fspath(self.path))
        client.setblocking(False)
        return client

    def ask(self, client: socket.socket, text: bytes) -> list[Any]:
        """The answers that come of ``text``."""
        client.send(text)
        self.run()
        try:
            return [json.loads(line) for line in client.recv(65536).splitlines()]
        except BlockingIOError:
            return []


def has_left(client: socket.socket) -> bool:
    """Whether the other end has closed; raises BlockingIOError where it has not."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True  # with what it did not read


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = len(os.listdir("/proc/self/fd"))
    bench = Bench(tmp_path / "control")
    yield bench
    bench.control.close()
    bench.control.close()
    bench.loop.close()
    assert not bench.path.exists()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_each_line_is_a_command_with_an_answer(bench: Bench) -> None:
    with bench.connect() as client:
        assert bench.ask(client, b"echo two words\n") == [{"said": "two words"}]
        assert bench.ask(client, b"\n  echo \r\necho again\n") == [{"said": ""}, {"said": "again"}]


def test_what_cannot_be_done_is_said(bench: Bench) -> None:
    with bench.connect() as client:
        assert bench.ask(client, b"echo nothing\n") == [{"error": "there is nothing to say"}]
        (answer,) = bench.ask(client, b"\xff\xfe\n")
        assert "the commands are echo, later, broken" in answer["error"]
        assert bench.ask(client, b"echo still here\n") == [{"said": "still here"}]


def test_a_command_in_parts_is_one(bench: Bench) -> None:
    with bench.connect() as client:
        assert bench.ask(client, b"ec") == []
        assert bench.ask(client, b"ho x\nec") == [{"said": "x"}]
        assert bench.ask(client, b"ho y\n") == [{"said": "y"}]


def test_a_client_that_says_all_at_once_and_no_more_gets_its_answers(bench: Bench) -> None:
    with bench.connect() as client:
        client.send(b"echo x\nlater\necho y")
        client.shutdown(socket.SHUT_WR)
        bench.run()
        assert client.recv(100) == b'{"said": "x"}\n'
        bench.later[0]({"late": True})
        bench.later[0]({"late": "twice"})
        bench.run()
        assert client.recv(100) == b'{"late": true}\n{"said": "y"}\n'
        assert client.recv(100) == b""


def test_answers_come_in_the_order_of_the_commands(bench: Bench) -> None:
    with bench.connect() as client, bench.connect() as other:
        assert bench.ask(client, b"later\necho x\n") == []
        assert bench.ask(other, b"echo not held up\n") == [{"said": "not held up"}]
        bench.later[0]({"late": True})
        assert bench.ask(client, b"") == [{"late": True}, {"said": "x"}]


def test_an_answer_for_a_client_that_left_is_dropped(bench: Bench) -> None:
    with bench.connect() as client:
        bench.ask(client, b"later\n")
    bench.run()
    bench.later[0]({"late": True})
    bench.run()
    assert bench.errors == []


def test_a_client_that_does_not_read_is_left(bench: Bench) -> None:
    with bench.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with pytest.raises(OSError):
            for _ in range(10_000):
                client.send(b"echo " + b"x" * 2000 + b"\n")
                bench.run()
    assert bench.errors == []


@pytest.mark.parametrize("text", [b"x" * 5000, b"later\n" + b"echo x\n" * 1000])
def test_a_client_that_floods_is_left(bench: Bench, text: bytes) -> None:
    with bench.connect() as client:
        client.send(text)
        bench.run()
        assert has_left(client)
    with bench.connect() as client:
        assert bench.ask(client, b"echo x\n") == [{"said": "x"}]


def test_a_bug_in_a_command_is_the_devices_failure(bench: Bench) -> None:
    with bench.connect() as client:
        bench.ask(client, b"broken\n")
    assert [type(error) for error in bench.errors] == [RuntimeError]


def test_clients_are_let_go_at_the_end(bench: Bench) -> None:
    with bench.connect() as client:
        bench.ask(client, b"later\n")
        bench.control.close()
        assert client.recv(100) == b""
        bench.later[0]({"late": True})


def test_a_path_where_something_else_is_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="balloon: socket="):
        ControlSocket(tmp_path / "file", f"balloon: socket={tmp_path}/file")
