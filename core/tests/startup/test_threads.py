"""Threads of the machine's own: their names, their ends, what they raise, and who is still at work."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pyvmm.startup.threads import Crew, begin
from pyvmm.testing.waiting import PATIENCE


def test_a_thread_has_its_name_and_is_waited_for() -> None:
    names: list[str] = []
    go = threading.Event()

    def work() -> None:
        go.wait()
        names.append(Path("/proc/thread-self/comm").read_text().strip())

    join = begin(work, "at-work")
    assert not names
    go.set()
    join()
    assert names == ["at-work"]
    join()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no"), ["Exception in thread at-work:", "OSError: no"]),
        (KeyboardInterrupt(), ["Exception in thread at-work:", "KeyboardInterrupt"]),
        (SystemExit(3), []),
    ],
)
def test_what_it_raises_is_printed_and_does_not_come_out_of_the_wait(
    error: BaseException, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    begin(work, "at-work")()
    lines = capsys.readouterr().err.splitlines()
    assert [*lines[:1], *lines[-1:]] == said


def test_any_name_will_do() -> None:
    names: list[bytes] = []
    begin(lambda: names.append(Path("/proc/thread-self/comm").read_bytes()), "d\udcffe" + 20 * "x")()
    assert names == [b"d\xffe" + 12 * b"x" + b"\n"]


THREADS = """
import sys
from pyvmm.startup import threads
threads.alone = {alone}
threads.begin(lambda: __import__("logging"), "logs")()
import threading
print(threading.current_thread() is threading.main_thread())
"""


def test_the_main_thread_stays_the_main_thread_to_the_program() -> None:
    command = [sys.executable, "-c", THREADS.format(alone=False)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout == "True\n"


def test_a_crew_is_waited_for_and_nobody_enters_later() -> None:
    crew = Crew()
    said: list[str] = []
    closed = threading.Event()

    def close() -> None:
        crew.close()
        said.append("closed")
        closed.set()

    assert crew.enter() and crew.enter()
    begin(close, "closes")
    assert not closed.wait(0.1)
    crew.leave(lambda: said.append("the first is last"))
    assert not closed.wait(0.1) and not said
    crew.leave(lambda: said.append("last"))
    assert closed.wait(60)
    assert said == ["last", "closed"]
    assert not crew.enter()


def test_a_crew_that_nobody_is_in_is_closed_at_once() -> None:
    crew = Crew()
    assert crew.enter()
    crew.leave(lambda: None)
    crew.close()
    assert not crew.enter()
