"""MP tables, read as a guest reads them."""

from __future__ import annotations

import struct

import pytest
from pyvmm.limits import MAX_CPUS
from pyvmm.memory import GuestMemory
from pyvmm.x86_64 import layout, mptable

SIZES = {mptable.PROCESSOR: 20, mptable.BUS: 8, mptable.IOAPIC: 8, mptable.IO_INTERRUPT: 8, mptable.LOCAL_INTERRUPT: 8}


def entries(data: bytes) -> list[bytes]:
    found = []
    at = 44
    while at < len(data):
        found.append(data[at : at + SIZES[data[at]]])
        at += SIZES[data[at]]
    return found


@pytest.mark.parametrize("cpus", [1, 2, 8, MAX_CPUS])
def test_pointer_and_table_are_whole(cpus: int) -> None:
    pointer, table = mptable.pointer(), mptable.table(cpus)

    length, spec, _, _, _, _, _, count = struct.unpack_from("<HBB8s12sIHH", table, 4)
    assert pointer[:4] == b"_MP_"
    assert struct.unpack_from("<I", pointer, 4)[0] == layout.MP_TABLE_ADDRESS
    assert pointer[8] == 1
    assert sum(pointer) & 0xFF == 0
    assert table[:4] == b"PCMP"
    assert (length, spec) == (len(table), 4)
    assert sum(table) & 0xFF == 0
    assert struct.unpack_from("<I", table, 36)[0] == layout.LAPIC_ADDRESS
    assert count == len(entries(table))
    assert [entry[0] for entry in entries(table)] == sorted(entry[0] for entry in entries(table))


def test_cpus_are_enabled_and_the_first_boots() -> None:
    cpus = MAX_CPUS
    processors = [entry for entry in entries(mptable.table(cpus)) if entry[0] == mptable.PROCESSOR]

    assert [entry[1] for entry in processors] == list(range(cpus))
    assert [entry[3] for entry in processors] == [3, *[1] * (cpus - 1)]


@pytest.mark.parametrize("cpus", [3, MAX_CPUS])
def test_each_pin_of_the_ioapic_is_an_interrupt(cpus: int) -> None:
    all_entries = entries(mptable.table(cpus))

    (ioapic,) = [entry for entry in all_entries if entry[0] == mptable.IOAPIC]
    interrupts = [entry for entry in all_entries if entry[0] == mptable.IO_INTERRUPT]
    assert ioapic[1] == cpus
    assert struct.unpack_from("<I", ioapic, 4)[0] == layout.IOAPIC_ADDRESS
    assert [(entry[5], entry[6], entry[7]) for entry in interrupts] == [(pin, cpus, pin) for pin in range(24)]


def test_the_pointer_is_where_a_scan_finds_it() -> None:
    with GuestMemory.create([(0, 2 << 20)]) as mem:
        mptable.write(mem, MAX_CPUS)

        assert mem.read(639 * 1024, 4) == b"_MP_"
        assert mem.read(mem.read_u32(639 * 1024 + 4), 4) == b"PCMP"
