"""The hooks that a plugin may implement, each with the promise that goes with it.

A plugin is a module that an entry point of the group ``pyvmm.devices`` names; the entry point's own name is a kind of
device. The module is imported only when somebody asks for that kind. Its hooks are functions marked with
:data:`pyvmm.plugin.hookimpl`; a hook that is not listed here is refused.

All hooks are of the control path: they are called a few times in a process, never for an access, an exit or a request,
and only for plugins whose kinds were asked for. An implementation may leave out arguments that it has no use for, so
that a later version can add some.
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
    ``--device`` or in a question for help. Not called for a plugin whose kinds nobody named; not called again for a
    second device of the same kind.

    Return one :class:`~pyvmm.plugin.DeviceKind` for each entry point that names the module; more are ignored. Make no
    device and touch nothing of the host here: ``DeviceKind.make`` does, when the machine is built.

    Example::

        @hookimpl
        def pyvmm_device_kinds():
            return [DeviceKind("rng", RngOptions, Rng, help="entropy for the guest")]
    """


def pyvmm_machine_created(machine: Machine) -> None:
    """``machine`` has its memory, its vCPUs and all devices of the command line, and has not begun to run.

    Called once for each machine that has a device of this plugin, in the VMM's process, on the thread that makes the
    machine, plugin by plugin in the order of their first devices. Not called where the machine could not be made, nor
    in ``pyvmm serve`` and in devices' processes, which have no machine.

    Here a plugin may add devices that nobody asked for (:meth:`Machine.add_device <pyvmm.machine.Machine.add_device>`)
    (those with ``needs_memfd`` only if a kind or the machine's configuration asked for a memfd) and parameters to
    ``machine.cmdline``, look at ``machine.config``, and keep ``machine`` to stop it later. Raise
    :class:`~pyvmm.errors.PyvmmError` to refuse the machine, with one line that names the way out; another exception
    ends it too, with a line that names the package. Either way ``pyvmm_machine_stopped`` follows.

    Example::

        @hookimpl
        def pyvmm_machine_created(machine):
            if machine.config.cpus > 1:
                raise UsageError("lamp: its driver knows one CPU only; give --cpus 1")
    """


def pyvmm_machine_started(machine: Machine) -> None:
    """The vCPUs of ``machine`` run.

    Called once for each machine of which ``pyvmm_machine_created`` was called, on the thread of ``machine.loop``, just
    after the vCPUs' threads were started: the guest may have run already. Do not block: every device that lives on that
    loop waits. An exception is logged with the package's name, and the machine runs on.

    Example::

        @hookimpl
        def pyvmm_machine_started(machine):
            Path("/run/lamp.pid").write_text(str(os.getpid()))
    """


def pyvmm_machine_stopped(machine: Machine, reason: ExitReason | None) -> None:
    """``machine`` has ended, for ``reason``; None where it never ran, since something else of it failed.

    Called exactly once for each machine of which ``pyvmm_machine_created`` was called, whether that raised or not, the
    last plugin first: when no vCPU runs any more, before devices are closed and memory is let go, on the thread that
    ran or closed the machine. Not called when the VMM is killed or crashes. An exception is logged with the package's
    name, and the machine is closed all the same.

    Example::

        @hookimpl
        def pyvmm_machine_stopped(reason):
            log.info("the lights are out: %s", reason or "they were never on")
    """
