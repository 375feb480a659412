"""The event loop's timers: when they are due, in which order, and what takes them back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def scope(loop: EventLoop, errors: list[BaseException]) -> LoopScope:
    return LoopScope(loop, errors.append)


def test_a_timer_is_called_once_and_not_before_its_time(loop: EventLoop) -> None:
    called: list[float] = []
    started = time.monotonic()
    loop.call_later(0.02, lambda: called.append(time.monotonic()))
    assert loop.run_once(0) == 0
    assert loop.run_once(10) == 1
    assert 0.02 <= called[0] - started < 5
    assert loop.run_once(0.03) == 0
    assert len(called) == 1


def test_a_wait_that_is_shorter_than_the_timer_ends_in_time(loop: EventLoop) -> None:
    loop.call_later(60, lambda: pytest.fail("called"))
    started = time.monotonic()
    assert loop.run_once(0.01) == 0
    assert time.monotonic() - started < 5


def test_timers_that_are_due_together_are_called_in_the_order_of_their_times(loop: EventLoop) -> None:
    order: list[str] = []
    loop.call_later(0.002, lambda: order.append("last"))
    loop.call_later(0, lambda: order.append("first"))
    loop.call_later(0.001, lambda: order.append("second"))
    time.sleep(0.003)
    assert loop.run_once(0) == 3
    assert order == ["first", "second", "last"]


def test_a_timer_that_sets_itself_again_does_not_starve_descriptors(loop: EventLoop) -> None:
    event, rounds = EventFd(), []

    def again() -> None:
        rounds.append(1)
        loop.call_later(0, again)

    again()
    served: list[int] = []
    loop.add(event.fd, served.append)
    event.signal()
    loop.run_once(1)
    assert len(served) == 1
    assert len(rounds) <= 2
    event.close()


def test_a_cancelled_timer_is_not_called_and_leaves_nothing_behind(loop: EventLoop) -> None:
    timer = loop.call_later(0, lambda: pytest.fail("called"))
    timer.cancel()
    timer.cancel()
    assert loop.run_once(0) == 0

    for _ in range(1000):  # a guest may set and cancel for ever
        loop.call_later(3600, lambda: None).cancel()
    assert loop._timers == []


def test_a_timer_can_cancel_one_that_is_due_with_it(loop: EventLoop) -> None:
    loop.call_later(0, lambda: second.cancel())
    second = loop.call_later(0, lambda: pytest.fail("called"))
    time.sleep(0.001)
    assert loop.run_once(0) == 1


def test_cancelling_a_timer_that_was_called_does_nothing(loop: EventLoop) -> None:
    called: list[int] = []
    timer = loop.call_later(0, lambda: called.append(1))
    loop.run_once(1)
    timer.cancel()
    assert called == [1]


def test_a_timer_of_a_closed_scope_is_not_called(loop: EventLoop, scope: LoopScope) -> None:
    scope.call_later(0, lambda: pytest.fail("called"))
    scope.close()
    loop.run_once(0.01)


def test_a_timer_that_raises_is_the_scopes_to_report(
    loop: EventLoop, scope: LoopScope, errors: list[BaseException]
) -> None:
    scope.call_later(0, lambda: [][0])
    loop.run_once(1)
    assert [type(error) for error in errors] == [IndexError]
