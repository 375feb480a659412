"""The messages' bytes, as the specification has them, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.vhost_user import protocol
from pyvmm.vhost_user.protocol import (
    ConfigSpace,
    FrontendRequest,
    Header,
    Inflight,
    MemoryRegion,
    ProtocolFeature,
    VhostUserError,
    VringAddr,
    VringFd,
    VringState,
    request_name,
)

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
RECORDS = st.one_of(
    st.builds(VringState, U32, U32),
    st.builds(VringAddr, U32, U32, U64, U64, U64, U64),
    st.builds(VringFd, st.integers(0, 255), st.booleans()),
    st.builds(MemoryRegion, *[st.integers(0, 2**62), st.integers(1, 2**62)] * 2),
    st.builds(ConfigSpace, st.integers(0, 128), st.binary(max_size=128), st.integers(0, 1)),
    st.builds(Inflight, st.integers(0, 2**63), st.integers(0, 2**63 - 1), U16, U16),
)
UNPACKERS: list[Callable[[bytes], object]] = [
    Header.unpack,
    protocol.unpack_u64,
    VringState.unpack,
    VringAddr.unpack,
    VringFd.unpack,
    MemoryRegion.unpack,
    protocol.unpack_memory_table,
    ConfigSpace.unpack,
    Inflight.unpack,
]


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (Header(FrontendRequest.GET_CONFIG, 0x9, 268).pack(), "18000000 09000000 0c010000"),
        (protocol.pack_u64(0x0102030405060708), "0807060504030201"),
        (VringState(1, 256).pack(), "01000000 00010000"),
        (
            VringAddr(1, 2, 3, 4, 5, 6).pack(),
            "01000000 02000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000",
        ),
        (VringFd(3).pack(), "0300000000000000"),
        (VringFd(3, has_fd=False).pack(), "0301000000000000"),
        (
            MemoryRegion(1, 2, 3, 4).pack(),
            "0000000000000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000",
        ),
        (
            protocol.pack_memory_table([MemoryRegion(1, 2, 3, 4)]),
            "01000000 00000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000",
        ),
        (ConfigSpace(4, b"\xaa", 1).pack(), "04000000 01000000 01000000 aa"),
        (Inflight(1, 2, 3, 4).pack(), "0100000000000000 0200000000000000 0300 0400 00000000"),
    ],
)
def test_the_bytes_are_those_of_the_specification(packed: bytes, words: str) -> None:
    assert packed == bytes.fromhex(words)


@given(RECORDS)
def test_what_is_packed_is_unpacked(
    record: VringState | VringAddr | VringFd | MemoryRegion | ConfigSpace | Inflight,
) -> None:
    assert type(record).unpack(record.pack()) == record


@given(st.lists(st.builds(MemoryRegion, *[st.integers(0, 2**62), st.integers(1, 2**62)] * 2), max_size=8))
def test_a_memory_table_is_unpacked_as_it_was_packed(regions: list[MemoryRegion]) -> None:
    assert protocol.unpack_memory_table(protocol.pack_memory_table(regions)) == regions


@pytest.mark.parametrize("unpack", UNPACKERS)
@given(st.binary(max_size=300))
def test_any_bytes_are_unpacked_or_refused(unpack: Callable[[bytes], object], data: bytes) -> None:
    try:
        unpack(data)
    except VhostUserError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("unpack", "data"),
    [
        (Header.unpack, struct.pack("<III", 1, 0, 0)),
        (Header.unpack, struct.pack("<III", 1, 2, 0)),
        (Header.unpack, struct.pack("<III", 1, 1, protocol.MAX_PAYLOAD + 1)),
        (Header.unpack, bytes(11)),
        (VringFd.unpack, struct.pack("<Q", 0x200)),
        (MemoryRegion.unpack, struct.pack("<8xQQQQ", 0, 0, 0, 0)),
        (MemoryRegion.unpack, struct.pack("<8xQQQQ", 2**64 - 4096, 8192, 0, 0)),
        (MemoryRegion.unpack, struct.pack("<8xQQQQ", 0, 8192, 2**64 - 4096, 0)),
        (MemoryRegion.unpack, struct.pack("<8xQQQQ", 0, 8192, 0, 2**64 - 4096)),
        (protocol.unpack_memory_table, struct.pack("<I4x", 9) + bytes(9 * 32)),
        (protocol.unpack_memory_table, struct.pack("<I4x", 2) + bytes(32)),
        (protocol.unpack_memory_table, struct.pack("<I4x", 2**32 - 1)),
        (ConfigSpace.unpack, struct.pack("<III", 0, 4, 0) + bytes(3)),
        (ConfigSpace.unpack, struct.pack("<III", 0, 257, 0) + bytes(257)),
        (ConfigSpace.unpack, struct.pack("<III", 2**32 - 1, 4, 0) + bytes(4)),
        (ConfigSpace.unpack, struct.pack("<III", 0, 1, 2) + bytes(1)),
        (Inflight.unpack, struct.pack("<QQHH4x", 2**63, 2**63 + 1, 1, 1)),
        (Inflight.unpack, bytes(28)),
    ],
)
def test_what_cannot_be_is_refused(unpack: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(VhostUserError):
        unpack(data)


def test_a_whole_array_of_regions_is_taken_for_a_table_of_fewer() -> None:
    region = MemoryRegion(0, 4096, 0, 0)
    table = protocol.pack_memory_table([region])

    assert protocol.unpack_memory_table(table + bytes(7 * 32)) == [region]


def test_an_inflight_description_without_its_padding_is_taken() -> None:
    assert Inflight.unpack(Inflight(1, 2, 3, 4).pack()[:20]) == Inflight(1, 2, 3, 4)


def test_more_regions_than_a_table_has_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="9 memory regions"):
        protocol.pack_memory_table([MemoryRegion(0, 4096, 0, 0)] * 9)


def test_the_numbers_that_others_know() -> None:
    assert ProtocolFeature.STATUS.mask == 1 << 16
    assert FrontendRequest.GET_STATUS == 40
    assert request_name(24) == "GET_CONFIG"
    assert request_name(77) == "request 77"
