"""Options, configuration and what is added to the kernel's command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from console_guest import Guest
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.options import parse_options
from pyvmm.plugin import CmdlineRequest
from pyvmm_virtio_console import ConsoleOptions, pyvmm_device_kinds

MakeGuest = Callable[..., Guest]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ConsoleOptions()),
        ("stdio", ConsoleOptions("stdio")),
        ("pty,kernel", ConsoleOptions("pty", kernel=True)),
        ("file=/tmp/log,overflow=drop", ConsoleOptions(file=Path("/tmp/log"), overflow="drop")),
        ("unix=/tmp/sock,kernel=off", ConsoleOptions(unix=Path("/tmp/sock"))),
    ],
)
def test_options(text: str, options: ConsoleOptions) -> None:
    [kind] = pyvmm_device_kinds()

    assert parse_options(kind.options, kind.name, text) == options


@pytest.mark.parametrize("text", ["tty", "stdio,file=x", "file=x,unix=y", "pty,overflow=no", "size=80x24"])
def test_options_that_cannot_be(text: str) -> None:
    [kind] = pyvmm_device_kinds()

    with pytest.raises(UsageError, match=r"^console: "):
        parse_options(kind.options, kind.name, text)


def test_host_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    [kind] = pyvmm_device_kinds()
    (tmp_path / "there").write_text("precious")

    for options in (ConsoleOptions(file=tmp_path), ConsoleOptions(unix=tmp_path / "there")):
        with pytest.raises(PyvmmError, match=rf"^console: (file|unix)={tmp_path}"):
            kind.make(options)


@pytest.mark.parametrize(
    ("which", "cmdline"),
    [([False], ""), ([True], "console=hvc0"), ([False, True, False, True], "console=hvc1 console=hvc3")],
)
def test_kernel_is_told_of_its_consoles(which: list[bool], cmdline: str) -> None:
    [kind] = pyvmm_device_kinds()
    assert kind.cmdline is not None

    request = CmdlineRequest([ConsoleOptions(kernel=kernel) for kernel in which], user="", has_initrd=True)

    assert kind.cmdline(request) == cmdline


def test_configuration_of_what_is_no_terminal(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")

    assert guest.read_config(0, 16) == bytes(16)
    assert guest.offered_features() & 0xFFFFFF == 1 << 2


def test_features_and_configuration_follow_the_terminals_size(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    backend = guest.console._backend
    guest.console.device_features |= 1
    for features, told in ([], False), ([0], True):
        guest.start([])
        guest.console.acked_features |= sum(1 << bit for bit in features)
        generation = guest.config_generation
        backend.size = (0x1234 + told, 0x5678)
        backend.on_resize()

        assert guest.read_config(0, 4, width=1) == bytes([0x34 + told, 0x12, 0x78, 0x56])
        assert (guest.config_generation != generation) is told
        assert guest.take_interrupt() is told


def test_the_size_at_first_is_told_once_with_the_first_output(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.console._backend.size = (80, 24)
    for features, generations in (1, 1), (0, 0), (1, 1):
        guest.start([])
        guest.console.acked_features |= features
        generation = guest.config_generation

        for _ in range(3):
            guest.say(b"a line")

        assert guest.config_generation == generation + generations


def test_resize_without_a_driver_tells_nobody(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.console._backend.size = (80, 24)

    guest.console._backend.on_resize()

    assert guest.read_config(0, 4) == bytes([80, 0, 24, 0])
    assert not guest.take_interrupt()


@pytest.mark.parametrize("left_out", [0, 1])
def test_queue_that_the_driver_left_out(make_guest: MakeGuest, tmp_path: Path, left_out: int) -> None:
    guest = make_guest(file=tmp_path / "log")
    guest.start([], queue_sizes=[0 if index == left_out else 16 for index in range(2)])
    if left_out == 0:
        guest.say(b"hello")
    else:
        guest.post(100)

    assert (tmp_path / "log").read_bytes() == (b"hello" if left_out == 0 else b"")
    assert not guest.needs_reset
