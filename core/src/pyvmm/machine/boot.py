"""The boot of a machine, the task of firmware and boot loader on a PC: load the kernel and its tables into memory, set
the first registers, and add the registers with which a guest powers off or reboots."""

from __future__ import annotations

from pyvmm.exit_reason import End, ExitReason
from pyvmm.plugin import AcpiRequest, CmdlineRequest
from pyvmm.startup.record import replace
from pyvmm.x86_64 import acpi, layout
from pyvmm.x86_64.boot import bootparams, kernel
from pyvmm.x86_64.boot.cmdline import DEFAULT, Cmdline
from pyvmm.x86_64.boot.registers import set_boot_state, set_feature_msrs
from pyvmm.x86_64.platform_devices import AbsentCmos, KeyboardReset, PowerRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyvmm.bus import Bus
    from pyvmm.device_request import DeviceRequest
    from pyvmm.kvm import Vcpu
    from pyvmm.machine.config import MachineConfig
    from pyvmm.memory import GuestMemory
    from pyvmm.x86_64.acpi import AcpiDevice
    from pyvmm.x86_64.boot.initrd import LoadedInitrd

__all__ = ["Boot"]


class Boot:
    """The boot of one machine."""

    def __init__(self, memory: GuestMemory, config: MachineConfig) -> None:
        """Load kernel and initrd. Raises :class:`UsageError` for files that cannot be booted."""
        self._memory = memory
        self._config = config
        self._kernel = kernel.load(memory, config.kernel)
        self.cmdline = Cmdline(" ".join(DEFAULT), limit=bootparams.cmdline_limit(self._kernel))
        """The kernel's command line: until :meth:`write_tables`, parameters can be added."""
        self._initrd = self._load_initrd()

    @property
    def entry(self) -> int:
        """The guest address of the kernel's 64-bit entry."""
        return self._kernel.entry

    def add_power(self, ports: Bus, stop: Callable[[ExitReason], None]) -> None:
        """Add the registers with which a guest powers off or reboots. Call it after all devices were added."""

        def poweroff() -> None:
            stop(ExitReason(End.POWEROFF))

        def reboot() -> None:
            stop(ExitReason(End.REBOOT))

        ports.insert(PowerRegisters(poweroff, reboot), layout.POWER_PORT, layout.POWER_PORT_SIZE)
        # A guest probes these devices at fixed ports, and loses time if nothing tells it that they are absent.
        self._has_i8042 = ports.device_at(layout.I8042_STATUS_PORT) is not None
        self._has_rtc = ports.device_at(layout.CMOS_PORT) is not None
        if not self._has_i8042:
            ports.insert(KeyboardReset(reboot), layout.I8042_STATUS_PORT, 1)
        if not self._has_rtc:
            ports.insert(AbsentCmos(), layout.CMOS_PORT, layout.CMOS_PORT_SIZE)

    def write_tables(self, devices: Sequence[AcpiDevice], requests: Mapping[str, DeviceRequest]) -> None:
        """Write tables and command line, after :meth:`add_power`. ``requests`` has the requests of devices by id."""
        config = self._config
        self._add_kinds_to_cmdline(requests)
        self.cmdline.insert(config.cmdline)
        devices = [_with_terms(at, device, requests.get(device.id)) for at, device in enumerate(devices)]
        tables = acpi.build(config.cpus, devices, i8042=self._has_i8042, rtc=self._has_rtc)
        acpi.write(self._memory, tables)
        if config.discovery == "cmdline":
            from pyvmm.x86_64 import mptable

            mptable.write(self._memory, config.cpus)
        bootparams.write(self._memory, self._kernel, str(self.cmdline), self._initrd, tables.rsdp_address)

    def set_registers(self, vcpus: Sequence[Vcpu]) -> None:
        """Set the vCPUs' registers. The first vCPU enters the kernel, which starts the others."""
        for vcpu in vcpus:
            set_feature_msrs(vcpu)
        set_boot_state(vcpus[0], self._memory, self.entry)

    def _load_initrd(self) -> LoadedInitrd | None:
        if not self._config.initrd:
            return None
        from pyvmm.x86_64.boot import initrd

        return initrd.load(self._memory, self._config.initrd, self._kernel)

    def _add_kinds_to_cmdline(self, requests: Mapping[str, DeviceRequest]) -> None:
        """Add the kernel parameters that the kinds of the machine's devices ask for, once for each kind."""
        by_kind: dict[str, list[DeviceRequest]] = {}
        for request in requests.values():
            by_kind.setdefault(request.kind.name, []).append(request)
        for of_kind in by_kind.values():
            if ask := of_kind[0].kind.cmdline:
                options = [request.options for request in of_kind]
                self.cmdline.insert(ask(CmdlineRequest(options, self._config.cmdline, self._initrd is not None)))


def _with_terms(index: int, device: AcpiDevice, request: DeviceRequest | None) -> AcpiDevice:
    """``device`` with the AML terms that its kind adds to its object."""
    if request is None or request.kind.acpi is None:
        return device
    path = acpi.device_path(index)
    terms = request.kind.acpi(AcpiRequest(request.options, path, device.mmio, device.ports, device.irq))
    return replace(device, terms=terms)
