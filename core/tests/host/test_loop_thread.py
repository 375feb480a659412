"""An event loop on a thread of its own: its start, its end, and what becomes of an error."""

from __future__ import annotations

import os
import threading

import pytest
from pyvmm.host.loop_thread import LoopThread

from core.tests.os_threads import wait_until


def test_it_serves_on_a_thread_of_its_name_until_it_is_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    loop = LoopThread("waits")
    assert loop.call(threading.get_ident) == threading.get_ident()
    loop.name = "works"
    loop.start()
    loop.start()
    wait_until("works", there=True)
    assert loop.call(threading.get_ident) != threading.get_ident()
    loop.close()
    loop.close()
    wait_until("works", there=False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_was_never_started_can_be_closed() -> None:
    loop = LoopThread("never")
    loop.close()
    loop.close()


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)])
def test_what_ends_it_is_printed_and_closing_it_closes_it(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    loop = LoopThread("fails")

    def fail() -> None:
        raise error

    loop.start()
    loop.post(fail)
    wait_until("fails", there=False)
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert ("ValueError: a bug" in capsys.readouterr().err) is isinstance(error, ValueError)


def test_one_that_fails_at_once_does_not_keep_who_starts_it(capsys: pytest.CaptureFixture[str]) -> None:
    loop = LoopThread("fails")

    def fail() -> None:
        raise ValueError("a bug")

    loop.post(fail)
    loop.start()
    loop.close()
    assert "ValueError: a bug" in capsys.readouterr().err
