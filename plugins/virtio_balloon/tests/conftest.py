"""Fixtures: balloons that are closed and have left nothing."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from balloon_bench import Bench
from pyvmm_virtio_balloon import BalloonOptions


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """Makes balloons of options; they must leave no descriptor."""
    benches: list[Bench] = []
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))

    def make(**options: object) -> Bench:
        benches.append(Bench(BalloonOptions(**options)))  # type: ignore[arg-type]
        return benches[-1]

    yield make
    for bench in benches:
        bench.driver.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A balloon with a driver that knows everything."""
    bench = make_bench()
    bench.start()
    return bench
