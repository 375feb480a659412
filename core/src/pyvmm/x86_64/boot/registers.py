"""The registers with which the first vCPU enters a kernel in 64-bit mode (Documentation/arch/x86/boot.rst)."""

from __future__ import annotations

from pyvmm.x86_64.boot import gdt, paging
from pyvmm.x86_64.layout import ZERO_PAGE_ADDRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from pyvmm.kvm import Vcpu
    from pyvmm.memory import GuestAddress, GuestMemory

CR0_PE: Final = 1 << 0
CR0_MP: Final = 1 << 1
CR0_ET: Final = 1 << 4
CR0_NE: Final = 1 << 5
CR0_WP: Final = 1 << 16
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
CR4_OSFXSR: Final = 1 << 9
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10

RFLAGS_FIXED: Final = 1 << 1
RFLAGS_IOPL3: Final = 3 << 12

MSR_IA32_MISC_ENABLE: Final = 0x1A0
MISC_ENABLE_FAST_STRING: Final = 1 << 0
MSR_MTRR_DEF_TYPE: Final = 0x2FF
MTRR_ENABLE_WRITE_BACK: Final = 1 << 11 | 6

APIC_LVT0: Final = 0x350
APIC_LVT1: Final = 0x360
APIC_MODE_NMI: Final = 0x400
APIC_MODE_EXTINT: Final = 0x700


def set_boot_state(vcpu: Vcpu, mem: GuestMemory, entry: GuestAddress, *, user: bool = False) -> None:
    """Make ``vcpu`` start at ``entry``: 64-bit, the first 4 GiB mapped to themselves, RSI at the zero page.

    With ``user`` it starts at privilege level 3 with access to all ports, for programs that need no kernel.
    """
    gdt_base, gdt_limit = gdt.write(mem)
    sregs = vcpu.get_sregs()
    code, data = (gdt.USER_CODE, gdt.USER_DATA) if user else (gdt.CODE, gdt.DATA)
    _set_segment(sregs.cs, code)
    for register in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _set_segment(register, data)
    _set_segment(sregs.tr, gdt.TSS)
    _set_segment(sregs.ldt, gdt.LDT)
    sregs.gdt.base, sregs.gdt.limit = gdt_base, gdt_limit
    sregs.idt.base = sregs.idt.limit = 0
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG
    sregs.cr3 = paging.write(mem, user=user)
    sregs.cr4 = CR4_PAE | CR4_OSFXSR
    sregs.efer = EFER_LME | EFER_LMA
    vcpu.set_sregs(sregs)
    rflags = RFLAGS_FIXED | (RFLAGS_IOPL3 if user else 0)
    vcpu.set_regs(rip=entry, rsi=ZERO_PAGE_ADDRESS, rsp=ZERO_PAGE_ADDRESS, rflags=rflags)
    vcpu.set_fpu(fcw=0x37F, mxcsr=0x1F80)
    _set_lint(vcpu)


def set_feature_msrs(vcpu: Vcpu) -> None:
    """Set what a BIOS sets alike on every CPU: Linux complains of one that differs."""
    vcpu.set_msrs({MSR_IA32_MISC_ENABLE: MISC_ENABLE_FAST_STRING, MSR_MTRR_DEF_TYPE: MTRR_ENABLE_WRITE_BACK})


def _set_segment(register: Any, segment: gdt.Segment) -> None:
    for field, value in vars(segment).items():
        setattr(register, field, value)


def _set_lint(vcpu: Vcpu) -> None:
    """The first CPU's local interrupt pins, as a BIOS leaves them: the PICs on one, NMI on the other."""
    registers = vcpu.get_lapic()
    for offset, mode in ((APIC_LVT0, APIC_MODE_EXTINT), (APIC_LVT1, APIC_MODE_NMI)):
        registers[offset : offset + 4] = mode.to_bytes(4, "little")
    vcpu.set_lapic(registers)
