"""Standard input and output, as shells and other programs set them up."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.chardev.escape import EscapeKeys
from pyvmm.chardev.stdio import Stdio
from pyvmm.errors import UsageError
from pyvmm.testing.waiting import PATIENCE, wait_until, wait_until_asleep

from plugins.serial.tests.terminal import PROGRAM, Terminal

FLOOD = f"flood={400 << 10}"  # more than pipe and line can hold
FLOODED = b"ready\r\n" + bytes(range(256)) * 1600


def start(command: str, **files: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(PROGRAM), command], bufsize=0, **files)


def difference(got: bytes, expected: bytes) -> str:
    """Where the two part; empty where they are equal."""
    if got == expected:
        return ""
    at = next((at for at, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), len(got))
    return f"{len(got)} bytes, not {len(expected)}, and from {at} on {got[at : at + 20]!r}"


@pytest.fixture(name="terminal")
def _terminal() -> Iterator[Terminal]:
    terminal = Terminal("echo")
    terminal.expect(b"ready\r\n")
    yield terminal
    terminal.close()


def test_terminal_is_raw_and_every_key_is_the_guests(terminal: Terminal) -> None:
    assert terminal.is_raw

    terminal.type(b"\x03\x04\x1a\r\x13\x11")  # Ctrl-c, Ctrl-d, Ctrl-z, return, Ctrl-s, Ctrl-q

    terminal.expect(b"<\x03><\x04><\x1a><\r><\x13><\x11>")


def test_ctrl_a_x_ends_the_machine_and_restores_the_terminal(terminal: Terminal) -> None:
    terminal.type(b"\x01x")

    assert terminal.process.wait(PATIENCE) == 3
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_a_twice_is_one_and_ctrl_a_h_helps(terminal: Terminal) -> None:
    terminal.type(b"\x01\x01\x01ab\x01h")

    terminal.expect(b"<\x01><\x01><b>")
    terminal.expect(b"Ctrl-a x ")


def test_guests_end_restores_the_terminal(terminal: Terminal) -> None:
    terminal.type(b"q")

    assert terminal.process.wait(PATIENCE) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_vmms_failure_restores_the_terminal() -> None:
    terminal = Terminal("crash")
    terminal.expect(b"the VMM failed")

    assert terminal.process.wait(PATIENCE) == 1
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.close()


def test_stop_restores_the_terminal_and_continuing_takes_it_again(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert termios.tcgetattr(terminal.slave) == terminal.before

    terminal.process.send_signal(signal.SIGCONT)
    terminal.type(b"k\r")
    terminal.expect(b"<k>")

    assert terminal.is_raw


def test_terminal_in_front_of_a_guest_that_does_not_read_still_hears_ctrl_a() -> None:
    terminal = Terminal(FLOOD)  # it prints, and nobody reads the screen
    terminal.expect(b"ready\r\n")
    for _ in range(100):
        terminal.type(b"z" * 100)

    terminal.type(b"\x01x")

    assert terminal.process.wait(PATIENCE) == 3
    terminal.close()


def test_all_that_is_pasted_arrives(terminal: Terminal) -> None:
    pasted = bytes(32 + at % 64 for at in range(64 << 10))
    typing = threading.Thread(target=terminal.type, args=[pasted])  # a terminal takes a few KiB, and then waits
    typing.start()
    expected = b"".join(b"<%c>" % byte for byte in pasted)
    while len(terminal.screen) < len(b"ready\r\n" + expected):
        ready, _, _ = select.select([terminal.master], [], [], PATIENCE)
        assert ready, len(terminal.screen)
        terminal.screen += os.read(terminal.master, 65536)
    typing.join()
    assert not difference(terminal.screen, b"ready\r\n" + expected)


def test_terminal_stays_cooked_when_output_goes_elsewhere(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        terminal = Terminal("echo", stdout=log.fileno())
        terminal.type(b"line\n")
        wait_until(lambda: b"<e>" in (tmp_path / "log").read_bytes(), terminal.process.poll)
        assert not terminal.is_raw

        terminal.type(b"\x03")

        assert terminal.process.wait(PATIENCE) != 0
    terminal.close()


def test_terminal_that_goes_away_ends_nothing_and_does_not_spin() -> None:
    terminal = Terminal("echo", nohup=True)
    terminal.expect(b"ready\r\n")

    terminal.hang_up()

    assert_idle(terminal.process)
    terminal.close()


def test_piped_input_is_the_guests_to_the_last_byte_and_its_end_ends_nothing() -> None:
    process = start("echo", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(b"\x01x\x03")
    process.stdin.close()
    output = b""
    while not output.endswith(b"<\x03>"):
        output += (chunk := process.stdout.read(1))
        assert chunk

    assert output == b"ready\r\n<\x01><x><\x03>"
    assert_idle(process)
    process.kill()
    process.wait()
    process.stdout.close()


def assert_idle(process: subprocess.Popen[bytes]) -> None:
    """The process has dealt with what came, lives, and does nothing."""
    wait_until_asleep(process.pid)
    assert process.poll() is None


@pytest.mark.parametrize("kind", ["/dev/null", "file", "closed"])
def test_input_that_epoll_refuses(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file q")
    name = {"/dev/null": "< /dev/null", "file": f"< {tmp_path}/file", "closed": "<&-"}[kind]
    process = subprocess.Popen(
        f"exec {sys.executable} {PROGRAM} echo {name}", shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    assert process.stdout.read(7) == b"ready\r\n"
    if kind == "file":
        assert process.wait(PATIENCE) == 0
        assert b"<f><r>" in process.stdout.read()
    assert process.poll() in (None, 0)
    process.kill()
    process.wait()
    assert process.stderr.read() == b""
    process.stdout.close()
    process.stderr.close()


def test_a_mebibyte_loses_no_byte() -> None:
    process = start(f"flood={1 << 20}", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    output, _ = process.communicate(timeout=PATIENCE)

    assert not difference(output, b"ready\r\n" + bytes(range(256)) * 4096)


@pytest.mark.parametrize("kind", ["pipe", "file", "terminal"])
def test_flood_loses_no_byte(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        with open(tmp_path / "out", "wb") as out:
            assert start(FLOOD, stdin=subprocess.DEVNULL, stdout=out.fileno()).wait(PATIENCE) == 0
        assert not difference((tmp_path / "out").read_bytes(), FLOODED)
        return
    if kind == "terminal":
        terminal = Terminal(FLOOD)
        assert not difference(terminal.read_all(len(FLOODED)), FLOODED)
        assert terminal.process.wait(PATIENCE) == 0
        terminal.close()
        return
    process = start(FLOOD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=PATIENCE)
    assert not difference(output, FLOODED)
    assert process.returncode == 0


def test_reader_that_pauses_loses_no_byte() -> None:
    process = start(FLOOD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout
    first = process.stdout.read(7)
    wait_until_asleep(process.pid)  # the pipe and the line are full, and the guest waits for the transmitter
    output, _ = process.communicate(timeout=PATIENCE)

    assert not difference(first + output, FLOODED)


def test_reader_that_leaves_ends_nothing_and_is_told_in_one_line() -> None:
    process = start("flood=10000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()

    assert process.wait(PATIENCE) == 0
    assert process.stderr.read() == b"serial0: Broken pipe; output is lost\n"
    process.stderr.close()


def test_inherited_descriptors_stay_blocking() -> None:
    reader, writer = os.pipe()
    process = start("echo", stdin=subprocess.PIPE, stdout=writer)
    assert process.stdin and os.read(reader, 1)

    assert os.get_blocking(process.stdin.fileno())
    assert os.get_blocking(writer)
    process.kill()
    process.wait()
    process.stdin.close()
    os.close(reader)
    os.close(writer)


def test_two_devices_cannot_share_standard_input_and_output() -> None:
    first = Stdio("serial")
    with pytest.raises(UsageError, match=r"^console: .* serve one device, and serial has them"):
        Stdio("console")

    first.close()

    Stdio("console").close()


@pytest.mark.parametrize(
    ("typed", "for_guest", "asked"),
    [
        ([b"hello"], b"hello", []),
        ([b"\x01x"], b"", ["quit"]),
        ([b"a\x01", b"xb"], b"ab", ["quit"]),
        ([b"\x01\x01\x01a"], b"\x01\x01", []),
        ([b"\x01h\x01?"], b"", ["help", "help"]),
        ([b"\x01zq"], b"q", []),
        ([b"\x01\x01x"], b"\x01x", []),
        ([b""], b"", []),
    ],
)
def test_escape_keys(typed: list[bytes], for_guest: bytes, asked: list[str]) -> None:
    acts: list[str] = []
    keys = EscapeKeys(lambda: acts.append("quit"), lambda: acts.append("help"))

    assert b"".join(keys.feed(data) for data in typed) == for_guest
    assert acts == asked
