"""A virtual machine: it puts KVM, memory, devices and a kernel together, runs the vCPUs, and says how the run ended."""

from __future__ import annotations

import errno
import os

from pyvmm.device_request import DeviceRequest, view_of
from pyvmm.errors import HostError, UsageError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.host import leftovers
from pyvmm.host.shortage import Need
from pyvmm.kvm import Kvm, KvmError, Vcpu
from pyvmm.logs import logger
from pyvmm.machine.config import MachineConfig
from pyvmm.memory import GuestMemory
from pyvmm.startup import trace
from pyvmm.startup.closing import Closers
from pyvmm.startup.threads import Crew, begin
from pyvmm.x86_64 import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self

    from pyvmm.bus import BusDevice
    from pyvmm.device_context import MachineView
    from pyvmm.device_process.parent import DeviceProcesses
    from pyvmm.machine.vcpu_loop import VcpuLoop
    from pyvmm.virtio.device import VirtioDevice

__all__ = ["Machine"]

log = logger(__name__)


def _requests(devices: Sequence[Any]) -> Sequence[DeviceRequest]:
    """Requests for the ``devices`` of a configuration. Each has a unique id."""
    if all(isinstance(device, DeviceRequest) for device in devices):
        return devices
    from pyvmm import Plugins  # from the package itself, since the room plugins comes after this one

    return Plugins().request_devices(devices, field="devices")


def _start_processes(requests: Sequence[DeviceRequest], view: MachineView, closers: Closers) -> DeviceProcesses | None:
    """Start the processes of devices that need one. They end with ``closers``."""
    if not any(request.process for request in requests):
        return None
    from pyvmm.device_process.parent import DeviceProcesses

    processes = closers.closing(DeviceProcesses())
    processes.start(requests, view)
    return processes


def _check_cpus(cpus: int, kvm: Kvm) -> None:
    """Raise :class:`UsageError` for more CPUs than KVM supports, and log if there are more than KVM recommends."""
    if cpus == 1:
        return
    if cpus > kvm.max_vcpus:
        raise UsageError(f"cpus: {cpus} are more than the {kvm.max_vcpus} that this host's KVM takes; give fewer")
    if cpus > kvm.recommended_vcpus:
        log.info(
            "cpus: %d are more than the %d that this host's KVM recommends: they take turns, and wait for each other",
            *(cpus, kvm.recommended_vcpus),
        )


def _make_memory(
    config: MachineConfig, requests: Sequence[DeviceRequest], ranges: Sequence[tuple[int, int]]
) -> GuestMemory:
    """Guest memory that is private to the VMM, if no device needs a memfd. The host then makes huge pages itself, at
    first use."""
    if not (
        config.memfd
        or config.huge_page_size
        or not config.join_pages
        or any(request.process or request.kind.needs_memfd for request in requests)
    ):
        from pyvmm.machine.huge_pages import at_first_use

        if at_first_use():
            try:
                return GuestMemory.private(ranges)
            except HostError:
                pass  # a host that counts reserved memory (vm.overcommit_memory=2) may still allow a memfd
    return GuestMemory.create(ranges, huge_page_size=config.huge_page_size, join_pages=config.join_pages)


