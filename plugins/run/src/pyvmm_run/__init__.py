"""Commands in virtual machines of pyvmm, as :mod:`subprocess` runs them on the host.

>>> import pyvmm_run
>>> pyvmm_run.run(["uname", "-r"], capture_output=True, text=True).stdout  # doctest: +SKIP
'6.1.0-57-cloud-amd64\\n'

:mod:`pyvmm_run.aio` has the same for asyncio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm_run.processes import Popen
    from pyvmm_run.protocol import GuestLostError, ProtocolError
    from pyvmm_run.sandbox import Sandbox, popen, read_file, run, write_file

__all__ = [
    "GuestLostError",
    "Popen",
    "ProtocolError",
    "Sandbox",
    "popen",
    "read_file",
    "run",
    "write_file",
]

_HOMES = {"Popen": "processes", "GuestLostError": "protocol", "ProtocolError": "protocol"}
"""The modules of names that are in another one than ``sandbox``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pyvmm_run.{_HOMES.get(name, 'sandbox')}"), name)
