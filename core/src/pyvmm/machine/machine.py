"""A virtual machine: it puts KVM, memory, devices and a kernel together, runs the vCPUs, and says how the run ended."""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock

from pyvmm.device_request import DeviceRequest, view_of
from pyvmm.errors import HostError, UsageError, cause_of
from pyvmm.exit_reason import End, ExitReason
from pyvmm.host import leftovers
from pyvmm.host.shortage import Need
from pyvmm.kvm import Kvm, KvmError, Vcpu
from pyvmm.logs import logger
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.life import Life, MachineEvent, MachineEvents
from pyvmm.memory import GuestMemory
from pyvmm.startup import trace
from pyvmm.startup.closing import Closers
from pyvmm.startup.threads import Crew, begin
from pyvmm.x86_64 import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self

    from pyvmm.bus import BusDevice
    from pyvmm.device_context import MachineView
    from pyvmm.device_process.parent import DeviceProcesses
    from pyvmm.machine import AsyncMachine
    from pyvmm.machine.console import Console, Consoles
    from pyvmm.machine.life import State
    from pyvmm.machine.vcpu_loop import VcpuLoop
    from pyvmm.virtio.device import VirtioDevice

__all__ = ["Machine"]

log = logger(__name__)


def _requests(devices: Sequence[Any]) -> Sequence[DeviceRequest]:
    """Requests for the ``devices`` of a configuration. Each has a unique id."""
    devices = tuple(devices)  # it may be an iterator
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

    ``with Machine(config) as machine:`` closes it at the end; :meth:`run` runs it on the calling thread, :meth:`start`
    on one of its own. A machine runs once. Several may run at the same time. Any thread may call its methods, and none
    of them has to outlive the others. :class:`~pyvmm.machine.AsyncMachine` is the same for asyncio.

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
        self._life = Life(config.name)
        self._consoles: Consoles | None = None
        self._bus_devices: list[BusDevice] = []
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
            trace.ended("device processes started")
            # Only now: a process has a copy of the view.
            self._view.open_stream = self._open_stream
            self._view.tell = self._tell
            closers.add(self._close_consoles)
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
            """The event loop of the devices in this process. The machine's own thread runs it."""
            closers.add(self.loop.close)
            self.devices = MMIODeviceManager(
                self.memory,
                loop=self.loop,
                stop=self._end_for,
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
            trace.ended("memory registered with KVM")
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
            self._bus_devices.append(device)
            return self.devices.register_bus_device(device, id)
        cmdline = self.cmdline if self.config.discovery == "cmdline" else None
        return self.devices.register_device(device, cmdline, id)

    def run(self) -> ExitReason:
        """Boot, and serve until the machine ends. Returns the reason.

        The calling thread becomes the devices' event loop; each vCPU has a thread of its own. Raises
        :class:`UsageError` if the machine was started before.
        """
        self._life.begin()
        return self._run()

    def start(self) -> None:
        """Boot, and serve on a thread of the machine's own. Returns when the vCPUs run; :meth:`wait` waits for the end.

        Raises :class:`UsageError` if the machine was started before, and what :meth:`run` raises before the vCPUs run.
        """
        self._life.begin()
        begun = allocate_lock()
        begun.acquire()
        started: list[bool] = []

        def on_started() -> None:
            started.append(True)
            begun.release()

        def run() -> None:
            try:
                self._run(on_started)
            except BaseException:
                if started:
                    log.debug("%s: the run failed", self.name or "machine", exc_info=True)  # wait() raises it
            finally:
                if not started:
                    begun.release()

        try:
            begin(run, self.name or "machine")
        except BaseException as error:
            self._life.end(ExitReason(End.HOST_FAILURE, cause_of(error)), error)
            raise
        begun.acquire()
        if not started and self._life.failure is not None:
            raise self._life.failure

    def wait(self, timeout: float | None = None) -> ExitReason:
        """Wait for the end of the run, on any thread but the machine's own. Returns the reason.

        Raises TimeoutError after ``timeout`` seconds, :class:`UsageError` if the machine was not started, and what the
        run raised.
        """
        return self._life.wait(timeout)

    @property
    def state(self) -> State:
        """``made``, ``running``, ``ended`` or ``closed``."""
        return self._life.state

    @property
    def console(self) -> Console:
        """The stream of bytes from and to the first of the devices that have one: ``serial:stream``,
        ``console:stream``. Raises :class:`UsageError` if no device has."""
        for console in self.consoles.values():
            return console
        raise UsageError("console: no device has a stream; add serial:stream or console:stream to devices")

    @property
    def consoles(self) -> Mapping[str, Console]:
        """The streams of all devices that have one, by the devices' ids."""
        return self._consoles.by_device if self._consoles is not None else {}

    def events(self) -> MachineEvents:
        """An iterator over the machine's events, from the first to the last, also those that are past. It waits."""
        return MachineEvents(self._life)

    def subscribe(self, listener: Callable[[MachineEvent], object]) -> Callable[[], None]:
        """Call ``listener(event)`` at each later event. Returns a function that ends that.

        The call comes on the machine's own thread, so it must not wait. An exception is logged.
        """
        return self._life.listen(listener)

    def _run(self, on_started: Callable[[], object] = lambda: None) -> ExitReason:
        failure: BaseException | None = None
        try:
            self._life.is_on_my_thread()
            self._prepare()
            self._serve(on_started)
        except BaseException as error:
            failure = error
            self._end_for(ExitReason(End.HOST_FAILURE, cause_of(error)))
            raise
        finally:
            self._life.end(self._reasons[0], failure)
        return self._reasons[0]

    def _prepare(self) -> None:
        """Write what the guest finds at its start, and tell KVM of the devices."""
        self._boot.add_power(self.devices.ports, self._end_for)
        self._boot.write_tables(self.devices.acpi_devices, self._requests)
        trace.ended("tables and command line for the guest")
        for transport in self.devices.transports():
            transport.on_first_driver = self._driver_up(transport.name)
        self.devices.carry_out(self.vm)
        trace.ended("ioeventfds and irqfds")
        self._boot.set_registers(self.vcpus)
        trace.ended("registers of the vCPUs")
        if self.memory.fds and self.config.join_pages and not self.config.huge_page_size:
            from pyvmm.machine.huge_pages import PageJoiner

            self._closers.closing(PageJoiner(self.memory))

    def _serve(self, on_started: Callable[[], object]) -> None:
        """Run the vCPUs and the devices until the machine ends."""

        def begin_vcpus() -> None:
            self._start_vcpus()
            self._life.tell(MachineEvent("started"))
            on_started()

        # Called on the loop, so that the loop runs before a vCPU's first access.
        self.loop.post(begin_vcpus)
        try:
            self.loop.run()
        except BaseException:
            self._end_for(ExitReason(End.HOST_FAILURE, "the event loop failed"))
            raise
        finally:
            self._crew.close()  # Ctrl-C may have come while the threads were starting
            for join in self._joins:
                join()
            if self._consoles is not None:
                self._consoles.end()
            self._hooks.stopped(self._reasons[0])
        self._report_idle_devices()

    def stop(self, reason: ExitReason | None = None, *, graceful: float | None = None) -> bool:
        """End the run for ``reason``, by default because the user wants it (``End.QUIT``). The first reason counts.

        It returns immediately; :meth:`wait` waits for the end. Any thread or signal handler may call it.

        ``graceful``: the seconds that the guest gets to shut down. A device that can ask it to does so: the keyboard
        controller (``i8042``) by Ctrl-Alt-Del. After that time, the run is ended. If no device can ask, or no driver of
        the guest listens, the run is ended immediately. Returns whether the guest was asked.
        """
        reason = reason or ExitReason(End.QUIT)
        if graceful is not None and self.state == "running":
            if any(device.request_shutdown() for device in self._bus_devices):
                self.loop.post(lambda: self.loop.call_later(graceful, lambda: self._end_for(reason)))
                return True
            log.info("%s: no device can ask the guest to shut down; it is ended", self.name or "machine")
        self._end_for(reason)
        return False

    def close(self) -> None:
        """End the run, if there is one, and release everything; closing twice does nothing.

        Raises :class:`UsageError` on the thread that runs the machine.
        """
        self._life.check_wait("close")
        if self.state == "running":
            self.stop()
            self._life.join()
        self._closers.close()
        self._life.close()

    def _end_for(self, reason: ExitReason) -> None:
        self._reasons.append(reason)
        for vcpu in self.vcpus:
            vcpu.kick()

    def _tell(self, device: str, kind: str) -> None:
        """Something happened to a device. From any thread."""
        self.loop.post(lambda: self._life.tell(MachineEvent(kind, device)))

    def _driver_up(self, device: str) -> Callable[[], None]:
        return lambda: self._tell(device, "driver_up")

    def _close_consoles(self) -> None:
        if self._consoles is not None:
            self._consoles.close()

    def _open_stream(self, device: str, on_end: Callable[[], object]) -> tuple[int, int]:
        if self._consoles is None:
            from pyvmm.machine.console import Consoles

            self._consoles = Consoles()
        return self._consoles.open(device, on_end)

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
            loop = VcpuLoop(vcpu, self.devices.bus, self.devices.ports, self._end_for, self._reasons)
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
                log.info("%s: no driver has started it%s", transport.title, needs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> AsyncMachine:
        from pyvmm.machine import AsyncMachine

        self._twin = AsyncMachine(self)
        return await self._twin.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._twin.__aexit__(*error)
