"""The rows that can be measured, a module each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.harness import Bench


@dataclass(frozen=True)
class Row:
    """One row of the table, or a group of them."""

    name: str
    summary: str
    """For ``--list``."""
    measure: Callable[[Bench], None]
    linux: bool = False
    """Whether its guests are Linux, so that it needs hardware virtualization, or the lab."""
