"""The manual pages say what the commands' help says."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from pyvmm.cli.main_command import command as pyvmm
from pyvmm.cli.subcommands import OWN, find

from tests.system.prepared import TOP

COMMANDS = {"pyvmm": pyvmm, **{f"pyvmm-{name}": find(name) for name in OWN}}


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    runpy.run_path(str(TOP / "debian/manual.py"))["main"](tmp_path)
    return tmp_path


def test_each_command_has_a_page_with_all_its_options(pages: Path) -> None:
    assert {page.stem for page in pages.iterdir()} == set(COMMANDS)
    for name, command in COMMANDS.items():
        text = (pages / f"{name}.1").read_text().replace("\\-", "-")
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert options
        for option in options:
            assert re.search(rf"^\.B {re.escape(', '.join(option.opts))}( |$)", text, re.MULTILINE), option


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_has_nothing_against_them(pages: Path) -> None:
    for page in pages.iterdir():
        done = subprocess.run(
            ["groff", "-man", "-K", "utf8", "-T", "utf8", "-ww", "-z", page], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
