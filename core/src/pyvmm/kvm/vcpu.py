"""A virtual CPU: its registers, and running it."""

from __future__ import annotations

import errno
import mmap
import os
from types import MethodType

from pyvmm._native import ffi, lib
from pyvmm.kvm.ioctl import KvmError, ioctl
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pyvmm.kvm.fast_port import FastPorts
    from pyvmm.kvm.interrupt_status_table import InterruptStatusTable


class VcpuExit:
    """Why a run of a vCPU ended: KVM_EXIT_* of <linux/kvm.h>, or INTERRUPTED after a kick."""

    INTERRUPTED = -1
    UNKNOWN = lib.KVM_EXIT_UNKNOWN
    EXCEPTION = lib.KVM_EXIT_EXCEPTION
    IO = lib.KVM_EXIT_IO
    HYPERCALL = lib.KVM_EXIT_HYPERCALL
    DEBUG = lib.KVM_EXIT_DEBUG
    HLT = lib.KVM_EXIT_HLT
    MMIO = lib.KVM_EXIT_MMIO
    IRQ_WINDOW_OPEN = lib.KVM_EXIT_IRQ_WINDOW_OPEN
    SHUTDOWN = lib.KVM_EXIT_SHUTDOWN
    FAIL_ENTRY = lib.KVM_EXIT_FAIL_ENTRY
    INTR = lib.KVM_EXIT_INTR
    INTERNAL_ERROR = lib.KVM_EXIT_INTERNAL_ERROR
    SYSTEM_EVENT = lib.KVM_EXIT_SYSTEM_EVENT


