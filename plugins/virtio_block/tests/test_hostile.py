"""Requests that break the rules are answered or given back, and the device goes on."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyvmm_virtio_block import constants as c

OK, IOERR, UNSUPP = c.VIRTIO_BLK_S_OK, c.VIRTIO_BLK_S_IOERR, c.VIRTIO_BLK_S_UNSUPP
IN, OUT, FLUSH, GET_ID = c.VIRTIO_BLK_T_IN, c.VIRTIO_BLK_T_OUT, c.VIRTIO_BLK_T_FLUSH, c.VIRTIO_BLK_T_GET_ID
DISCARD, WRITE_ZEROES = c.VIRTIO_BLK_T_DISCARD, c.VIRTIO_BLK_T_WRITE_ZEROES


@pytest.fixture(autouse=True)
def unharmed(disk: Any, image: Path) -> Iterator[None]:
    """Whatever the test does, the image keeps its bytes and the device serves the next request."""
    content = image.read_bytes()
    yield
    assert image.read_bytes() == content
    assert disk.read(1, 512) == content[512:1024]
    assert not disk.driver.needs_reset


def header(type_: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", type_, 0, sector)


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


@pytest.mark.parametrize("type_", [2, 3, 5, 7, 9, 10, 12, 14, 16, 0x80000000, 0xFFFFFFFF])
def test_unknown_type(disk: Any, type_: int) -> None:
    assert disk.request(type_, 0, [b"x" * 512], [512]) == (UNSUPP, b"\xa5" * 512)


@pytest.mark.parametrize("length", [1, 4, 8, 15])
def test_short_header(disk: Any, length: int) -> None:
    assert disk.answer(disk.raw([header(IN)[:length]], [512, 1])) == (IOERR, b"\xa5" * 512)


def test_no_header(disk: Any) -> None:
    assert disk.answer(disk.raw([], [16, 512, 1]))[0] == IOERR


def test_no_status(disk: Any) -> None:
    assert disk.raw([header(OUT), b"x" * 512]).length == 0


def test_header_alone(disk: Any) -> None:
    assert disk.raw([header(FLUSH)]).length == 0


@pytest.mark.parametrize("length", [1, 511, 513, 1000])
def test_length_not_a_multiple_of_a_sector(disk: Any, length: int) -> None:
    assert disk.request(IN, 0, (), [length]) == (IOERR, b"\xa5" * length)
    assert disk.request(OUT, 0, [b"x" * length])[0] == IOERR


def test_no_data(disk: Any) -> None:
    assert disk.request(IN) == (IOERR, b"")
    assert disk.request(OUT) == (IOERR, b"")


def test_data_in_the_wrong_direction(disk: Any) -> None:
    assert disk.request(IN, 0, [b"x" * 512]) == (IOERR, b"")
    assert disk.request(OUT, 0, (), [512]) == (IOERR, b"\xa5" * 512)


@pytest.mark.parametrize(
    ("sector", "length"),
    [(256, 512), (255, 1024), (0, 257 * 512), (1 << 32, 512), (2**64 - 1, 512), (2**55, 512), ((1 << 55) - 1, 1024)],
)
def test_past_the_end(disk: Any, sector: int, length: int) -> None:
    assert disk.request(IN, sector, (), [length]) == (IOERR, b"\xa5" * length)
    assert disk.request(OUT, sector, [b"x" * length])[0] == IOERR


@pytest.mark.parametrize("length", [1, 19])
def test_get_id_with_too_little_room(disk: Any, length: int) -> None:
    assert disk.request(GET_ID, writable=[length]) == (IOERR, b"\xa5" * length)


def test_get_id_with_no_room(disk: Any) -> None:
    assert disk.request(GET_ID) == (IOERR, b"")


def test_get_id_with_more_room_than_needed(disk: Any) -> None:
    assert disk.request(GET_ID, writable=[30]) == (OK, bytes(20) + b"\xa5" * 10)


@pytest.mark.parametrize("type_", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        segment(0, 1)[:15],
        segment(0, 1) + b"x",
        segment(256, 1),
        segment(255, 2),
        segment(2**64 - 1, 1),
        segment(2**55 - 1, 2),
        segment(0, 0xFFFFFFFF),
        segment(0, 257),
        segment(0, (1 << 22) + 1),
        segment(0, 1) * 31 + segment(256, 1),
        segment(0, 1) * 33,
    ],
)
def test_bad_ranges_change_nothing(disk: Any, type_: int, data: bytes) -> None:
    assert disk.request(type_, 0, [data] if data else []) == (IOERR, b"")


@pytest.mark.parametrize(
    ("type_", "flags"), [(DISCARD, 1), (DISCARD, 2), (WRITE_ZEROES, 2), (WRITE_ZEROES, 0x80000001)]
)
def test_bad_flags(disk: Any, type_: int, flags: int) -> None:
    assert disk.request(type_, 0, [segment(0, 1, flags)]) == (UNSUPP, b"")


def test_ranges_split_in_odd_places(disk: Any) -> None:
    data = segment(0, 1, 2)
    assert disk.request(DISCARD, 0, [data[:5], data[5:]]) == (UNSUPP, b"")


def test_every_other_request_is_served_beside_a_bad_one(disk: Any, image: Path) -> None:
    content = image.read_bytes()
    for sector in range(40):
        disk.add(IN if sector % 2 else 77, sector, (), [512])
    answers = [disk.answer(used) for used in disk.driver.exchange()]
    good = [data for status, data in answers if status == OK]
    assert sorted(good) == sorted(content[s * 512 : s * 512 + 512] for s in range(1, 40, 2))
    assert sum(status == UNSUPP for status, _ in answers) == 20


def test_the_same_buffer_for_header_data_and_status(disk: Any) -> None:
    """A guest that lets one buffer overlap another gets nonsense, and that is all."""
    buffer = disk.driver.heap.allocate(1024)
    buffer.write(header(IN))
    disk.raw([buffer], [buffer])
    for _ in range(3):
        disk.raw([header(IN)], [buffer, buffer, 1])


def test_random_requests(disk: Any) -> None:
    """Headers and shapes at random: each is answered, nothing breaks, and nothing outside the sectors is written."""
    import random

    generator = random.Random(7)
    for _ in range(300):
        type_ = generator.choice([IN, FLUSH, GET_ID, 99, 2**31])
        readable = [header(type_, generator.choice([0, 255, 256, 2**64 - 1])) + os.urandom(generator.randrange(40))]
        readable = [readable[0][: generator.randrange(1, 60)]]
        if len(readable[0]) >= 4 and readable[0][0] == OUT:
            continue
        writable = [generator.randrange(1, 700) for _ in range(generator.randrange(4))]
        assert disk.raw(readable, writable).length == sum(writable)
