"""Eventfds: counting, waiting, and the counter's limit."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest
from pyvmm.host.eventfd import EventFd


@pytest.fixture
def event() -> EventFd:
    return EventFd()


def test_drain_takes_all_signals_at_once(event: EventFd) -> None:
    for _ in range(3):
        event.signal()
    assert (event.drain(), event.drain()) == (3, 0)
    event.close()


def test_a_signal_at_the_counters_limit_does_not_block_or_raise(event: EventFd) -> None:
    os.eventfd_write(event.fd, 2**64 - 2)
    event.signal()
    assert event.drain() == 2**64 - 2
    event.close()


def test_wait_says_whether_it_was_signalled(event: EventFd) -> None:
    assert not event.wait(0)
    event.signal()
    assert event.wait(0)
    assert not event.wait(0.001)
    event.close()


def test_wait_is_ended_by_another_thread(event: EventFd) -> None:
    thread = threading.Thread(target=event.signal)
    thread.start()
    assert event.wait()
    thread.join()
    event.close()


def test_it_is_not_inherited_and_does_not_block(event: EventFd) -> None:
    assert fcntl.fcntl(event, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(event, fcntl.F_GETFL) & os.O_NONBLOCK
    event.close()


def test_a_descriptor_can_be_taken_over() -> None:
    first = EventFd()
    second = EventFd(os.dup(first.fd))
    first.signal()
    assert second.drain() == 1
    first.close()
    second.close()


def test_closing_twice_closes_once(event: EventFd) -> None:
    event.close()
    with open(os.devnull, "rb") as other:  # gets the number
        event.close()
        assert other.read() == b""
