"""Boots need a KVM that runs an unmodified Linux: tests/lab/with-kvm gives one anywhere."""

import pytest

from tests.boot.booting import SILENCE
from tests.system.hardware import why_no_linux_guest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_no_linux_guest()
    if reason:
        raise pytest.UsageError(f"{reason}; run tests/lab/with-kvm .venv/bin/python -m pytest tests/boot")
    for item in items:
        boots = max(3, config.getoption("--boots"))
        # A boot that says nothing has a limit of its own; this one is for a guest that says the same for ever.
        item.add_marker(pytest.mark.timeout(2 * boots * SILENCE))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--boots", type=int, default=3, help="how often test_boots_in_a_row boots")
    parser.addoption(
        "--soak", type=int, default=0, metavar="SECONDS", help="work disks and cards for so long, with every engine"
    )


@pytest.fixture
def soak(pytestconfig: pytest.Config) -> int:
    """How many seconds disks and cards are to be worked; skips where nobody asks for it."""
    seconds: int = pytestconfig.getoption("--soak")
    if not seconds:
        pytest.skip("takes minutes: --soak SECONDS")
    return seconds
