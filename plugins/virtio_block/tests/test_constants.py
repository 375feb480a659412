"""Our numbers are the kernel's."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from pyvmm_virtio_block import constants
from pyvmm_virtio_block.device import _CONFIG, _WCE
from pyvmm_virtio_block.request import _SEGMENT, HEADER_SIZE

HEADERS = [Path("/usr/include/linux/virtio_blk.h")]


@pytest.mark.skipif(not all(path.exists() for path in HEADERS), reason="needs the kernel's headers")
def test_constants_are_those_of_the_headers() -> None:
    text = "".join(path.read_text() for path in HEADERS)
    defined = {name: int(value, 0) for name, value in re.findall(r"#define\s+(VIRTIO_\w+)\s+(0x[0-9a-f]+|\d+)", text)}
    ours = {name: value for name, value in vars(constants).items() if name.startswith("VIRTIO_")}
    assert ours == {name: defined[name] for name in ours}


def test_sizes_of_structures() -> None:
    assert (HEADER_SIZE, _SEGMENT.size, _CONFIG.size) == (16, 16, 60)
    assert struct.calcsize("<QIIHBBIBBHI") == _WCE
