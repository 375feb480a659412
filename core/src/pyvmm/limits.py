"""Numbers on which all parts of pyvmm agree: a page, and how large a machine is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["DEFAULT_MEMORY", "MAX_CPUS", "PAGE_SIZE"]

PAGE_SIZE: Final = 4096
"""Bytes of a page of the guest."""

MAX_CPUS: Final = 64
"""CPUs that a machine can have; each is a thread. More queues than that, a device has no use for."""

DEFAULT_MEMORY: Final = 256 << 20
"""Bytes of memory that a machine has where nobody says how much."""
