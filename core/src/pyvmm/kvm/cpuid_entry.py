"""One leaf of CPUID, as KVM is asked and told of it."""

from __future__ import annotations

from pyvmm.startup.record import record


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
