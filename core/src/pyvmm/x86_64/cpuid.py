"""The answers of CPUID: what KVM supports on this host, with this machine's number of CPUs.

Leaves and bits: AMD64 Architecture Programmer's Manual, volume 3, appendix E; Intel SDM, volume 2A, CPUID;
Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

import struct

from pyvmm.kvm.vcpu import CpuidEntry
from pyvmm.startup.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

SIGNIFICANT_INDEX: Final = 1 << 0
"""KVM_CPUID_FLAG_SIGNIFCANT_INDEX (<asm/kvm.h>): the entry is for one value of ECX."""

# Leaf 1
ECX_X2APIC: Final = 1 << 21
ECX_TSC_DEADLINE: Final = 1 << 24
ECX_HYPERVISOR: Final = 1 << 31
EDX_HTT: Final = 1 << 28

# Leaf 0x80000001
ECX_CMP_LEGACY: Final = 1 << 1

TOPOLOGY_LEAVES: Final = (0xB, 0x1F)
SMT_LEVEL: Final = 1
CORE_LEVEL: Final = 2

AMD_EXTENDED_TOPOLOGY: Final = 0x8000_0026

_MASK32: Final = 0xFFFF_FFFF


def for_vcpu(
    supported: Sequence[CpuidEntry], apic_id: int, cpus: int, *, tsc_deadline: bool = True
) -> list[CpuidEntry]:
    """The entries for KVM_SET_CPUID2 of the vCPU with ``apic_id``, of ``cpus`` with ids from 0 on.

    ``supported`` is what KVM_GET_SUPPORTED_CPUID gave; ``tsc_deadline`` is whether KVM_CAP_TSC_DEADLINE_TIMER is
    there. The machine is one socket of ``cpus`` cores with one thread each; each core has its own caches of levels 1
    and 2, and all cores share the caches of higher levels.
    """
    topology = _Topology(apic_id, cpus, _vendor(supported))
    entries = []
    for entry in supported:
        if entry.function == 1:
            entries.append(_features(entry, topology, tsc_deadline))
        elif entry.function == 4:
            entries.append(topology.intel_cache(entry))
        elif entry.function in TOPOLOGY_LEAVES:
            if entry.index == 0:
                entries += topology.extended(entry.function)
        elif entry.function == 0x8000_0001:
            entries.append(topology.amd_features(entry))
        elif entry.function == 0x8000_0008:
            entries.append(topology.amd_sizes(entry))
        elif entry.function == 0x8000_001D:
            entries.append(topology.amd_cache(entry))
        elif entry.function == 0x8000_001E:
            entries.append(topology.amd_ids(entry))
        elif entry.function != AMD_EXTENDED_TOPOLOGY:  # it describes the host, and a guest does not need it
            entries.append(entry)
    return entries


def _vendor(entries: Sequence[CpuidEntry]) -> bytes:
    for entry in entries:
        if entry.function == 0:
            return struct.pack("<III", entry.ebx, entry.edx, entry.ecx)
    return b""


def _features(entry: CpuidEntry, topology: _Topology, tsc_deadline: bool) -> CpuidEntry:
    """Leaf 1. KVM's local APIC has x2APIC mode on every host, and a deadline timer where ``tsc_deadline`` says so. KVM
    leaves it to the VMM to offer the timer, and to set the bit that says that there is a hypervisor."""
    ecx = entry.ecx | ECX_HYPERVISOR | ECX_X2APIC
    ecx = ecx | ECX_TSC_DEADLINE if tsc_deadline else ecx & ~ECX_TSC_DEADLINE
    edx = entry.edx | EDX_HTT if topology.cpus > 1 else entry.edx & ~EDX_HTT
    ebx = entry.ebx & 0xFFFF | min(topology.ids, 255) << 16 | (topology.apic_id & 0xFF) << 24
    return replace(entry, ebx=ebx, ecx=ecx & _MASK32, edx=edx & _MASK32)


class _Topology:
    """One socket, ``cpus`` cores, one thread each."""

    def __init__(self, apic_id: int, cpus: int, vendor: bytes) -> None:
        self.apic_id = apic_id
        self.cpus = cpus
        self.amd = vendor in (b"AuthenticAMD", b"HygonGenuine")
        self.id_bits = (cpus - 1).bit_length()
        """The number of bits of the APIC id that select a core."""

        self.ids = 1 << self.id_bits

    def intel_cache(self, entry: CpuidEntry) -> CpuidEntry:
        """Leaf 4: EAX 25:14 APIC ids that share the cache, EAX 31:26 ids for cores in the socket, both minus one."""
        if not entry.eax & 0x1F:  # no cache: the end of the list
            return entry
        eax = entry.eax & 0x3FFF | self._sharing(entry) << 14 | min(self.ids - 1, 0x3F) << 26
        return replace(entry, eax=eax)

    def amd_cache(self, entry: CpuidEntry) -> CpuidEntry:
        """Leaf 0x8000001D: EAX 25:14 CPUs that share the cache, minus one."""
        if not entry.eax & 0x1F:
            return entry
        return replace(entry, eax=entry.eax & 0x3FFF | self._sharing(entry) << 14)

    def _sharing(self, entry: CpuidEntry) -> int:
        level = entry.eax >> 5 & 7
        return min(self.ids - 1, 0xFFF) if level >= 3 else 0

    def extended(self, function: int) -> list[CpuidEntry]:
        """Leaves 0xB and 0x1F: one level with a thread, one level with all cores, and the end of the list."""

        def level(index: int, kind: int, shift: int, count: int) -> CpuidEntry:
            return CpuidEntry(function, index, SIGNIFICANT_INDEX, shift, count, kind << 8 | index, self.apic_id)

        return [
            level(0, SMT_LEVEL, 0, 1),
            level(1, CORE_LEVEL, self.id_bits, self.cpus),
            level(2, 0, 0, 0),
        ]

    def amd_features(self, entry: CpuidEntry) -> CpuidEntry:
        """Leaf 0x80000001: CmpLegacy says that leaf 1 counts cores, not threads."""
        if not self.amd:
            return entry
        ecx = entry.ecx | ECX_CMP_LEGACY if self.cpus > 1 else entry.ecx & ~ECX_CMP_LEGACY
        return replace(entry, ecx=ecx & _MASK32)

    def amd_sizes(self, entry: CpuidEntry) -> CpuidEntry:
        """Leaf 0x80000008: ECX 7:0 cores minus one, ECX 15:12 the number of bits of the APIC id that select one."""
        if not self.amd:
            return entry
        ecx = entry.ecx & ~0xFFFF | min(self.cpus - 1, 0xFF) | self.id_bits << 12
        return replace(entry, ecx=ecx & _MASK32)

    def amd_ids(self, entry: CpuidEntry) -> CpuidEntry:
        """Leaf 0x8000001E: the APIC id; the core id, with one thread per core; node 0 of one."""
        return replace(entry, eax=self.apic_id, ebx=self.apic_id & 0xFF, ecx=0)
