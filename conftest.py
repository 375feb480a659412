"""What holds for all tests of the workspace."""

import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from pyvmm.testing.waiting import PATIENCE

# A shell's background jobs ignore Ctrl-C and pass that on; the programs that tests send it to must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. Where nobody looks into a failure at once, the next run has
# to meet it again.
settings.register_profile("workspace", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("workspace")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-call", action="store_true", help="make each system call of a start fail, not only some of them"
    )


LIMITS = {
    "pyvmm.vhost_user.front_end": ["RESTART_TIMEOUT"],
    "pyvmm.device_process.parent": ["RESTART_TIMEOUT", "END_TIMEOUT", "_DEATH_TIMEOUT"],
}
"""How many seconds processes of the machine have to start and to end, by module."""


@pytest.fixture(autouse=True)
def _processes_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is slow since the machine is busy is none that hangs."""
    for module, names in LIMITS.items():
        if module in sys.modules:
            for name in names:
                monkeypatch.setattr(f"{module}.{name}", PATIENCE)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """The handlers and the level of the root logger are for the next test as they were: a command sets its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
