"""A check of the environment variables that pyvmm reads. It reports a wrong value at the start, not at the first
use."""

from __future__ import annotations

import os

from pyvmm.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check"]


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UsageError` for a variable with a wrong value."""
    if backend := environ.get("PYVMM_AIO"):
        from pyvmm.host.aio import BACKENDS, ENVIRONMENT

        if backend not in BACKENDS:
            raise UsageError(f"{ENVIRONMENT}={backend!r} is not one of {', '.join(BACKENDS)}; correct or unset it")
