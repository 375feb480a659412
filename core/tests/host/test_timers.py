"""The event loop's timers: when they are due, in which order, and what takes them back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm.testing.stepping_loop import SteppingLoop
from pyvmm.testing.waiting import PATIENCE


@pytest.fixture
def loop() -> Iterator[SteppingLoop]:
    """A loop whose timers are due when the test says so: an hour is longer than any test takes."""
    loop = SteppingLoop()
    yield loop
    loop.close()


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def scope(loop: SteppingLoop, errors: list[BaseException]) -> LoopScope:
    return LoopScope(loop, errors.append)


def test_a_timer_is_called_once_and_not_before_its_time(loop: SteppingLoop) -> None:
    called: list[int] = []
    loop.call_later(3600, lambda: called.append(1))
    assert loop.run_once(0) == 0
    loop.advance(1800)
    assert not called
    loop.advance(1800)
    assert called == [1]
    loop.advance(3600)
    assert called == [1]


def test_a_loop_waits_until_a_timer_is_due() -> None:
    loop, called = EventLoop(), []
    started = time.monotonic()
    loop.call_later(0.02, lambda: called.append(time.monotonic() - started))
    while not called:
        loop.run_once()  # would wait for ever, but for the timer
    assert called[0] >= 0.02
    loop.close()


def test_a_wait_that_is_shorter_than_the_timer_ends_in_time(loop: SteppingLoop) -> None:
    loop.call_later(PATIENCE, lambda: pytest.fail("called"))
    assert loop.run_once(0.01) == 0


def test_timers_that_are_due_together_are_called_in_the_order_of_their_times(loop: SteppingLoop) -> None:
    order: list[str] = []
    loop.call_later(3600, lambda: order.append("last"))
    loop.call_later(0, lambda: order.append("first"))
    loop.call_later(1800, lambda: order.append("second"))
    assert loop.advance(3600) == 1  # all in one turn
    assert order == ["first", "second", "last"]


def test_a_timer_that_sets_itself_again_does_not_starve_descriptors(loop: SteppingLoop) -> None:
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


def test_a_cancelled_timer_is_not_called_and_leaves_nothing_behind(loop: SteppingLoop) -> None:
    timer = loop.call_later(0, lambda: pytest.fail("called"))
    timer.cancel()
    timer.cancel()
    assert loop.run_once(0) == 0

    for _ in range(1000):  # a guest may set and cancel for ever
        loop.call_later(3600, lambda: None).cancel()
    assert loop._timers == []


def test_a_timer_can_cancel_one_that_is_due_with_it(loop: SteppingLoop) -> None:
    loop.call_later(0, lambda: second.cancel())
    second = loop.call_later(0, lambda: pytest.fail("called"))
    assert loop.advance(1) == 1


def test_cancelling_a_timer_that_was_called_does_nothing(loop: SteppingLoop) -> None:
    called: list[int] = []
    timer = loop.call_later(0, lambda: called.append(1))
    loop.run_once(1)
    timer.cancel()
    assert called == [1]


def test_a_timer_of_a_closed_scope_is_not_called(loop: SteppingLoop, scope: LoopScope) -> None:
    scope.call_later(0, lambda: pytest.fail("called"))
    scope.close()
    loop.advance(1)


def test_a_timer_that_raises_is_the_scopes_to_report(
    loop: SteppingLoop, scope: LoopScope, errors: list[BaseException]
) -> None:
    scope.call_later(0, lambda: [][0])
    loop.run_once(1)
    assert [type(error) for error in errors] == [IndexError]
