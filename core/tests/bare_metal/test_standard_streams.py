"""Standard streams that are closed, full, not read, or of another encoding; and a host that lacks /proc and /dev."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "pyvmm"]


@pytest.fixture
def machine(program: Callable[..., Path]) -> list[str]:
    """The command line of a machine that powers off at once."""
    return [*COMMAND, "--kernel", str(program("end.c", "END_POWEROFF")), "--memory", "32M"]


def run(arguments: list[str], shell: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, with redirections as a shell has them."""
    if shell:
        arguments = ["sh", "-c", f'exec "$@" {shell}', "sh", *arguments]
    more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(arguments, capture_output=True, text=True, timeout=250, check=False, **more)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("verbose", [[], ["-v"], ["-vv", "--trace-startup"]])
def test_closed_streams_do_not_disturb_a_machine(machine: list[str], closed: str, verbose: list[str]) -> None:
    done = run([*machine, *verbose], closed)
    assert done.returncode == 0
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--kernel", "/no/kernel"], ["--no-such-option"], ["--device", "nothing"]])
def test_an_error_never_goes_to_stdout(arguments: list[str]) -> None:
    done = run([*COMMAND, *arguments], "2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--device", "help"], ["serve", "--help"]])
def test_an_answer_that_cannot_be_written_is_one_line(arguments: list[str]) -> None:
    done = run([*COMMAND, *arguments], ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "pyvmm: standard output cannot be written: No space left on device\n"


def test_an_error_that_cannot_be_written_leaves_the_status() -> None:
    assert run([*COMMAND, "--kernel", "/no/kernel"], "2>/dev/full").returncode == 2


def test_an_answer_that_nobody_reads_to_its_end_is_no_error() -> None:
    done = run([*COMMAND, "--help"], "| head -c 1")
    assert (done.stdout, done.stderr) == ("U", "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("arguments", [["--help"], ["--device", "help"], ["serve", "--help"]])
def test_an_answer_in_an_encoding_that_lacks_a_character(arguments: list[str], encoding: str) -> None:
    done = run([*COMMAND, *arguments], env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("where", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_a_full_disk_behind_a_stream_does_not_end_a_machine(machine: list[str], where: str) -> None:
    assert run([*machine, "-vv", "--trace-startup"], where).returncode == 0


def test_a_log_that_nobody_reads_does_not_hold_a_machine_up(machine: list[str]) -> None:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        while True:
            try:
                os.write(writing, bytes(4096))
            except BlockingIOError:
                break
        os.set_blocking(writing, True)
        done = subprocess.run([*machine, "-vv"], stdin=subprocess.DEVNULL, stderr=writing, timeout=250, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0


@pytest.mark.parametrize("value", ["Threads", "uring", "0"])
def test_a_wrong_variable_is_the_users_mistake_at_the_start(machine: list[str], value: str) -> None:
    done = run(machine, env={**os.environ, "PYVMM_AIO": value})
    assert done.returncode == 2
    assert done.stderr == (f"pyvmm: PYVMM_AIO={value!r} is not one of io_uring, threads; correct or unset it\n")


JAIL = """
mkdir "$0" && touch "$0/kvm" && mount --bind /dev/kvm "$0/kvm" || exit 77
mount -t tmpfs none /dev && touch /dev/kvm && mount --bind "$0/kvm" /dev/kvm || exit 77
mount -t tmpfs none /proc || exit 77
exec "$@"
"""


@pytest.mark.parametrize("process", ["on", "off"])
def test_a_machine_in_a_jail_without_proc_and_dev(machine: list[str], tmp_path: Path, process: str) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 16))
    words = [*machine, f"--device=block:{disk},process={process}", f"--device=vsock:{tmp_path}/vsock.sock"]
    done = run(
        ["unshare", "--mount", *([] if os.geteuid() == 0 else ["-r"]), "sh", "-c", JAIL, str(tmp_path / "j"), *words]
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mount namespace can be had: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_host_refuses_is_one_line_with_the_path(tmp_path: Path) -> None:
    """An error of the host's that no module puts into words, here from a plugin's folder on the path."""
    (tmp_path / "loop").symlink_to("loop")
    code = f"import os; from pyvmm.cli import main, run; run.run = lambda _: os.stat({str(tmp_path / 'loop')!r})"
    done = run([sys.executable, "-c", f"{code}; import sys; sys.exit(main.main(['--kernel', 'x']))"])
    assert done.returncode == 1
    assert done.stderr == (
        f"pyvmm: {str(tmp_path / 'loop')!r}: Too many levels of symbolic links; -v shows what needs it\n"
    )


def test_a_files_name_cannot_forge_a_line(tmp_path: Path) -> None:
    done = run([*COMMAND, "--kernel", f"{tmp_path}/a\npyvmm: \x1b[31mb"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "\x1b" not in done.stderr
    assert "no such file" in done.stderr


@pytest.mark.parametrize("option", ["--kernel", "--initrd"])
def test_a_tilde_that_no_shell_replaced_is_told_as_one(option: str) -> None:
    done = run([*COMMAND, f"{option}=~/no-such-kernel"])
    assert done.returncode == 2
    assert "a shell replaces ~ only at the start of a word" in done.stderr
