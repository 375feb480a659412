"""The fixtures of the tests of the binding."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pyvmm.kvm import Kvm


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    """The open /dev/kvm; skips, saying so, where there is none."""
    if not os.path.exists("/dev/kvm"):
        pytest.skip("no /dev/kvm on this machine")
    with Kvm() as kvm:
        yield kvm
