"""What a plugin needs to offer devices: the hook marker and the records that its hooks return."""

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
        """typing's, as much of it as is used here."""

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
    """What a kind is told when it may add to the kernel's command line."""

    options: Sequence[O]
    """The options of all devices of this kind, in the order that the guest finds them."""

    user: str
    """What the user gave with --cmdline."""

    has_initrd: bool
    """Whether there is an initrd, which may look for the root file system by itself."""


@record
class AcpiRequest(Generic[O]):
    """What a kind is told when it may describe one of its devices to ACPI."""

    options: O
    """The device's."""

    path: str
    r"""The name of its object, ``\_SB.D002``, for AML elsewhere that refers to it."""

    mmio: BusRange | None
    """Its physical addresses, where it has some."""

    ports: Sequence[BusRange]
    """Its ports."""

    irq: int | None
    """Its interrupt line (GSI)."""


@record
class DeviceKind(Generic[O]):
    """One kind of device that a package offers: ``--device NAME:…``."""

    name: str
    """As on the command line: lower case letters, digits and ``-``."""

    options: type[O]
    """A record that :func:`options` made; :func:`option` says more of its fields than their types."""

    make: Callable[[O], BusDevice | VirtioDevice]
    """Makes one device from its options; often the device's class. Raises :class:`PyvmmError` for what the user
    can mend."""

    help: str
    """One line for ``--device help``."""

    kernel_config: str = ""
    """The kernel option of the driver that a guest needs, ``CONFIG_…``; named when no driver came up. Of several, a
    text that names them: ``CONFIG_SCSI_VIRTIO and CONFIG_BLK_DEV_SD``."""

    cmdline: Callable[[CmdlineRequest[Any]], str] | None = None
    """What this kind's devices add to the kernel's command line, if anything."""

    process: bool = True
    """Whether its devices can have processes of their own, as virtio devices do. No for a kind of
    :class:`~pyvmm.bus.BusDevice`, and for devices that another process serves anyhow."""

    gil_free: bool = False
    """Whether its devices hold the interpreter's lock for a few microseconds at a time: native code or a system call
    moves their data, and Python has next to nothing to do for a request. Such a device lives in the VMM's process where
    pyvmm may use one CPU only, unless ``process=on`` is given: a process of its own would cost it two changes of
    processes a request."""

    needs_memfd: bool = False
    """Whether its devices need the guest's memory to be a memfd: they hand it on to another program, as those do that
    speak vhost-user, or give single pages of it back to the host. A machine none of whose devices does, and none of
    which has a process of its own, may have memory without a descriptor."""

    modules: Sequence[str] = ()
    """Modules that ``make`` imports: imported once, before the processes of a machine's devices are made, which share
    them. The device's own is enough, for what a module imports comes with it; not so what it imports in a function."""

    acpi: Callable[[AcpiRequest[Any]], bytes] | None = None
    """What a device's object in ACPI's name space has besides its ``_HID``, ``_UID``, ``_CCA`` and ``_CRS``: AML, as
    :mod:`pyvmm.x86_64.aml` makes it or iasl compiles it. Asked once for each device, before the guest runs, in the
    VMM's process. A device whose placement has no ``acpi_hid`` has an object if this gives it some AML. Not asked for
    virtio devices that the guest is told of on its command line (``--discovery cmdline``)."""

    restartable: bool = True
    """Whether a device goes on where another was whose process has died, for the option ``restart``: it is made anew
    from its options and gets features, configuration writes, rings and requests in flight, and no attribute of the
    other's. No for one that has what a guest relies on in its process alone, such as the contents of a disk in memory;
    ``restart=on`` is then an error of the command line."""