class Machine:
    """A virtual machine, from its parts to its end.

    >>> with Machine(MachineConfig("vmlinuz")) as machine:  # doctest: +SKIP
    ...     reason = machine.run()

    Raises :class:`PyvmmError` for mistakes and problems that the user or the host's owner can fix.
    """

    def __init__(self, config: MachineConfig) -> None:
        """Put the machine together up to the point where vCPUs run; devices can still be added."""
        ranges = layout.memory_ranges(config.memory)
        host_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if config.memory > host_memory:
            raise UsageError(f"memory: {config.memory >> 20} MiB are more than the host's {host_memory >> 20} MiB")
        self.config = config
        """The machine's configuration."""
        self.name = config.name
        """The machine's name; empty if it has none."""
        requests = _requests(config.devices)
        self._requests = {request.id: request for request in requests}
        self._reasons: list[ExitReason] = []
        self._joins: list[Callable[[], None]] = []
        self._crew = Crew()
        self.vcpus: list[Vcpu] = []
        self._view = view_of(requests, config.name)
        with Closers() as closers:
            leftovers.add(self._view.files.remove)
            closers.add(self._view.files.remove)
            # First, so that a device's process inherits nothing of the machine, and starts in parallel with the
            # machine.
            processes = _start_processes(requests, self._view, closers)
            trace.ended("device processes begun")
            self.kvm = closers.closing(Kvm())
            _check_cpus(config.cpus, self.kvm)
            self.memory = closers.closing(_make_memory(config, requests, ranges))
            """The guest's memory, mapped as long as the machine is open."""
            trace.ended("/dev/kvm, guest memory")
            self.vm = closers.closing(self.kvm.create_vm())
            finish_memory = self._begin_vm(closers)
            trace.ended("virtual machine, interrupt controllers")

            # Imported while KVM registers the memory, which takes milliseconds.
            from pyvmm.device_manager import MMIODeviceManager
            from pyvmm.host.eventloop import EventLoop
            from pyvmm.machine.boot import Boot
            from pyvmm.machine.hooks import MachineHooks

            trace.ended("import of boot and devices")
            self.loop = EventLoop()
            """The event loop of the devices in this process. The thread in :meth:`run` runs it."""
            closers.add(self.loop.close)
            self.devices = MMIODeviceManager(
                self.memory,
                loop=self.loop,
                stop=self.stop,
                fast_ports=self.vm.fast_ports,
                interrupt_status=self.vm.interrupt_status,
                machine=self._view,
            )
            closers.add(self.devices.close)
            self._boot = Boot(self.memory, config)
            self.cmdline = self._boot.cmdline
            """The kernel's command line; until the run, parameters can be added."""
            trace.ended("kernel and initrd")
            self._create_vcpus()
            trace.ended("vCPUs")
            for request in requests:
                with Need(request.id):
                    device = processes.take(request.id) if processes is not None else None
                    self.add_device(device or request.kind.make(request.options), request.id)
                trace.ended(f"device {request.id}")
            finish_memory()
            trace.ended("memory in KVM's hands")
            self._hooks = MachineHooks(self, [request.plugin for request in requests])
            closers.add(lambda: self._hooks.stopped(None))
            self._hooks.created()
            self._closers = closers.take_all()

    def add_device(self, device: VirtioDevice | BusDevice, id: str) -> int:
        """Add ``device`` to the machine, before :meth:`run`. Returns the device's address or first port.

        The machine closes the device, even if it cannot add it.
        """
        from pyvmm.bus import BusDevice

        if isinstance(device, BusDevice):
            return self.devices.register_bus_device(device, id)
        cmdline = self.cmdline if self.config.discovery == "cmdline" else None
        return self.devices.register_device(device, cmdline, id)

    def run(self) -> ExitReason:
        """Boot, and serve until the machine ends. Returns the reason. Call it once.

        The calling thread becomes the devices' event loop; each vCPU has a thread of its own.
        """
        self._boot.add_power(self.devices.ports, self.stop)
        self._boot.write_tables(self.devices.acpi_devices, self._requests)
        trace.ended("tables and command line for the guest")
        self.devices.carry_out(self.vm)
        trace.ended("ioeventfds and irqfds")
        self._boot.set_registers(self.vcpus)
        trace.ended("registers of the vCPUs")
        if self.memory.fds and self.config.join_pages and not self.config.huge_page_size:
            from pyvmm.machine.huge_pages import PageJoiner

            self._closers.closing(PageJoiner(self.memory))
        # Called on the loop, so that the loop runs before a vCPU's first access.
        self.loop.post(self._start_vcpus)
        try:
            self.loop.run()
        except BaseException:
            self.stop(ExitReason(End.HOST_FAILURE, "the event loop failed"))
            raise
        finally:
            self._crew.close()  # Ctrl-C may have come while the threads were starting
            for join in self._joins:
                join()
            self._hooks.stopped(self._reasons[0])
        self._report_idle_devices()
        return self._reasons[0]

    def stop(self, reason: ExitReason) -> None:
        """End the run for ``reason``; the first reason counts. Any thread and any signal handler may call this."""
        self._reasons.append(reason)
        for vcpu in self.vcpus:
            vcpu.kick()

    def close(self) -> None:
        """Release everything; closing twice does nothing."""
        self._closers.close()

    def _begin_vm(self, closers: Closers) -> Callable[[], None]:
        """Set up the parts of KVM that vCPUs need. KVM takes milliseconds to register memory (synchronize_srcu), so a
        thread does it while the rest of the machine is made. Returns a function that waits for the thread and raises
        its error."""
        self.vm.set_tss_address(layout.KVM_TSS_ADDRESS)
        self.vm.set_identity_map_address(layout.KVM_IDENTITY_MAP_ADDRESS)
        self.vm.create_irqchip()
        failures: list[BaseException] = []

        def set_memory() -> None:
            try:
                self.vm.set_memory(self.memory)
            except BaseException as error:
                failures.append(error)

        join = begin(set_memory, "memory")
        closers.add(join)

        def finish() -> None:
            join()
            if failures:
                raise failures[0]

        return finish

    def _create_vcpus(self) -> None:
        from pyvmm.x86_64 import cpuid

        supported = self.kvm.supported_cpuid()
        tsc_deadline = bool(self.kvm.check_extension("KVM_CAP_TSC_DEADLINE_TIMER"))
        for index in range(self.config.cpus):
            try:
                vcpu = self.vm.create_vcpu(index)
            except (KvmError, OSError) as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                raise HostError(
                    f"cpus: no file descriptor is left for vCPU {index} of {self.config.cpus}; raise the limit "
                    f"(ulimit -n), or give fewer"
                ) from error
            vcpu.set_cpuid(cpuid.for_vcpu(supported, index, self.config.cpus, tsc_deadline=tsc_deadline))
            self.vcpus.append(vcpu)

    def _start_vcpus(self) -> None:
        from pyvmm.machine.vcpu_loop import VcpuLoop

        for vcpu in self.vcpus:
            loop = VcpuLoop(vcpu, self.devices.bus, self.devices.ports, self.stop, self._reasons)
            self._joins.append(begin(self._vcpu_run(loop), f"vcpu{vcpu.index}"))
        self._hooks.started()

    def _vcpu_run(self, loop: VcpuLoop) -> Callable[[], None]:
        """The function that the thread of ``loop`` runs."""

        def run() -> None:
            if not self._crew.enter():
                return  # the run is over already: the vCPU's resources may be released
            try:
                if trace.steps is not None and loop.vcpu.index == 0:
                    trace.ended("vCPU 0 enters the guest")
                    trace.report()
                loop.run()
            finally:
                self._crew.leave(self.loop.stop)

        return run

    def _report_idle_devices(self) -> None:
        for transport in self.devices.transports():
            if not transport.driver_was_ok:
                request = self._requests.get(transport.name)
                symbol = request.kind.kernel_config if request else ""
                needs = f"; the guest's kernel needs {symbol}" if symbol else ""
                log.info("%s: no driver came up for it%s", transport.title, needs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
