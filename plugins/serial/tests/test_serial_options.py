"""What a user may type behind ``--device serial``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import parse_options
from pyvmm_serial import SerialOptions, pyvmm_device_kinds


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", SerialOptions()),
        ("stdio", SerialOptions(backend="stdio")),
        ("pty", SerialOptions(backend="pty")),
        ("file=console.log", SerialOptions(file=Path("console.log"))),
        (",file=a,,b", SerialOptions(file=Path("a,b"))),
        ("unix=/run/console", SerialOptions(unix=Path("/run/console"))),
    ],
)
def test_each_end_of_the_line(text: str, options: SerialOptions) -> None:
    assert parse_options(SerialOptions, "serial", text) == options


@pytest.mark.parametrize("text", ["stdio,file=x", "pty,unix=x", "file=x,unix=y", "tty", "file=", "fiel=x", "pty=x"])
def test_anything_else_is_the_users_mistake(text: str) -> None:
    with pytest.raises(UsageError, match=r"^serial: "):
        parse_options(SerialOptions, "serial", text)


def test_one_kind_that_names_the_guests_driver() -> None:
    (kind,) = pyvmm_device_kinds()

    assert (kind.name, kind.options, kind.kernel_config) == ("serial", SerialOptions, "CONFIG_SERIAL_8250_CONSOLE")


def test_importing_the_plugin_imports_nothing_that_only_some_of_it_needs() -> None:
    program = "import sys, pyvmm_serial; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert not {"pyvmm_serial.uart", "socket", "termios", "subprocess"} & set(modules)
