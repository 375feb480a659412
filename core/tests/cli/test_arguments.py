"""The quick reader of the command line and click's must never differ."""

from __future__ import annotations

from collections.abc import Sequence

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.cli import main_command
from pyvmm.cli.arguments import Arguments, MemoryOption, parse_memory, read
from pyvmm.errors import PyvmmError
from pyvmm.options import Size
from pyvmm.startup.record import replace

WORDS = [
    *("--kernel", "--initrd", "--cmdline", "--memory", "--cpus", "--device", "--discovery", "--no-plugin"),
    *("--no-default-devices", "--trace-startup", "--verbose", "-v", "-vv", "-vx", "-", "--", "--help", "--no-such"),
    *(
        "--kernel=k",
        "--memory=1G",
        "--cpus=2",
        "--verbose=1",
        "--no-default-devices=1",
        "--kern=k",
        "--no_default_devices",
    ),
    *(
        "k",
        "",
        "1G",
        "3",
        "9",
        "x",
        "acpi",
        "cmdline",
        "block:disk,ro",
        "help",
        ":a",
        "256M,hugepages=on",
        "--cmdline=",
    ),
]


def by_click(words: Sequence[str]) -> Arguments | None:
    """What click reads; None where it refuses, or does something else."""
    try:
        context = main_command.command.make_context("pyvmm", list(words))
    except (click.ClickException, click.exceptions.Exit, PyvmmError):
        return None
    return Arguments(**context.params)


def same(words: Sequence[str]) -> None:
    quick = read(words)
    if quick is not None:
        other = by_click(words)
        assert other is not None
        assert replace(quick, devices=tuple(quick.devices)) == replace(other, devices=tuple(other.devices))


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_what_the_quick_reader_takes_click_takes_alike(words: list[str]) -> None:
    same(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--kernel", "k", "--initrd=i", "--cmdline", "-- quiet", "--memory", "2G,hugepages=1G", "--cpus", "64"],
        ["--no-plugin", "net", "--no-plugin=pyvmm-virtio-*"],
        ["--device", "block:a=b,ro", "--device=net", "--discovery", "cmdline", "-vv", "--verbose", "--trace-startup"],
        ["--kernel", "--initrd", "--memory=1M"],
    ],
)
def test_the_usual_is_read_without_click(words: list[str]) -> None:
    assert read(words) is not None
    same(words)


@pytest.mark.parametrize("words", [["--help"], ["k"], ["--cpus", "65"], ["--memory", "1"], ["--kernel"], ["serve"]])
def test_the_rest_is_left_to_click(words: list[str]) -> None:
    assert read(words) is None


@pytest.mark.parametrize(
    ("text", "size", "page", "join"),
    [
        ("1G", 1 << 30, 0, True),
        ("1G,hugepages=auto", 1 << 30, 0, True),
        ("2M,hugepages=on", 2 << 20, 2 << 20, False),
        ("2G,hugepages=1G", 2 << 30, 1 << 30, False),
        ("1G,hugepages=off", 1 << 30, 0, False),
    ],
)
def test_memory_may_be_of_huge_pages(text: str, size: int, page: int, join: bool) -> None:
    assert parse_memory(text) == MemoryOption(Size(size), page, join)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("0", "is not a multiple of the page size"),
        ("1G,hugepages", "has hugepages=, which is none of"),
        ("1G,hugepages=4M", "has hugepages=4M, which is none of auto, off, on, 2M, 1G"),
        ("1G,huge=on", "has an unknown option 'huge'"),
        ("1536M,hugepages=1G", "is not a multiple of the huge pages' size, 1024 MiB"),
        ("1G,", "has an unknown option ''"),
    ],
)
def test_memory_that_is_wrong_is_named(text: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        parse_memory(text)


def test_a_kernel_is_a_path() -> None:
    arguments = read(["--kernel", "k"])
    assert arguments is not None and arguments.kernel == "k"
