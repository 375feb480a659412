"""Our numbers beside those of the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pyvmm_virtio_net import constants, link, names, tap

HEADERS = ["linux/virtio_net.h", "linux/if_tun.h", "linux/sockios.h", "linux/ethtool.h"]
HEADERS += ["linux/if.h", "linux/rtnetlink.h", "linux/ioctl.h", "asm/socket.h"]
EXPRESSIONS = {
    "HEADER_SIZE": "sizeof(struct virtio_net_hdr_v1)",
    "NUM_BUFFERS_OFFSET": "__builtin_offsetof(struct virtio_net_hdr_v1, num_buffers)",
    "ETHERNET_HEADER_SIZE": "ETH_HLEN",
}
OURS = ("RECEIVEQ", "TRANSMITQ", "VLAN_TAG_SIZE", "MAX_FRAME_SIZE")
"""What is in the specification and in no header."""


def _all() -> dict[str, int]:
    found = {}
    for module in (constants, tap, names, link):
        for name, value in vars(module).items():
            if name.strip("_").isupper() and isinstance(value, int) and name not in OURS:
                found[name.lstrip("_")] = value
    return found


def test_constants_are_the_kernels(tmp_path: Path) -> None:
    if not shutil.which("cc") or not Path("/usr/include/linux/virtio_net.h").exists():
        pytest.skip("needs a C compiler and the kernel's headers")
    lines = ["#include <stdio.h>", *(f"#include <{header}>" for header in HEADERS), "int main(void) {"]
    for name in _all():
        if name in EXPRESSIONS:
            lines.append(f'printf("{name} %lu\\n", (unsigned long)({EXPRESSIONS[name]}));')
        else:  # a header may be older than the name
            lines += [f"#ifdef {name}", f'printf("{name} %lu\\n", (unsigned long)({name}));', "#endif"]
    (tmp_path / "print.c").write_text("\n".join([*lines, "return 0; }"]))

    subprocess.run(["cc", "-o", tmp_path / "print", tmp_path / "print.c"], check=True)
    output = subprocess.run([tmp_path / "print"], check=True, capture_output=True, text=True).stdout

    theirs = {name: int(value) for name, value in map(str.split, output.splitlines())}
    assert theirs == {name: value for name, value in _all().items() if name in theirs}
    assert len(theirs) > 40
