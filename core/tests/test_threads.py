"""Threads of the machine's own: their names, their ends, what they raise, and who is still at work."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pyvmm.threads import Crew, begin


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


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_it_raises_is_for_the_first_who_asks(error: BaseException) -> None:
    def work() -> None:
        raise error

    join = begin(work, "at-work")
    with pytest.raises(type(error)):
        join()
    join()


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
