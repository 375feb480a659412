"""The hooks that a plugin may implement, each with the promise that goes with it.

A plugin is a module that an entry point of the group ``pyvmm.devices`` names; the entry point's own name is a kind of
device. The module is imported only when somebody asks for that kind. Its hooks are functions marked with
:data:`pyvmm.plugin.hookimpl`; a hook that is not listed here is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pyvmm.plugin import DeviceKind

hookspec = pluggy.HookspecMarker("pyvmm")


@hookspec
def pyvmm_device_kinds() -> Sequence[DeviceKind[Any]]:  # type: ignore[empty-body]
    """The kinds of device that this plugin offers.

    Called once in a process, after the plugin's module was imported because the user named one of its kinds, with
    ``--device`` or in a question for help. Not called for a plugin whose kinds nobody named; not called again for a
    second device of the same kind.

    Return one :class:`~pyvmm.plugin.DeviceKind` for each entry point that names the module; more are ignored. Make no
    device and touch nothing of the host here: ``DeviceKind.make`` does, when the machine is built.

    Example::

        @hookimpl
        def pyvmm_device_kinds():
            return [DeviceKind("rng", RngOptions, Rng, help="entropy for the guest")]
    """
