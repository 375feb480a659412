"""Any sequence of requests leaves the image as a plain model of a disk has it."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm_virtio_block import constants as c

SECTORS = 256


@st.composite
def operations(draw: st.DrawFn) -> tuple[str, int, int, list[int], int]:
    """What to do, where, how many sectors, where its data is cut, and a byte to fill it with."""
    what = draw(st.sampled_from(["read", "write", "write", "discard", "zero", "flush"]))
    sector = draw(st.integers(0, SECTORS - 1))
    count = draw(st.integers(1, min(24, SECTORS - sector)))
    cuts = sorted(draw(st.sets(st.integers(1, count * 512 - 1), max_size=5)))
    return what, sector, count, cuts, draw(st.integers(1, 255))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(operations(), min_size=1, max_size=12))
def test_the_disk_is_what_its_requests_made_it(disk: Any, image: Path, steps: Any) -> None:
    disk.driver.start()
    model = bytearray(image.read_bytes())
    for what, sector, count, cuts, fill in steps:
        edges = [0, *cuts, count * 512]
        lengths = [end - start for start, end in pairwise(edges)]
        where = slice(sector * 512, (sector + count) * 512)
        match what:
            case "read":
                assert disk.read(sector, *lengths) == model[where]
            case "write":
                data = bytes((fill + i) % 256 for i in range(count * 512))
                assert disk.write(sector, *(data[a:b] for a, b in pairwise(edges))) == 0
                model[where] = data
            case "flush":
                assert disk.request(c.VIRTIO_BLK_T_FLUSH)[0] == 0
            case _:
                type_ = c.VIRTIO_BLK_T_DISCARD if what == "discard" else c.VIRTIO_BLK_T_WRITE_ZEROES
                assert disk.request(type_, 0, [struct.pack("<QII", sector, count, 0)])[0] == 0
                model[where] = bytes(count * 512)
    assert image.read_bytes() == model
