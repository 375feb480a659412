"""A virtual machine: memory slots, interrupt controllers, vCPUs, irqfds and ioeventfds."""

from __future__ import annotations

import os

from pyvmm._native import ffi, lib
from pyvmm.kvm.fast_port import FastPorts
from pyvmm.kvm.interrupt_status_table import InterruptStatusTable
from pyvmm.kvm.ioctl import ioctl
from pyvmm.kvm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory import GuestMemory


class Vm:
    """A virtual machine's file descriptor, its vCPUs and its memory."""

    def __init__(self, fd: int, run_size: int) -> None:
        """Take over ``fd``. ``run_size``: the size of a vCPU's struct kvm_run, in bytes (KVM_GET_VCPU_MMAP_SIZE)."""
        self.fd = fd
        self._run_size = run_size
        self._vcpus: list[Vcpu] = []
        self.fast_ports = FastPorts()
        self.interrupt_status = InterruptStatusTable()
        self._memory: GuestMemory | None = None

    def set_memory(self, memory: GuestMemory) -> None:
        """Make ``memory`` the guest's memory, with a slot for each region. It stays mapped until :meth:`close`."""
        self._memory = memory
        for slot, region in enumerate(memory.regions):
            argument = ffi.new("struct kvm_userspace_memory_region *")
            argument.slot = slot
            argument.guest_phys_addr = region.base
            argument.memory_size = region.size
            argument.userspace_addr = memory.host_address(region)
            ioctl(self.fd, "KVM_SET_USER_MEMORY_REGION", argument)

    def set_tss_address(self, address: int) -> None:
        """Give KVM three pages of address space below 4 GiB, for real mode on Intel CPUs. They must hold no guest
        memory."""
        ioctl(self.fd, "KVM_SET_TSS_ADDR", address)

    def set_identity_map_address(self, address: int) -> None:
        """Give KVM one page of address space below 4 GiB, for unpaged mode on Intel CPUs. Before the first vCPU."""
        ioctl(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", ffi.new("uint64_t *", address))

    def create_irqchip(self) -> None:
        """Create the PICs, the IOAPIC and a local APIC for each vCPU, all in the kernel."""
        ioctl(self.fd, "KVM_CREATE_IRQCHIP")

    def create_vcpu(self, index: int) -> Vcpu:
        """A new vCPU; ``index`` is its APIC ID."""
        fd = ioctl(self.fd, "KVM_CREATE_VCPU", index)
        vcpu = Vcpu(fd, index, self._run_size, self.fast_ports, self.interrupt_status)
        self._vcpus.append(vcpu)
        return vcpu

    def irq_line(self, gsi: int, level: bool) -> None:
        """Set the level of interrupt line ``gsi`` (KVM_IRQ_LINE)."""
        argument = ffi.new("struct kvm_irq_level *")
        argument.irq = gsi
        argument.level = level
        ioctl(self.fd, "KVM_IRQ_LINE", argument)

    def irqfd(self, fd: int, gsi: int) -> None:
        """Let the kernel raise one edge on interrupt line ``gsi`` for each signal of eventfd ``fd`` (KVM_IRQFD)."""
        argument = ffi.new("struct kvm_irqfd *")
        argument.fd = fd
        argument.gsi = gsi
        ioctl(self.fd, "KVM_IRQFD", argument)

    def ioeventfd(self, fd: int, address: int, size: int, datamatch: int | None = None, *, port: bool = False) -> None:
        """Let guest writes of ``size`` bytes to ``address`` signal eventfd ``fd`` instead of an exit (KVM_IOEVENTFD).

        With ``datamatch``, only writes of that value do; others are still exits. With ``port``, ``address`` is an I/O
        port.
        """
        argument = ffi.new("struct kvm_ioeventfd *")
        argument.fd = fd
        argument.addr = address
        argument.len = size
        if datamatch is not None:
            argument.datamatch = datamatch
            argument.flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        if port:
            argument.flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        ioctl(self.fd, "KVM_IOEVENTFD", argument)

    def close(self) -> None:
        """Close the vCPUs and the machine; closing twice does nothing."""
        for vcpu in self._vcpus:
            vcpu.close()
        self._vcpus.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._memory = None

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
