"""What zsh and fish make of the command's answers. bash is in test_cli.py."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from pyvmm.cli.completion import DeviceFishComplete, DeviceZshComplete

# What the functions of zsh's own completion would be asked for.
ZSH_STUBS = """
compdef() { :; }
compset() { [[ $PREFIX == ${~2}* ]] && PREFIX=${PREFIX##${~2}}; }
_files() { print -r -- files $1 $PREFIX; }
_describe() { print -rl -- described:${(P)^3}; }
compadd() { [[ $4 == -S ]] && print -rl -- key:${(P)^argv[-1]} || print -rl -- ${(P)argv[-1]}; }
words=(pyvmm --device $1); CURRENT=3; PREFIX=$1
"""


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def completed(shell: str, script: str, answer: Sequence[str], tmp_path: Path, *arguments: str) -> list[str]:
    """What ``shell`` prints for ``script`` where ``pyvmm`` answers so, with the word that it was given."""
    command = tmp_path / "pyvmm"
    command.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.join(answer)}\n")
    command.chmod(0o755)
    (tmp_path / "disk.img").touch()
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", script, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@needs("zsh")
@pytest.mark.parametrize(
    ("word", "answer", "replies"),
    [
        ("la", ["plain", "lamp", "a lamp"], ["described:lamp:a lamp"]),
        ("lamp:a,r", ["plain", "lamp:a,ro", "_"], ["lamp:a,ro"]),
        ("lamp:a,r", ["plain", "lamp:a,restart=", "_"], ["key:lamp:a,restart="]),
        ("lamp:di", ["file", "di", "_"], ["files di"]),
        ("/tmp/di", ["dir", "di", "_"], ["files -/ /tmp/di"]),
    ],
)
def test_zsh_completes_what_has_colons_and_equals_signs(
    word: str, answer: Sequence[str], replies: Sequence[str], tmp_path: Path
) -> None:
    source = DeviceZshComplete(click.Command("pyvmm"), {}, "pyvmm", "_PYVMM_COMPLETE").source()
    script = f"{ZSH_STUBS}\n{source}\n_pyvmm_completion"

    assert completed("zsh", script, answer, tmp_path, "zsh", word) == replies


@needs("zsh")
def test_zsh_completes_at_the_first_tab_where_the_script_is_an_installed_file(tmp_path: Path) -> None:
    source = DeviceZshComplete(click.Command("pyvmm"), {}, "pyvmm", "_PYVMM_COMPLETE").source()
    (tmp_path / "_pyvmm").write_text(source)
    script = f"fpath=({tmp_path}); autoload -Uz _pyvmm\n{ZSH_STUBS}\n_pyvmm"

    assert completed("zsh", script, ["plain", "lamp", "_"], tmp_path, "zsh", "la") == ["lamp"]


@needs("fish")
@pytest.mark.parametrize(
    ("word", "answer", "replies"),
    [
        ("la", ["plain,lamp\ta lamp"], ["lamp\ta lamp"]),
        ("lamp:a,r", ["plain,lamp:a,ro", "plain,lamp:a,restart"], ["lamp:a,restart", "lamp:a,ro"]),
        ("lamp:di", ["file,di"], ["lamp:disk.img"]),
        ("di", ["file,di"], ["disk.img"]),
    ],
)
def test_fish_completes_what_has_colons_and_commas(
    word: str, answer: Sequence[str], replies: Sequence[str], tmp_path: Path
) -> None:
    source = DeviceFishComplete(click.Command("pyvmm"), {}, "pyvmm", "_PYVMM_COMPLETE").source()
    script = f"{source}\ncomplete -C 'pyvmm --device {word}'"

    assert completed("fish", script, answer, tmp_path) == replies
