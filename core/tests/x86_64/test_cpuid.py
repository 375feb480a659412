"""What a guest works out from CPUID, by the ways in which Linux does (arch/x86/kernel/cpu)."""

from __future__ import annotations

import struct

import pytest
from pyvmm.kvm.vcpu import CpuidEntry
from pyvmm.limits import MAX_CPUS
from pyvmm.x86_64.cpuid import SIGNIFICANT_INDEX, for_vcpu

CPUS = [1, 2, 3, 4, 5, 8, 9, 16, 63, MAX_CPUS, 255]


def entry(function: int, index: int = 0, eax: int = 0, ebx: int = 0, ecx: int = 0, edx: int = 0) -> CpuidEntry:
    indexed = function in (4, 7, 0xB, 0xD, 0x1F, 0x8000_001D)
    return CpuidEntry(function, index, SIGNIFICANT_INDEX if indexed else 0, eax, ebx, ecx, edx)


def vendor(function: int, top: int, name: bytes) -> CpuidEntry:
    ebx, edx, ecx = struct.unpack("<III", name)
    return entry(function, 0, top, ebx, ecx, edx)


KVM_LEAVES = [
    entry(0x4000_0000, 0, 0x4000_0001, 0x4B4D564B, 0x564B4D56, 0x4D),
    entry(0x4000_0001, 0, 0x0100_7EFB),
]

INTEL = [
    vendor(0, 0x1F, b"GenuineIntel"),
    # A host of 32 threads with everything set that is the host's own: APIC id 0x13, HTT
    entry(1, 0, 0x000606A6, 0x13200800, 0x76FA3203 & ~(1 << 24 | 1 << 31), 0x1F8BFBFF),
    entry(4, 0, 0x7C004121, 0x02C0003F, 0x3F),
    entry(4, 1, 0x7C004122, 0x01C0003F, 0x3F),
    entry(4, 2, 0x7C004143, 0x04C0003F, 0x3FF),
    entry(4, 3, 0x7C0FC163, 0x02C0003F, 0xEFFF),
    entry(4, 4),
    entry(6, 0, 4),
    entry(7, 0, 0, 0xF1BF07EB),
    entry(0xB, 0, 1, 2, 0x100, 0x13),
    entry(0xB, 1, 6, 32, 0x201, 0x13),
    entry(0xB, 2, 0, 0, 2, 0x13),
    entry(0x1F, 0, 1, 2, 0x100, 0x13),
    entry(0x1F, 1, 6, 32, 0x201, 0x13),
    entry(0x1F, 2, 0, 0, 2, 0x13),
    *KVM_LEAVES,
    entry(0x8000_0000, 0, 0x8000_0008),
    entry(0x8000_0001, 0, 0, 0, 0x121, 0x2C100800),
    entry(0x8000_0008, 0, 0x3039),
]

AMD = [
    vendor(0, 0x10, b"AuthenticAMD"),
    entry(1, 0, 0x00A20F12, 0x13200800, 0x76F83203 & ~(1 << 24 | 1 << 31), 0x178BFBFF),
    entry(0xB, 0, 1, 2, 0x100, 0x13),
    entry(0xB, 1, 5, 32, 0x201, 0x13),
    *KVM_LEAVES,
    vendor(0x8000_0000, 0x8000_0021, b"AuthenticAMD"),
    entry(0x8000_0001, 0, 0x00A20F12, 0x20000000, 0x75C237FF, 0x2FD3FBFF),
    entry(0x8000_0008, 0, 0x3030, 0x111EF657, 0x501F, 0),
    entry(0x8000_001D, 0, 0x4121, 0x01C0003F, 0x3F),
    entry(0x8000_001D, 1, 0x4122, 0x01C0003F, 0x3F),
    entry(0x8000_001D, 2, 0x4143, 0x01C0003F, 0x3FF),
    entry(0x8000_001D, 3, 0x3C163, 0x03C0003F, 0x7FFF),
    entry(0x8000_001D, 4),
    entry(0x8000_001E, 0, 0x13, 0x109, 0x300),
    entry(0x8000_0026, 0, 1, 2, 0x100, 0x13),
]

OLD_INTEL = [
    vendor(0, 0xA, b"GenuineIntel"),
    *[one for one in INTEL if 0 < one.function < 0xA],
    *KVM_LEAVES,
]

HOSTS = pytest.mark.parametrize("host", [INTEL, AMD, OLD_INTEL], ids=["Intel", "AMD", "old Intel"])
MODERN = pytest.mark.parametrize("host", [INTEL, AMD], ids=["Intel", "AMD"])


def find(entries: list[CpuidEntry], function: int, index: int = 0) -> CpuidEntry:
    (found,) = [one for one in entries if (one.function, one.index) == (function, index)]
    return found


@HOSTS
@pytest.mark.parametrize("cpus", CPUS)
def test_leaf_1_has_the_cpu_s_own_id_and_their_count(host: list[CpuidEntry], cpus: int) -> None:
    for apic_id in range(cpus):
        leaf = find(for_vcpu(host, apic_id, cpus), 1)

        assert leaf.ebx >> 24 == apic_id
        assert leaf.ebx >> 16 & 0xFF >= cpus
        assert leaf.ebx & 0xFFFF == find(host, 1).ebx & 0xFFFF
        assert bool(leaf.edx & 1 << 28) == (cpus > 1)
        assert leaf.eax == find(host, 1).eax


