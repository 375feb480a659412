"""`tests/lab/run` is transparent: a command in the lab is as one without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.lab import prepare
from tests.system.prepared import CACHE

HERE = Path(__file__).resolve().parent
RUN = HERE / "run"

in_lab = pytest.mark.skipif(bool(os.environ.get("PYVMM_LAB")), reason="the lab has no lab in it")
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)


@pytest.fixture
def prepared() -> None:
    """The first use of a lab makes its machine, and says so."""
    prepare.initramfs()


def run(*command: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RUN, *command],
        input=text,
        capture_output=True,
        text=True,
        cwd=HERE,
        env=os.environ | environment,
        check=False,
    )


@in_lab
@needs_qemu
@pytest.mark.usefixtures("prepared")
def test_arguments_environment_directory_streams_and_status_pass_through() -> None:
    script = 'printf "%s|" "$@"; pwd; echo "$PYVMM_WORD"; cat; echo oops >/dev/stderr; test -w /dev/kvm && exit 7'
    arguments = ("a b", "new\nline", "quo'\"te", "ä$HOME", "")

    result = run("sh", "-c", script, "sh", *arguments, text="input\n", PYVMM_WORD="x y")

    assert result.stderr == "oops\n"
    assert result.stdout == "|".join(arguments) + f"|{HERE}\nx y\ninput\n"
    assert result.returncode == 7


@in_lab
@needs_qemu
@pytest.mark.usefixtures("prepared")
def test_a_panic_is_told_from_a_command_that_failed() -> None:
    result = run("sh", "-c", "echo c >/proc/sysrq-trigger")

    assert result.returncode == 125
    assert "the machine ended before the command did" in result.stderr
    assert "sysrq" in result.stderr


@in_lab
@needs_qemu
@pytest.mark.usefixtures("prepared")
def test_a_machine_that_stands_still_is_given_up() -> None:
    stop = """
        port=$(readlink /run/lab/port.status)
        for fd in /proc/[0-9]*/fd/*; do
            [ "$(readlink "$fd")" != "$port" ] || { pid=${fd#/proc/} && kill -STOP "${pid%%/*}"; }
        done
        sleep 1000
    """
    result = run("sh", "-c", stop, PYVMM_LAB_SILENCE="20")
    assert result.returncode == 125
    assert "no sign of life for 20 seconds" in result.stderr


@in_lab
@needs_qemu
@pytest.mark.usefixtures("prepared")
def test_a_command_is_run_again_where_its_machine_was_lost() -> None:
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        script = 'cd "$1"; test -e lost && exit 7; touch lost; sync; echo c >/proc/sysrq-trigger'
        assert run("sh", "-c", script, "sh", scratch, PYVMM_LAB_TRIES="4").returncode == 7


def test_without_a_command_it_says_how_to_call_it() -> None:
    result = run()

    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")


@in_lab
def test_a_setting_that_is_no_number_is_refused() -> None:
    result = run("true", PYVMM_LAB_MEMORY="4G")

    assert result.returncode == 125
    assert result.stderr == "lab: PYVMM_LAB_MEMORY=4G: a positive whole number is wanted\n"
