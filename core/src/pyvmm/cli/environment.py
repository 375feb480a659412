"""The environment's variables that pyvmm reads: a wrong value is a mistake at the start, not when it is first used."""

from __future__ import annotations

import os

from pyvmm.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check"]


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UsageError` for a variable whose value cannot be right."""
    if backend := environ.get("PYVMM_AIO"):
        from pyvmm.host.aio import BACKENDS, ENVIRONMENT

        if backend not in BACKENDS:
            raise UsageError(f"{ENVIRONMENT}={backend!r} is not one of {', '.join(BACKENDS)}; correct or unset it")
