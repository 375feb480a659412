"""The fixtures of the tests of queues and transports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.tests.virtio.probe import TransportBench, transport


@pytest.fixture
def bench() -> Iterator[TransportBench]:
    """A probe device behind its transport."""
    with transport() as bench:
        yield bench
