"""The hooks that a plugin may implement, and when each is called.

A plugin is a module that an entry point of the group ``pyvmm.devices`` names; the entry point's own name is a kind of
device. The module is imported only when that kind is asked for. Its hooks are functions marked with
:data:`pyvmm.plugin.hookimpl`; a hook that is not listed here is refused.

All hooks belong to the control path. They are called a few times in a process, never for an access, an exit or a
request, and only for plugins whose kinds were asked for. An implementation may leave out arguments that it does not
need, so later versions can add arguments.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine import Machine
    from pyvmm.plugin import DeviceKind


def pyvmm_device_kinds() -> Sequence[DeviceKind[Any]]:  # type: ignore[empty-body]
    """The kinds of device that this plugin offers.

    Called once in a process, after the plugin's module was imported because the user named one of its kinds, with
    ``--device`` or in a request for help. It is not called for a plugin whose kinds were not named, and not called
    again for a second device of the same kind.

    Return one :class:`~pyvmm.plugin.DeviceKind` for each entry point that names the module; more are ignored. Make no
    device and touch nothing on the host here: ``DeviceKind.make`` does that when the machine is built.

    Example::

        @hookimpl
        def pyvmm_device_kinds():
            return [DeviceKind("rng", RngOptions, Rng, help="entropy for the guest")]
    """


def pyvmm_machine_created(machine: Machine) -> None:
    """``machine`` has its memory, its vCPUs and all devices of the command line, and has not begun to run.

    Called once for each machine that has a device of this plugin, in the VMM's process, on the thread that makes the
    machine. Plugins are called in the order of their first devices. It is not called if the machine could not be made,
    nor in ``pyvmm serve`` and in devices' processes, which have no machine.

    Here a plugin may add further devices (:meth:`Machine.add_device <pyvmm.machine.Machine.add_device>`), add
    parameters to ``machine.cmdline``, read ``machine.config``, and keep ``machine`` to stop it later. A device with
    ``needs_memfd`` can be added only if a kind or the machine's configuration asked for a memfd. Raise
    :class:`~pyvmm.errors.PyvmmError` to refuse the machine, with one line that names the way out; another exception
    ends the machine too, with a line that names the package. In both cases ``pyvmm_machine_stopped`` follows.

    Example::

        @hookimpl
        def pyvmm_machine_created(machine):
            if machine.config.cpus > 1:
                raise UsageError("lamp: its driver knows one CPU only; give --cpus 1")
    """


def pyvmm_machine_started(machine: Machine) -> None:
    """The vCPUs of ``machine`` were started.

    Called once for each machine for which ``pyvmm_machine_created`` was called, on the thread of ``machine.loop``, just
    after the vCPUs' threads were started; the guest may have run already. Do not block, since all devices on that loop
    wait. An exception is logged with the package's name, and the machine continues.

    Example::

        @hookimpl
        def pyvmm_machine_started(machine):
            Path("/run/lamp.pid").write_text(str(os.getpid()))
    """


def pyvmm_machine_stopped(machine: Machine, reason: ExitReason | None) -> None:
    """``machine`` has ended, for ``reason``; None if it never ran because another part of it failed.

    Called exactly once for each machine for which ``pyvmm_machine_created`` was called, even if that raised, the last
    plugin first. It is called on the thread that ran or closed the machine, after all vCPUs have stopped, and before
    devices are closed and memory is released. It is not called if the VMM is killed or crashes. An exception is logged
    with the package's name, and the machine is still closed.

    Example::

        @hookimpl
        def pyvmm_machine_stopped(reason):
            log.info("the lights are out: %s", reason or "they were never on")
    """
