"""Our numbers beside those of the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pyvmm_virtio_console import constants

EXPRESSIONS = {"EMERG_WR_OFFSET": "__builtin_offsetof(struct virtio_console_config, emerg_wr)"}
OURS = ("RECEIVEQ", "TRANSMITQ", "TYPE_CHECKING")
"""What is in the specification and in no header."""


def test_constants_are_the_kernels(tmp_path: Path) -> None:
    if not shutil.which("cc") or not Path("/usr/include/linux/virtio_console.h").exists():
        pytest.skip("needs a C compiler and the kernel's headers")
    names = [name for name in vars(constants) if name.isupper() and name not in OURS]
    prints = [f'printf("{name} %u\\n", (unsigned)({EXPRESSIONS.get(name, name)}));' for name in names]
    prints.append('printf("rows %zu\\n", __builtin_offsetof(struct virtio_console_config, rows));')
    source = ["#include <stdio.h>", "#include <linux/virtio_console.h>", "int main(void) {", *prints, "return 0; }"]
    (tmp_path / "print.c").write_text("\n".join(source))

    subprocess.run(["cc", "-o", tmp_path / "print", tmp_path / "print.c"], check=True)
    output = subprocess.run([tmp_path / "print"], check=True, capture_output=True, text=True).stdout

    theirs = {name: int(value) for name, value in map(str.split, output.splitlines())}
    assert theirs == {name: getattr(constants, name) for name in names} | {"rows": 2}