@record
class CpuidEntry:
    """``struct kvm_cpuid_entry2`` (<asm/kvm.h>): the answer to ``function``, with ``index`` in ECX."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class Vcpu:
    """A virtual CPU. All methods but :meth:`kick` belong to the thread that runs it."""

    def __init__(
        self, fd: int, index: int, run_size: int, fast_ports: FastPorts, interrupt_status: InterruptStatusTable
    ) -> None:
        """Take over ``fd``; ``run_size`` is the size of its struct kvm_run, in bytes. ``fast_ports`` and
        ``interrupt_status`` say which accesses are served without Python."""
        self._tables = fast_ports, interrupt_status  # `_native` points to both
        self.fd = fd
        self.index = index
        try:
            self._map = mmap.mmap(fd, run_size)
        except OSError:
            os.close(fd)
            raise
        self.run_area = memoryview(self._map)
        """struct kvm_run and the pages behind it, as bytes. They hold the data of an exit."""
        self._buffer = ffi.from_buffer(self._map)
        self._run = ffi.cast("struct kvm_run *", self._buffer)
        native = {"fd": fd, "run": self._run, "fast": fast_ports.native, "interrupt_status": interrupt_status.native}
        self._native = ffi.new("struct pyvmm_vcpu *", native)
        self.exit: Any = self._native.exit
        """The fields of the last exit: error, an errno or 0; reason, address, size, count, is_write, data_offset; and
        key, one number for kind, address, size and direction of a single access, and 0 for any other exit."""
        self.enter: Callable[[], int] = MethodType(lib.pyvmm_vcpu_run, self._native)
        """Does the same as :meth:`run`, as a native function that returns the exit's key."""

    def run(self) -> int:
        """Run the guest up to the next exit. Returns a value of :class:`VcpuExit`; :attr:`exit` has the details.

        The next run completes an I/O exit. The guest then reads the data that was stored for it, or all ones if none
        was.
        """
        self.enter()
        error = int(self.exit.error)
        if error == 0:
            return int(self.exit.reason)
        if error == errno.EINTR:
            return VcpuExit.INTERRUPTED
        raise KvmError("KVM_RUN", error)

    def enter_thread(self) -> None:
        """Say that the calling thread runs this vCPU from now on, so that :meth:`kick` reaches it."""
        error = lib.pyvmm_vcpu_enter_thread(self._native)
        if error:
            raise OSError(error, os.strerror(error))

    def leave_thread(self) -> None:
        """Say that no thread runs this vCPU any more."""
        lib.pyvmm_vcpu_leave_thread(self._native)

    def kick(self) -> None:
        """End the current run, or the next one, with INTERRUPTED. From any thread."""
        if self.fd >= 0:
            lib.pyvmm_vcpu_kick(self._native)

    def exit_detail(self) -> int:
        """The number that details the last exit: suberror, hardware's reason or event type; 0 if it has none."""
        return int(lib.pyvmm_exit_detail(self._run))

    def set_cpuid(self, entries: Sequence[CpuidEntry]) -> None:
        """Set the answers of CPUID (KVM_SET_CPUID2). Before the first run."""
        cpuid = ffi.new("struct kvm_cpuid2 *", {"entries": len(entries)})
        cpuid.nent = len(entries)
        for native, entry in zip(cpuid.entries, entries, strict=True) if entries else ():
            native.function, native.index, native.flags = entry.function, entry.index, entry.flags
            native.eax, native.ebx, native.ecx, native.edx = entry.eax, entry.ebx, entry.ecx, entry.edx
        ioctl(self.fd, "KVM_SET_CPUID2", cpuid)

    def get_regs(self) -> Any:
        """The general registers: a struct kvm_regs."""
        regs = ffi.new("struct kvm_regs *")
        ioctl(self.fd, "KVM_GET_REGS", regs)
        return regs

    def set_regs(self, **registers: int) -> None:
        """Set the general registers by name. Registers that are not named become 0, and rflags 2."""
        regs = ffi.new("struct kvm_regs *")
        regs.rflags = 2
        for name, value in registers.items():
            setattr(regs, name, value)
        ioctl(self.fd, "KVM_SET_REGS", regs)

    def get_sregs(self) -> Any:
        """The segment, control and descriptor-table registers: a struct kvm_sregs, for :meth:`set_sregs`."""
        sregs = ffi.new("struct kvm_sregs *")
        ioctl(self.fd, "KVM_GET_SREGS", sregs)
        return sregs

    def set_sregs(self, sregs: Any) -> None:
        """Set the registers that :meth:`get_sregs` returned and the caller changed."""
        ioctl(self.fd, "KVM_SET_SREGS", sregs)

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set model-specific registers. Raises :class:`KvmError` with the number of the first one that KVM refuses."""
        msrs = ffi.new("struct kvm_msrs *", {"entries": len(values)})
        msrs.nmsrs = len(values)
        for i, (index, value) in enumerate(values.items()):
            msrs.entries[i].index, msrs.entries[i].data = index, value
        done = ioctl(self.fd, "KVM_SET_MSRS", msrs)
        if done < len(values):
            raise KvmError(f"KVM_SET_MSRS of {list(values)[done]:#x}", errno.EINVAL)

    def get_msr(self, index: int) -> int:
        """One model-specific register."""
        msrs = ffi.new("struct kvm_msrs *", {"entries": 1})
        msrs.nmsrs = 1
        msrs.entries[0].index = index
        if ioctl(self.fd, "KVM_GET_MSRS", msrs) != 1:
            raise KvmError(f"KVM_GET_MSRS of {index:#x}", errno.EINVAL)
        return int(msrs.entries[0].data)

    def set_fpu(self, fcw: int, mxcsr: int) -> None:
        """Set the floating-point control words. All other state of the FPU becomes 0."""
        fpu = ffi.new("struct kvm_fpu *")
        fpu.fcw, fpu.mxcsr = fcw, mxcsr
        ioctl(self.fd, "KVM_SET_FPU", fpu)

    def get_lapic(self) -> bytearray:
        """The local APIC's register page, KVM_APIC_REG_SIZE bytes."""
        state = ffi.new("struct kvm_lapic_state *")
        ioctl(self.fd, "KVM_GET_LAPIC", state)
        return bytearray(ffi.buffer(state))

    def set_lapic(self, registers: bytes | bytearray) -> None:
        """Set the register page that :meth:`get_lapic` returned and the caller changed."""
        state = ffi.new("struct kvm_lapic_state *")
        ffi.buffer(state)[:] = bytes(registers)
        ioctl(self.fd, "KVM_SET_LAPIC", state)

    def describe(self) -> str:
        """The registers as text, for the report of a crash."""
        r, s = self.get_regs(), self.get_sregs()
        return "\n".join(
            (
                f"vCPU {self.index}:",
                f"  rip {r.rip:016x}  rflags {r.rflags:016x}",
                f"  rax {r.rax:016x}  rbx {r.rbx:016x}  rcx {r.rcx:016x}  rdx {r.rdx:016x}",
                f"  rsi {r.rsi:016x}  rdi {r.rdi:016x}  rbp {r.rbp:016x}  rsp {r.rsp:016x}",
                f"  r8  {r.r8:016x}  r9  {r.r9:016x}  r10 {r.r10:016x}  r11 {r.r11:016x}",
                f"  r12 {r.r12:016x}  r13 {r.r13:016x}  r14 {r.r14:016x}  r15 {r.r15:016x}",
                f"  cr0 {s.cr0:016x}  cr2 {s.cr2:016x}  cr3 {s.cr3:016x}  cr4 {s.cr4:016x}",
                f"  efer {s.efer:016x}  cs {s.cs.selector:04x}  ss {s.ss.selector:04x}",
                f"  gdt {s.gdt.base:016x}+{s.gdt.limit:04x}  idt {s.idt.base:016x}+{s.idt.limit:04x}",
            )
        )

    def close(self) -> None:
        """Unmap struct kvm_run and close the descriptor. Closing twice does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            lib.pyvmm_vcpu_leave_thread(self._native)
            self._run = self._native.run = ffi.NULL
            self._native.fd = -1
            self.run_area.release()
            ffi.release(self._buffer)
            try:
                self._map.close()
            except BufferError:
                pass  # a device still has the data of an access: it is unmapped when that is released
            os.close(fd)

    def __enter__(self) -> Vcpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
