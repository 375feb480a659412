"""The fixtures of tests of vhost-user."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
from pyvmm.host.eventloop import EventLoop
from pyvmm.vhost_user.backend import Backend
from pyvmm.virtio.device import VirtioDevice

from core.tests.vhost_user.front_end import Echo, FrontEnd, Holder, no_fd_leaks

Connect = Callable[[VirtioDevice], FrontEnd]


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Freeze existing objects, so that garbage collections do not visit those of pytest and Hypothesis."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def collected() -> None:
    """Collect other tests' garbage first, so that it is not collected while a test counts descriptors."""
    gc.collect()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with no_fd_leaks():
        loop = EventLoop()
        yield loop
        loop.close()


@pytest.fixture
def connect(loop: EventLoop) -> Iterator[Connect]:
    """Serves a device and connects a front end to it."""
    made: list[FrontEnd | Backend] = []

    def connect(device: VirtioDevice) -> FrontEnd:
        backend = Backend(device, "device0", loop)
        made.append(backend)
        made.append(FrontEnd(backend, loop))
        assert isinstance(made[-1], FrontEnd)
        return made[-1]

    yield connect
    for thing in reversed(made):
        thing.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def front_end(connect: Connect, echo: Echo) -> FrontEnd:
    """Connected to an echoing device."""
    return connect(echo)
