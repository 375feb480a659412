"""Our numbers beside those of the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pyvmm_virtio_vsock import constants
from pyvmm_virtio_vsock.packet import HEADER_SIZE

OURS = ("RXQ", "TXQ", "EVENTQ", "VIRTIO_VSOCK_F_STREAM", "TYPE_CHECKING")
"""What is in the specification and in no header."""


def test_constants_are_the_kernels(tmp_path: Path) -> None:
    if not shutil.which("cc") or not Path("/usr/include/linux/virtio_vsock.h").exists():
        pytest.skip("needs a C compiler and the kernel's headers")
    names = [name for name in vars(constants) if name.isupper() and name not in OURS]
    source = (
        "#include <stdio.h>\n#include <sys/socket.h>\n#include <linux/virtio_vsock.h>\n#include <linux/vm_sockets.h>\n"
    )
    lines = [f'printf("{name} %u\\n", (unsigned){name});' for name in names]
    lines.append('printf("HEADER_SIZE %zu\\n", sizeof(struct virtio_vsock_hdr));')
    (tmp_path / "print.c").write_text(source + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")

    subprocess.run(["cc", "-o", tmp_path / "print", tmp_path / "print.c"], check=True)
    output = subprocess.run([tmp_path / "print"], check=True, capture_output=True, text=True).stdout

    theirs = {name: int(value) for name, value in map(str.split, output.splitlines())}
    assert theirs == {name: getattr(constants, name) for name in names} | {"HEADER_SIZE": HEADER_SIZE}
