"""A machine among the jobs of a shell on one terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE, wait_until, wait_until_asleep

from plugins.serial.tests.terminal import PROGRAM, Terminal

ECHO = f"{sys.executable} {PROGRAM} echo"

Shell = Callable[[str], Terminal]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Runs a script with job control on a terminal. MACHINE in it is a command; AWAIT waits for :func:`go_on`, without
    a key."""
    terminals: list[Terminal] = []
    os.mkfifo(tmp_path / "go")

    def run(script: str) -> Terminal:
        script = script.replace("MACHINE", ECHO).replace("AWAIT", f"read _ <{tmp_path}/go")
        terminal = Terminal(f"set -m; {script}", program=["bash", "-c"])
        terminals.append(terminal)
        return terminal

    yield run
    for terminal in terminals:
        for number in (signal.SIGKILL, signal.SIGCONT):
            subprocess.run(["pkill", f"-{number.name[3:]}", "-s", str(terminal.process.pid)], check=False)
        terminal.close()


@pytest.fixture
def go_on(tmp_path: Path) -> Callable[[], object]:
    return lambda: (tmp_path / "go").write_text("\n")


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def number_after(terminal: Terminal, text: bytes) -> int:
    """The number that follows ``text`` on the screen, to the end of the line."""
    terminal.expect(text)
    wait_until(lambda: b"\r\n" in terminal.read_waiting().partition(text)[2])
    return int(terminal.screen.partition(text)[2].split(b"\r\n")[0])


@pytest.mark.parametrize("before", ["", "stty tostop"])
def test_machine_in_the_background_runs_on_and_takes_no_key(before: str, shell: Shell) -> None:
    terminal = shell(
        f"""
        {before}
        MACHINE &
        read key
        echo "the shell got $key"
        jobs
        echo "to the foreground"
        fg >/dev/null
        echo "ended with $?"
        """
    )
    terminal.expect(b"ready")
    terminal.type(b"k\r")
    terminal.expect(b"the shell got k")
    terminal.expect(b"Running")
    terminal.expect(b"to the foreground")
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"xq")
    terminal.expect(b"<x><q>")
    terminal.expect(b"ended with 0")
    assert not terminal.is_raw


def test_machine_that_was_stopped_and_sent_to_the_background_comes_back_without_a_key(
    shell: Shell, go_on: Callable[[], object]
) -> None:
    terminal = shell("MACHINE; echo stopped; bg; AWAIT; fg; echo ended with $?")
    terminal.expect(b"ready")
    wait_until(lambda: terminal.is_raw)
    machine = os.tcgetpgrp(terminal.master)

    os.kill(machine, signal.SIGTSTP)
    terminal.expect(b"stopped")
    wait_until(lambda: not is_stopped(machine))
    wait_until_asleep(machine)
    assert not terminal.is_raw

    go_on()
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"q")
    terminal.expect(b"ended with 0")
    assert not terminal.is_raw


def test_terminal_is_raw_again_after_a_stop_that_cannot_be_handled(shell: Shell) -> None:
    terminal = shell("MACHINE; stty sane; echo is sane; fg; echo ended with $?")
    terminal.expect(b"ready")
    wait_until(lambda: terminal.is_raw)

    os.kill(os.tcgetpgrp(terminal.master), signal.SIGSTOP)
    terminal.expect(b"is sane")
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"x\x03q")
    terminal.expect(b"<x><\x03><q>")
    terminal.expect(b"ended with 0")
    assert not terminal.is_raw


@pytest.mark.parametrize("sets", [True, False], ids=["shell that sets the terminal", "shell that does not"])
def test_machine_that_ends_in_the_background_leaves_the_terminal_to_the_foreground(sets: bool, shell: Shell) -> None:
    terminal = shell(f"MACHINE; {'stty sane -echo;' if sets else ''} bg; kill %%; wait; echo it is gone; read key")
    terminal.expect(b"ready")
    wait_until(lambda: terminal.is_raw)

    os.kill(os.tcgetpgrp(terminal.master), signal.SIGSTOP)

    terminal.expect(b"it is gone")
    assert not terminal.is_raw
    assert bool(termios.tcgetattr(terminal.slave)[3] & termios.ECHO) == (not sets)


def test_of_two_machines_on_a_terminal_the_one_in_the_foreground_has_the_keys(shell: Shell) -> None:
    terminal = shell("MACHINE & read key; MACHINE; echo second ended with $?; fg; echo first ended with $?")
    terminal.expect(b"ready")
    terminal.type(b"\r")
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"2q")
    terminal.expect(b"<2><q>")
    terminal.expect(b"second ended with 0")
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"1q")
    terminal.expect(b"<1><q>")
    terminal.expect(b"first ended with 0")
    assert not terminal.is_raw


def test_machine_whose_output_is_a_pipe_runs_on_in_the_background(shell: Shell) -> None:
    terminal = shell("MACHINE | cat & read key; jobs; fg; echo ended with $?")
    terminal.expect(b"ready")
    terminal.type(b"k\r")
    terminal.expect(b"Running")
    wait_until(lambda: os.tcgetpgrp(terminal.master) != terminal.process.pid)
    terminal.type(b"xq\r")
    terminal.expect(b"<x><q>")
    terminal.expect(b"ended with 0")


def test_machine_whose_input_is_a_pipe_prints_in_the_background(shell: Shell, go_on: Callable[[], object]) -> None:
    terminal = shell("stty tostop; { AWAIT; printf xq; } | MACHINE & wait; echo ended with $?")
    terminal.expect(b"ready")

    go_on()

    terminal.expect(b"<x><q>")
    terminal.expect(b"ended with 0")


def test_machine_of_an_orphaned_process_group_runs_on(shell: Shell) -> None:
    terminal = shell("(set -m; MACHINE & echo pid=$!); read key; echo the shell got $key; read key")
    pid = number_after(terminal, b"pid=")
    terminal.expect(b"ready")
    terminal.type(b"k\r")
    terminal.expect(b"the shell got k")

    wait_until_asleep(pid)  # it is there, and not stopped
    assert not terminal.is_raw


def test_nohup_keeps_a_machine_when_its_terminal_hangs_up(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        terminal = Terminal("echo", program=["nohup", sys.executable, str(PROGRAM)], stdout=out.fileno())
    wait_until(lambda: b"ready" in (tmp_path / "out").read_bytes())

    terminal.hang_up()

    wait_until_asleep(terminal.process.pid)
    terminal.close()


def test_machine_in_script() -> None:
    terminal = Terminal("/dev/null", program=["script", "-q", "-e", "-c", ECHO])
    terminal.expect(b"ready")
    wait_until(lambda: terminal.is_raw)
    terminal.type(b"x\x03")
    terminal.expect(b"<x><\x03>")

    terminal.type(b"\x01x")

    assert terminal.process.wait(PATIENCE) == 3
    assert not terminal.is_raw
    terminal.close()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux")
def test_machine_in_tmux(tmp_path: Path) -> None:
    def tmux(*arguments: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    tmux("new-session", "-d", "-x", "80", "-y", "24", f"{ECHO}; echo ended with $?; stty -a; read key")
    try:
        wait_until(lambda: "ready" in tmux("capture-pane", "-p"))
        tmux("send-keys", "x", "C-c")
        wait_until(lambda: "<x><" in tmux("capture-pane", "-p"))
        tmux("send-keys", "C-a", "x")
        wait_until(lambda: "ended with 3" in tmux("capture-pane", "-p"))
        wait_until(lambda: " icanon" in tmux("capture-pane", "-p"))
    finally:
        tmux("kill-server")