@HOSTS
def test_leaf_1_says_hypervisor_and_x2apic(host: list[CpuidEntry]) -> None:
    leaf = find(for_vcpu(host, 0, 1), 1)

    assert leaf.ecx & 1 << 31
    assert leaf.ecx & 1 << 21
    assert leaf.ecx & 1 << 24
    assert leaf.ecx | 1 << 31 | 1 << 21 | 1 << 24 == find(host, 1).ecx | 1 << 31 | 1 << 21 | 1 << 24


@HOSTS
def test_no_deadline_timer_where_kvm_has_none(host: list[CpuidEntry]) -> None:
    offered = [one if one.function != 1 else entry(1, 0, one.eax, one.ebx, one.ecx | 1 << 24, one.edx) for one in host]

    assert not find(for_vcpu(offered, 0, 1, tsc_deadline=False), 1).ecx & 1 << 24


@MODERN
@pytest.mark.parametrize("cpus", CPUS)
def test_leaf_b_says_one_socket_of_single_threaded_cores(host: list[CpuidEntry], cpus: int) -> None:
    for apic_id in range(cpus):
        entries = for_vcpu(host, apic_id, cpus)
        for function in {0xB, 0x1F} & {one.function for one in host}:
            smt, core, end = (find(entries, function, index) for index in range(3))

            # detect_extended_topology
            assert (smt.ebx, smt.ecx, smt.eax) == (1, 0x100, 0)
            assert (core.ebx, core.ecx) == (cpus, 0x201)
            assert (end.eax, end.ebx, end.ecx) == (0, 0, 2)
            assert {smt.edx, core.edx, end.edx} == {apic_id}
            assert apic_id >> smt.eax == apic_id
            assert apic_id >> core.eax == 0
            assert all(one.flags == SIGNIFICANT_INDEX for one in (smt, core, end))


@pytest.mark.parametrize("cpus", CPUS)
def test_an_intel_without_leaf_b_works_out_the_same(cpus: int) -> None:
    entries = for_vcpu(OLD_INTEL, cpus - 1, cpus)

    # detect_ht and detect_num_cpu_cores
    cores = (find(entries, 4, 0).eax >> 26) + 1
    assert not any(one.function == 0xB for one in entries)
    if 1 < cpus <= 64:
        assert (find(entries, 1).ebx >> 16 & 0xFF) // cores == 1
        assert cpus <= cores < 2 * cpus


@pytest.mark.parametrize("cpus", CPUS)
def test_intel_caches_belong_to_a_core_but_the_last(cpus: int) -> None:
    entries = for_vcpu(INTEL, 0, cpus)

    sharing = [(find(entries, 4, index).eax >> 14 & 0xFFF) + 1 for index in range(4)]
    assert sharing[:3] == [1, 1, 1]
    assert cpus <= sharing[3] < 2 * cpus
    assert find(entries, 4, 4) == find(INTEL, 4, 4)
    for index in range(4):
        assert find(entries, 4, index).eax & 0x3FFF == find(INTEL, 4, index).eax & 0x3FFF


@pytest.mark.parametrize("cpus", CPUS)
def test_amd_caches_belong_to_a_core_but_the_last(cpus: int) -> None:
    entries = for_vcpu(AMD, 0, cpus)

    sharing = [(find(entries, 0x8000_001D, index).eax >> 14 & 0xFFF) + 1 for index in range(4)]
    assert sharing[:3] == [1, 1, 1]
    assert cpus <= sharing[3] < 2 * cpus
    assert find(entries, 0x8000_001D, 4) == find(AMD, 0x8000_001D, 4)


@pytest.mark.parametrize("cpus", CPUS)
def test_amd_s_own_leaves_count_cores(cpus: int) -> None:
    for apic_id in range(cpus):
        entries = for_vcpu(AMD, apic_id, cpus)

        # amd_detect_cmp and amd_get_topology
        sizes = find(entries, 0x8000_0008).ecx
        assert (sizes & 0xFF) + 1 == cpus
        assert apic_id >> (sizes >> 12 & 0xF) == 0
        ids = find(entries, 0x8000_001E)
        assert (ids.eax, ids.ebx, ids.ecx) == (apic_id, apic_id, 0)
        assert bool(find(entries, 0x8000_0001).ecx & 2) == (cpus > 1)
        assert not any(one.function == 0x8000_0026 for one in entries)


def test_intel_s_extended_leaves_are_left_alone() -> None:
    entries = for_vcpu(INTEL, 3, 4)

    for function in (0x8000_0000, 0x8000_0001, 0x8000_0008):
        assert find(entries, function) == find(INTEL, function)


@HOSTS
def test_kvm_s_leaves_stay(host: list[CpuidEntry]) -> None:
    entries = for_vcpu(host, 1, 2)

    assert all(leaf in entries for leaf in KVM_LEAVES)


@HOSTS
def test_nothing_is_offered_that_the_host_lacks(host: list[CpuidEntry]) -> None:
    entries = for_vcpu(host, 1, 2)

    assert {one.function for one in entries} <= {one.function for one in host}
    keys = [(one.function, one.index) for one in entries]
    assert len(keys) == len(set(keys))
    for one in entries:
        assert all(0 <= value < 1 << 32 for value in (one.eax, one.ebx, one.ecx, one.edx))


def test_what_kvm_gave_is_not_changed() -> None:
    before = list(INTEL)

    for_vcpu(INTEL, 1, 8)

    assert before == INTEL


def test_an_empty_list_stays_empty() -> None:
    assert for_vcpu([], 0, 1) == []
