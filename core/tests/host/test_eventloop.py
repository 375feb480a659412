"""The event loop: descriptors, calls from other threads, its end, and the share of it that one device has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import READABLE, WRITABLE, EventLoop, LoopScope
from pyvmm.testing.waiting import PATIENCE


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def running(loop: EventLoop) -> Iterator[EventLoop]:
    """A loop that a thread is in."""
    entered = threading.Event()
    loop.post(entered.set)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert entered.wait(PATIENCE)
    yield loop
    loop.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def event() -> Iterator[EventFd]:
    event = EventFd()
    yield event
    event.close()


# --- descriptors


def test_a_ready_descriptor_is_served_until_it_is_drained(loop: EventLoop, event: EventFd) -> None:
    calls: list[int] = []
    loop.add(event.fd, calls.append)
    assert loop.run_once(0) == 0
    event.signal()
    assert (loop.run_once(0), loop.run_once(0)) == (1, 1)
    event.drain()
    assert loop.run_once(0) == 0
    assert calls == [READABLE, READABLE]


def test_a_descriptor_that_is_always_ready_does_not_keep_others_from_being_served(
    loop: EventLoop, event: EventFd
) -> None:
    calls: list[str] = []
    always = EventFd()
    loop.add(always.fd, lambda _: calls.append("always"))
    loop.add(event.fd, lambda _: calls.append("event"))
    for signalled in (always, event):
        signalled.signal()
    loop.run_once(0)
    loop.run_once(0)
    always.close()
    assert sorted(calls) == ["always", "always", "event", "event"]


def test_waiting_for_other_events_takes_effect(loop: EventLoop, event: EventFd) -> None:
    calls: list[int] = []
    loop.add(event.fd, calls.append)
    loop.modify(event.fd, WRITABLE)
    loop.run_once(0)
    loop.modify(event.fd, 0)
    event.signal()
    assert loop.run_once(0) == 0
    assert calls == [WRITABLE]


def test_a_regular_file_is_refused(loop: EventLoop) -> None:
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        loop.add(file.fileno(), lambda _: None)


def test_a_descriptor_that_was_refused_leaves_nothing_behind(loop: EventLoop, event: EventFd) -> None:
    loop.add(event.fd, lambda _: None)
    with pytest.raises(FileExistsError):
        loop.add(event.fd, lambda _: pytest.fail("the second callback"))
    event.signal()
    loop.run_once(0)


def test_a_removed_descriptor_is_not_served(loop: EventLoop, event: EventFd) -> None:
    loop.add(event.fd, lambda _: pytest.fail("served"))
    event.signal()
    loop.remove(event.fd)
    loop.remove(event.fd)
    assert loop.run_once(0) == 0


def test_a_descriptor_that_was_closed_first_can_be_removed(loop: EventLoop) -> None:
    event = EventFd()
    number = event.fd
    loop.add(number, lambda _: pytest.fail("served"))
    event.close()
    loop.remove(number)
    assert loop.run_once(0) == 0


def test_a_descriptor_that_is_removed_in_the_same_round_is_not_served(loop: EventLoop) -> None:
    events = [EventFd(), EventFd()]
    served: list[int] = []

    def first_come(fd: int) -> None:
        served.append(fd)
        for other in events:
            loop.remove(other.fd)

    for event in events:
        loop.add(event.fd, lambda _, fd=event.fd: first_come(fd))  # type: ignore[misc]
        event.signal()
    loop.run_once(0)
    assert len(served) == 1
    for event in events:
        event.close()


def test_an_event_of_a_closed_descriptor_does_not_reach_the_one_that_got_its_number(loop: EventLoop) -> None:
    events = [EventFd(), EventFd()]
    served: list[str] = []
    replacements: list[EventFd] = []

    def replace(mine: EventFd) -> None:
        served.append("old")
        other = events[1 - events.index(mine)]
        number = other.fd
        loop.remove(number)
        other.close()
        new = EventFd()
        assert new.fd == number
        loop.add(new.fd, lambda _: served.append("new"))
        replacements.append(new)

    for event in events:
        loop.add(event.fd, lambda _, event=event: replace(event))  # type: ignore[misc]
        event.signal()

    loop.run_once(0)  # both were ready; the one that is served first replaces the other
    assert served == ["old"]

    loop.remove(next(event.fd for event in events if event.fd >= 0))
    replacements[0].signal()
    loop.run_once(0)
    assert served == ["old", "new"]
    for event in (*events, *replacements):
        event.close()


# --- other threads


def test_a_call_from_another_thread_runs_on_the_loops(running: EventLoop) -> None:
    ident = running.call(threading.get_ident)
    assert ident != threading.get_ident()
    assert running.call(threading.get_ident) == ident


def test_a_call_raises_what_the_function_raises_and_the_loop_goes_on(running: EventLoop) -> None:
    with pytest.raises(ZeroDivisionError):
        running.call(lambda: 1 // 0)
    assert running.call(lambda: 5) == 5


def test_a_call_within_the_loop_is_direct(running: EventLoop) -> None:
    assert running.call(lambda: running.call(lambda: 5)) == 5


def test_a_call_where_no_thread_is_in_the_loop_is_direct(loop: EventLoop) -> None:
    assert loop.call(threading.get_ident) == threading.get_ident()


def test_calls_from_many_threads_run_one_at_a_time(running: EventLoop) -> None:
    inside = worst = done = 0

    def function() -> None:
        nonlocal inside, worst, done
        inside += 1
        worst = max(worst, inside)
        bytes(1000)
        done += 1
        inside -= 1

    threads = [threading.Thread(target=lambda: [running.call(function) for _ in range(300)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (worst, done) == (1, 1200)


def test_posted_functions_run_in_order(running: EventLoop) -> None:
    order: list[int] = []
    for number in range(100):
        running.post(lambda number=number: order.append(number))  # type: ignore[misc]
    running.call(lambda: None)
    assert order == list(range(100))


def test_a_function_that_posts_itself_does_not_starve_descriptors(loop: EventLoop, event: EventFd) -> None:
    rounds = 0

    def again() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 1000:
            loop.post(again)

    loop.add(event.fd, lambda _: loop.stop())
    loop.post(again)
    event.signal()
    loop.run()
    assert rounds < 10


@pytest.mark.parametrize("repetition", range(20))
def test_calls_that_race_with_the_end_of_the_loop_all_return(loop: EventLoop, repetition: int) -> None:
    done: list[int] = []
    callers = [threading.Thread(target=lambda: done.append(loop.call(lambda: 1))) for _ in range(3)]
    runner = threading.Thread(target=loop.run)
    runner.start()
    for thread in callers:
        thread.start()
    loop.stop()
    for thread in (*callers, runner):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert done == [1, 1, 1]


# --- the end


def test_a_stop_before_the_run_ends_it_at_once(loop: EventLoop) -> None:
    loop.stop()
    loop.run()


def test_a_loop_can_run_again(loop: EventLoop) -> None:
    ran: list[int] = []
    for _ in range(2):
        loop.post(lambda: ran.append(1))
        loop.post(loop.stop)
        loop.run()
    assert ran == [1, 1]


def test_what_is_posted_with_the_stop_still_runs(loop: EventLoop) -> None:
    ran: list[int] = []
    loop.post(loop.stop)
    loop.post(lambda: loop.post(lambda: ran.append(1)))
    loop.run()
    assert ran == [1]


def test_what_is_posted_after_the_run_waits_for_the_next(loop: EventLoop) -> None:
    ran: list[int] = []
    loop.stop()
    loop.run()
    loop.post(lambda: ran.append(1))
    assert ran == []
    loop.run_once(0)
    assert ran == [1]


def test_an_exception_ends_the_loop_and_keeps_nobody_waiting(loop: EventLoop) -> None:
    entered, answers = threading.Event(), []
    thread = threading.Thread(target=lambda: answers.append(loop.call(lambda: 5)))

    def fail() -> None:
        thread.start()
        while not loop._posted:  # until the call of the other thread is in line
            entered.wait(0.001)
        raise RuntimeError("a bug")

    loop.post(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        loop.run()
    thread.join(PATIENCE)
    assert answers == [5]


def test_a_posted_function_that_raises_keeps_none_behind_it_from_running(loop: EventLoop) -> None:
    ran: list[int] = []
    loop.post(lambda: 1 // 0)
    loop.post(lambda: ran.append(1))
    loop.post(lambda: 1 // 0)
    loop.post(lambda: ran.append(2))
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert ran == [1, 2]


def test_ctrl_c_in_a_call_ends_the_loop_and_keeps_nobody_waiting(loop: EventLoop) -> None:
    errors: list[BaseException] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def call() -> None:
        try:
            loop.call(interrupted)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    loop.post(thread.start)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    thread.join(PATIENCE)
    assert [type(error) for error in errors] == [KeyboardInterrupt]


def test_close_releases_all_descriptors_and_may_come_twice() -> None:
    before = len(os.listdir("/proc/self/fd"))
    loop = EventLoop()
    loop.close()
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- a device's share


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def scope(loop: EventLoop, errors: list[BaseException]) -> LoopScope:
    return LoopScope(loop, errors.append)


def raises(_: object = None) -> None:
    raise ValueError("a device's bug")


def test_a_callback_that_raises_is_reported_and_the_loop_goes_on(
    loop: EventLoop, scope: LoopScope, errors: list[BaseException], event: EventFd
) -> None:
    scope.add(event.fd, raises)
    scope.post(raises)
    event.signal()
    loop.run_once(0)
    loop.run_once(0)
    assert [str(error) for error in errors] == ["a device's bug"] * 3  # the event is still there


def test_ctrl_c_in_a_callback_is_no_failure_of_the_device(
    loop: EventLoop, scope: LoopScope, errors: list[BaseException], event: EventFd
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    scope.add(event.fd, interrupted)
    event.signal()
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(0)
    assert errors == []


@pytest.mark.parametrize("run", [lambda scope, function: scope.post(function), lambda scope, f: scope.guard(f)])
def test_what_is_to_come_after_each_callback_comes(
    loop: EventLoop, run: Callable[[LoopScope, Callable[[], object]], object]
) -> None:
    order: list[str] = []
    scope = LoopScope(loop, lambda error: None, lambda: order.append("after"))
    run(scope, lambda: order.append("callback"))
    loop.run_once(0)
    assert order == ["callback", "after"]


def test_a_failure_of_what_comes_after_a_callback_is_reported_too(loop: EventLoop, errors: list[BaseException]) -> None:
    scope = LoopScope(loop, errors.append, raises)
    scope.post(lambda: None)
    loop.run_once(0)
    assert len(errors) == 1


def test_closing_a_scope_removes_what_it_added_and_no_more(loop: EventLoop, scope: LoopScope, event: EventFd) -> None:
    other, served = EventFd(), []
    scope.add(event.fd, lambda _: pytest.fail("served"))
    loop.add(other.fd, lambda _: served.append(1))
    for signalled in (event, other):
        signalled.signal()
    scope.close()
    loop.run_once(0)
    assert served == [1]
    other.close()


def test_what_was_posted_before_a_scope_is_closed_does_not_run(loop: EventLoop, scope: LoopScope) -> None:
    scope.post(lambda: pytest.fail("ran"))
    scope.close()
    loop.run_once(0)


def test_a_closed_scope_can_be_used_again(loop: EventLoop, scope: LoopScope, event: EventFd) -> None:
    served: list[int] = []
    scope.add(event.fd, served.append)
    scope.close()
    scope.add(event.fd, served.append)
    scope.post(lambda: served.append(0))
    event.signal()
    loop.run_once(0)
    assert sorted(served) == [0, READABLE]


def test_a_descriptor_is_removed_and_modified_through_the_scope(
    loop: EventLoop, scope: LoopScope, event: EventFd
) -> None:
    served: list[int] = []
    scope.add(event.fd, served.append)
    scope.modify(event.fd, WRITABLE)
    loop.run_once(0)
    scope.remove(event.fd)
    loop.run_once(0)
    scope.close()
    assert served == [WRITABLE]


def test_what_is_added_until_a_reset_ends_with_it_and_the_rest_lasts(
    loop: EventLoop, scope: LoopScope, event: EventFd
) -> None:
    other, heard = EventFd(), []

    def add_more() -> None:
        scope.add(other.fd, lambda _: heard.append("other"))
        scope.post(lambda: heard.append("posted"))
        scope.call_later(0, lambda: heard.append("timer"))

    scope.add(event.fd, lambda _: heard.append("event"))
    scope.post(lambda: heard.append("lasting"))
    scope.until_reset(add_more)
    scope.reset()
    for signalled in (event, other):
        signalled.signal()
    loop.run_once(0)
    assert sorted(heard) == ["event", "lasting"]
    other.close()


def test_what_a_callback_adds_lasts_as_long_as_the_callback(loop: EventLoop, scope: LoopScope, event: EventFd) -> None:
    lasting, passing, heard = EventFd(), EventFd(), []
    scope.post(lambda: scope.add(lasting.fd, lambda _: heard.append("lasting")))
    scope.until_reset(lambda: scope.post(lambda: scope.add(passing.fd, lambda _: heard.append("passing"))))
    loop.run_once(0)
    scope.until_reset(scope.reset)
    for signalled in (lasting, passing):
        signalled.signal()
    loop.run_once(0)
    assert heard == ["lasting"]
    for added in (lasting, passing):
        added.close()


def test_a_callback_that_has_failed_the_device_is_called_again_after_a_reset(loop: EventLoop, event: EventFd) -> None:
    called: list[str] = []

    def broken(_: int) -> None:
        called.append("broken")
        raise ValueError("a device's bug")

    scope = LoopScope(loop, lambda error: scope.fail())
    other = EventFd()
    scope.add(event.fd, broken)
    scope.add(other.fd, lambda _: called.append("other"))
    event.signal()
    loop.run_once(0)
    scope.modify(event.fd, READABLE)
    other.signal()
    loop.run_once(0)
    loop.run_once(0)
    assert called == ["broken", "other", "other"]
    scope.reset()
    loop.run_once(0)
    assert sorted(called[3:]) == ["broken", "other"]
    scope.remove(event.fd)
    scope.reset()
    loop.run_once(0)
    assert called[5:] == ["other"]
    other.close()
