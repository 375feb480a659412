"""A virtual machine: its memory slots, its interrupt controllers, its eventfds."""

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
    """A virtual machine's file descriptor and what hangs on it."""

    def __init__(self, fd: int, run_size: int) -> None:
        """Take over ``fd``; ``run_size`` is what KVM_GET_VCPU_MMAP_SIZE says, in bytes."""
        self.fd = fd
        self._run_size = run_size
        self._vcpus: list[Vcpu] = []
        self.fast_ports = FastPorts()
        self.interrupt_status = InterruptStatusTable()
        self._memory: GuestMemory | None = None

    def set_memory(self, memory: GuestMemory) -> None:
        """Make ``memory`` the guest's: one slot a region. The Vm keeps it mapped as long as it lives."""
        self._memory = memory
        for slot, region in enumerate(memory.regions):
            argument = ffi.new("struct kvm_userspace_memory_region *")
            argument.slot = slot
            argument.guest_phys_addr = region.base
            argument.memory_size = region.size
            argument.userspace_addr = memory.host_address(region)
            ioctl(self.fd, "KVM_SET_USER_MEMORY_REGION", argument)

    def set_tss_address(self, address: int) -> None:
        """Give KVM three pages below 4 GiB that Intel's real mode needs; no guest memory may be there."""
        ioctl(self.fd, "KVM_SET_TSS_ADDR", address)

    def set_identity_map_address(self, address: int) -> None:
        """Give KVM one page below 4 GiB for Intel's unpaged mode; before the first vCPU."""
        ioctl(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", ffi.new("uint64_t *", address))

    def create_irqchip(self) -> None:
        """Make the PICs, the IOAPIC and a local APIC for each vCPU, all in the kernel."""
        ioctl(self.fd, "KVM_CREATE_IRQCHIP")

    def create_vcpu(self, index: int) -> Vcpu:
        """A new vCPU; ``index`` is its APIC ID."""
        fd = ioctl(self.fd, "KVM_CREATE_VCPU", index)
        vcpu = Vcpu(fd, index, self._run_size, self.fast_ports, self.interrupt_status)
        self._vcpus.append(vcpu)
        return vcpu

    def irq_line(self, gsi: int, level: bool) -> None:
        """Set an interrupt line."""
        argument = ffi.new("struct kvm_irq_level *")
        argument.irq = gsi
        argument.level = level
        ioctl(self.fd, "KVM_IRQ_LINE", argument)

    def irqfd(self, fd: int, gsi: int) -> None:
        """Make each signal of eventfd ``fd`` one edge on line ``gsi``, without a thread of ours."""
        argument = ffi.new("struct kvm_irqfd *")
        argument.fd = fd
        argument.gsi = gsi
        ioctl(self.fd, "KVM_IRQFD", argument)

    def ioeventfd(self, fd: int, address: int, size: int, datamatch: int | None = None, *, port: bool = False) -> None:
        """Turn guest writes of ``size`` bytes to ``address`` into signals of eventfd ``fd``.

        With ``datamatch``, only writes of that value; others are exits as before. ``port`` makes ``address`` an
        I/O port.
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
