"""What is removed at the end of the process, added and discarded by several threads at the same time."""

from __future__ import annotations

import sys
import threading

from pyvmm.host import leftovers


class Thing:
    def remove(self) -> None:
        """Would remove it."""


def test_threads_that_discard_what_is_theirs_leave_what_is_others() -> None:
    lasting = [Thing() for _ in range(50)]
    for thing in lasting:
        leftovers.add(thing.remove)
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def add_and_discard() -> None:
        try:
            together.wait()
            for _ in range(2000):
                thing = Thing()
                leftovers.add(thing.remove)
                leftovers.discard(thing.remove)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=add_and_discard) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    left = [thing for thing in lasting if thing.remove in leftovers._removers]
    for thing in lasting:
        leftovers.discard(thing.remove)
    assert errors == []
    assert left == lasting
