"""Fixtures: sandboxes without a machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm_run import Sandbox

sys.path.append(str(Path(__file__).parent))

from host_sandbox import HostSandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that has started; at its end no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    with HostSandbox() as sandbox:
        yield sandbox
    assert len(os.listdir("/proc/self/fd")) <= before
