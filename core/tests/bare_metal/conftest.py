"""Fixtures for tests of a real vCPU: /dev/kvm, and programs for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.testing.bare_metal import compile_program

SOURCES = Path(__file__).parent

Compile = Callable[..., Path]


@pytest.fixture(autouse=True)
def kvm() -> None:
    """Skips, saying so, where there is no /dev/kvm."""
    if not os.path.exists("/dev/kvm"):
        pytest.skip("no /dev/kvm on this machine")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles a program: its source, then NAME or NAME=VALUE to define."""
    folder = tmp_path_factory.mktemp("programs")
    return lambda source, *defines: compile_program(folder, SOURCES / source, *defines)


@pytest.fixture
def every_call(request: pytest.FixtureRequest) -> bool:
    """Whether the walk over system calls leaves none out."""
    return bool(request.config.getoption("--every-call", default=False))
