"""Where RAM goes, and that nothing lies on something else."""

from __future__ import annotations

import pytest
from pyvmm.errors import UsageError
from pyvmm.limits import MAX_CPUS, PAGE_SIZE
from pyvmm.x86_64 import layout, mptable
from pyvmm.x86_64.boot import registers
from pyvmm.x86_64.layout import GIB, MIB, memory_ranges


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (2 * MIB, [(0, 2 * MIB)]),
        (32 * MIB, [(0, 32 * MIB)]),
        (32 * MIB + 4096, [(0, 32 * MIB + 4096)]),
        (layout.MMIO_BASE, [(0, layout.MMIO_BASE)]),
        (layout.MMIO_BASE + 4096, [(0, layout.MMIO_BASE), (4 * GIB, 4096)]),
        (5 * GIB, [(0, layout.MMIO_BASE), (4 * GIB, 5 * GIB - layout.MMIO_BASE)]),
        (512 * GIB, [(0, layout.MMIO_BASE), (4 * GIB, 512 * GIB - layout.MMIO_BASE)]),
    ],
)
def test_ram_goes_around_the_hole(size: int, ranges: list[tuple[int, int]]) -> None:
    assert memory_ranges(size) == ranges
    assert sum(length for _, length in memory_ranges(size)) == size


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (0, "0 bytes are too few; the least is 2 MiB"),
        (-1, "too few"),
        (-(1 << 70), "too few"),
        (1 * MIB, "too few"),
        (32 * MIB + 1, "not whole pages of 4096; the next size below is 33554432"),
        (1 << 52, "physical addresses of 52 bits"),
        (1 << 70, "physical addresses of 52 bits"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_one_line(size: int, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        memory_ranges(size)

    assert "\n" not in str(caught.value)


def test_the_most_that_is_named_for_narrow_addresses_can_be_had() -> None:
    with pytest.raises(UsageError, match="the most is 1047808 MiB"):
        memory_ranges(1 << 40, physical_bits=40)

    assert memory_ranges(1047808 * MIB, physical_bits=40)[1][1] == (1 << 40) - 4 * GIB


def test_what_is_in_low_memory_does_not_overlap() -> None:
    places = [
        (layout.GDT_ADDRESS, 0x100),
        (layout.ZERO_PAGE_ADDRESS, PAGE_SIZE),
        (layout.PAGE_TABLES_ADDRESS, registers.PAGE_TABLES_SIZE),
        (layout.CMDLINE_ADDRESS, layout.CMDLINE_PLACE_SIZE),
        (layout.EBDA_ADDRESS, layout.EBDA_END - layout.EBDA_ADDRESS),
        (layout.ACPI_ADDRESS, layout.ACPI_END - layout.ACPI_ADDRESS),
        (layout.RESET_VECTOR_ADDRESS, 16),
    ]

    for (base, size), (after, _) in zip(places, [*places[1:], (layout.HIGH_MEMORY, 0)], strict=True):
        assert base + size <= after


def test_the_mp_tables_of_all_cpus_are_in_what_is_reserved_for_them() -> None:
    assert layout.EBDA_ADDRESS <= layout.MP_TABLE_ADDRESS
    assert layout.MP_TABLE_ADDRESS + len(mptable.table(MAX_CPUS)) <= layout.MP_POINTER_ADDRESS
    assert layout.MP_POINTER_ADDRESS + len(mptable.pointer()) <= layout.EBDA_END


def test_the_windows_end_where_the_ioapic_is() -> None:
    assert layout.MMIO_BASE % layout.MMIO_WINDOW_SIZE == 0
    assert layout.MMIO_END == layout.IOAPIC_ADDRESS < layout.LAPIC_ADDRESS < layout.KVM_IDENTITY_MAP_ADDRESS
    assert layout.KVM_IDENTITY_MAP_ADDRESS + 4096 == layout.KVM_TSS_ADDRESS < layout.HOLE_END
    assert layout.IRQ_MAX < layout.IOAPIC_PINS
