"""All that a plugin needs to offer devices: the marker of hooks, and the records that hooks return or are given."""

from __future__ import annotations

from types import GenericAlias

from pyvmm.options.records import option, options
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, Generic, TypeVar, overload

    from pyvmm.bus import BusDevice, BusRange
    from pyvmm.virtio.device import VirtioDevice

    F = TypeVar("F", bound=Callable[..., Any])
    O = TypeVar("O")  # noqa: E741 - the options' type, as the field writes it
else:
    O = None  # noqa: E741

    class Generic:
        """Stands for typing.Generic."""

        __class_getitem__ = classmethod(GenericAlias)


__all__ = ["API_VERSION", "AcpiRequest", "CmdlineRequest", "DeviceKind", "hookimpl", "option", "options"]

API_VERSION: Final = 1
"""The version of the plugin contract that this pyvmm has."""

PROJECT: Final = "pyvmm"
"""pluggy's project name."""

MARK: Final = "pyvmm_plain_impl"
"""The attribute of a function that :func:`hookimpl` marks."""


if TYPE_CHECKING:

    @overload
    def hookimpl(function: F) -> F: ...
    @overload
    def hookimpl(function: None = None, **options: Any) -> Callable[[F], F]: ...


def hookimpl(function: Any = None, **options: Any) -> Any:
    """Marks a function as the implementation of a hook of pyvmm, as ``pluggy.HookimplMarker("pyvmm")`` does, with the
    same options (``specname``, ``tryfirst``…)."""
    if function is None or options:
        import pluggy

        return pluggy.HookimplMarker(PROJECT)(function, **options)
    setattr(function, MARK, True)
    return function


@record
class CmdlineRequest(Generic[O]):
    """The argument of :attr:`DeviceKind.cmdline`."""

    options: Sequence[O]
    """The options of all devices of this kind, in the order that the guest finds them."""

    user: str
    """The text that the user gave with --cmdline."""

    has_initrd: bool
    """Whether there is an initrd. It may look for the root file system by itself."""


@record
class AcpiRequest(Generic[O]):
    """The argument of :attr:`DeviceKind.acpi`."""

    options: O
    """The device's options."""

    path: str
    r"""The name of the device's object, such as ``\_SB.D002``, for AML that refers to it."""

    mmio: BusRange | None
    """The device's window of physical addresses, if it has one."""

    ports: Sequence[BusRange]
    """The device's ranges of ports."""

    irq: int | None
    """The device's interrupt line (GSI), if it has one."""


@record
class DeviceKind(Generic[O]):
    """One kind of device that a package offers: ``--device NAME:…``."""

    name: str
    """As on the command line: lower case letters, digits and ``-``."""

    options: type[O]
    """A record that :func:`options` made; :func:`option` says more of its fields than their types."""

    make: Callable[[O], BusDevice | VirtioDevice]
    """Makes one device from its options; often the device's class. Raises :class:`PyvmmError` if the user can fix
    what is wrong."""

    help: str
    """One line for ``--device help``."""

    kernel_config: str = ""
    """The kernel option of the driver that a guest needs, ``CONFIG_…``, or a text that names several:
    ``CONFIG_SCSI_VIRTIO and CONFIG_BLK_DEV_SD``. The log names it if no driver came up."""

    cmdline: Callable[[CmdlineRequest[Any]], str] | None = None
    """Returns the text that this kind's devices add to the kernel's command line; it may be empty."""

    process: bool = True
    """Whether each of its devices can have a process of its own, as virtio devices do. False for a kind of
    :class:`~pyvmm.bus.BusDevice`, and for devices that another program serves."""

    gil_free: bool = False
    """Whether its devices hold the GIL for a few microseconds at most: native code or a system call moves their data,
    and Python does next to nothing for a request. If pyvmm may use one CPU only, such a device lives in the VMM's
    process unless ``process=on`` is given, since a process of its own would cost two context switches a request."""

    needs_memfd: bool = False
    """Whether its devices need the guest's memory to be a memfd. They do if they hand it on to another program, as with
    vhost-user, or give single pages of it back to the host. If no device of a machine needs a memfd and none has a
    process of its own, the machine may have anonymous memory."""

    modules: Sequence[str] = ()
    """Modules that ``make`` imports. They are imported once, before the processes of a machine's devices are made, so
    that these share them. The device's own module is enough, unless it imports others within functions."""

    acpi: Callable[[AcpiRequest[Any]], bytes] | None = None
    """Returns the AML that a device's object in ACPI's name space has besides its ``_HID``, ``_UID``, ``_CCA`` and
    ``_CRS``, as :mod:`pyvmm.x86_64.aml` makes it or iasl compiles it. Called once for each device, before the guest
    runs, in the VMM's process. A device whose placement has no ``acpi_hid`` has an object only if this returns some
    AML. Not called for virtio devices that the guest finds on its command line (``--discovery cmdline``)."""

    restartable: bool = True
    """Whether a device can replace one whose process has died (the option ``restart``). The new device is made from the
    same options and gets the features, configuration writes, rings and requests in flight, but no attribute of the old
    one. False if the process alone holds something that the guest relies on, such as the contents of a disk in memory;
    ``restart=on`` is then a usage error."""
