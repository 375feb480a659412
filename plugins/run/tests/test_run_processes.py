"""Commands through the guest's program, which is a process of this host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.testing.waiting import wait_until
from pyvmm_run import Sandbox

MIB = 1 << 20


def test_output_and_errors_are_apart_and_the_status_is_the_command_s(sandbox: Sandbox) -> None:
    result = sandbox.run(["sh", "-c", "echo out; echo err >&2; exit 7"], capture_output=True)

    assert (result.returncode, result.stdout, result.stderr) == (7, b"out\n", b"err\n")


def test_a_command_gets_its_words_its_environment_and_its_directory(sandbox: Sandbox) -> None:
    script = 'printf "%s|" "$@"; echo "$NAME|$PWD"; [ -z "$HOME" ]'
    words = ["sh", "-c", script, "sh", "two words", "", "ö\n", "x" * 100_000]

    result = sandbox.run(words, env={"NAME": "val=ue", "PATH": os.environ["PATH"]}, cwd="/usr", capture_output=True)

    assert result.returncode == 0
    assert result.stdout.decode() == f"two words||ö\n|{'x' * 100_000}|val=ue|/usr\n"


def test_megabytes_go_in_and_come_out_whole(sandbox: Sandbox) -> None:
    data = os.urandom(8 * MIB)

    result = sandbox.run(["sh", "-c", "tee /dev/stderr"], input=data, capture_output=True)

    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(result.stderr).digest() == hashlib.sha256(data).digest()


def test_input_may_be_left_unread(sandbox: Sandbox) -> None:
    assert sandbox.run(["true"], input=bytes(8 * MIB)).returncode == 0


def test_a_command_without_input_finds_its_end(sandbox: Sandbox) -> None:
    assert sandbox.run(["cat"], capture_output=True).stdout == b""


def test_a_signal_that_ends_a_command_is_a_negative_status(sandbox: Sandbox) -> None:
    assert sandbox.run(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "cwd", "error"),
    [
        (["no-such-command"], "/", FileNotFoundError),
        (["/etc/passwd"], "/", PermissionError),
        (["true"], "/no/such/place", FileNotFoundError),
    ],
)
def test_what_cannot_be_started_is_an_os_error(
    sandbox: Sandbox, words: list[str], cwd: str, error: type[OSError]
) -> None:
    with pytest.raises(error):
        sandbox.run(words, cwd=cwd)

    assert sandbox.run(["true"]).returncode == 0


def test_a_command_that_never_ends_is_killed_after_the_timeout(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sandbox.run(
            ["sh", "-c", f"echo begun; echo $$ >{tmp_path}/pid; while :; do sleep 1000; done"],
            capture_output=True,
            timeout=2,
        )

    assert caught.value.timeout == 2
    pid = Path(tmp_path, "pid").read_text().strip()  # a shell says that much in two seconds, or the test tells
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_process_that_keeps_the_streams_open_does_not_hold_up_the_end(sandbox: Sandbox) -> None:
    result = sandbox.run(["sh", "-c", "sleep 1000 & echo $!"], capture_output=True)

    os.kill(int(result.stdout), signal.SIGKILL)
    assert result.returncode == 0


def test_files_go_in_and_out(sandbox: Sandbox, tmp_path: Path) -> None:
    data = os.urandom(MIB)
    sandbox.write_file(f"{tmp_path}/a b", data)

    assert (tmp_path / "a b").read_bytes() == sandbox.read_file(f"{tmp_path}/a b") == data
    with pytest.raises(FileNotFoundError):
        sandbox.read_file(f"{tmp_path}/missing")
    with pytest.raises(IsADirectoryError):
        sandbox.write_file(str(tmp_path), b"")
    with pytest.raises(UsageError):
        sandbox.read_file("relative")


def test_several_commands_at_once(sandbox: Sandbox) -> None:
    results: dict[int, bytes] = {}

    def use(number: int) -> None:
        data = bytes([number]) * MIB
        results[number] = sandbox.run(["cat"], input=data, capture_output=True).stdout

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {number: bytes([number]) * MIB for number in range(8)}


def test_popen_talks_to_its_command_while_it_runs(sandbox: Sandbox) -> None:
    with sandbox.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        assert process.poll() is None
        process.stdin.close()
        assert process.wait() == 0


def test_popen_communicates(sandbox: Sandbox) -> None:
    process = sandbox.popen(
        ["sh", "-c", "cat; echo err >&2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    with process:
        assert process.communicate("ö" * MIB) == ("ö" * MIB, "err\n")
    assert process.returncode == 0


def test_a_signal_reaches_the_command_and_its_children(sandbox: Sandbox) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; sleep 1000 & wait; wait"
    with sandbox.popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait() == 3
        assert process.stdout.read() == b"caught\n"


def test_a_reader_that_goes_ends_the_writer(sandbox: Sandbox) -> None:
    with sandbox.popen(["yes"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait() == -signal.SIGPIPE


def test_a_wrong_command_is_the_user_s_mistake(sandbox: Sandbox) -> None:
    for words in ("true", [], ["a\0b"]):
        with pytest.raises(UsageError):
            sandbox.run(words)


def test_the_end_of_a_sandbox_ends_its_commands(sandbox: Sandbox, tmp_path: Path) -> None:
    process = sandbox.popen(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 1000"])
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = (tmp_path / "pid").read_text().strip()
    sandbox.close()

    with contextlib.suppress(Exception):
        process.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(UsageError):
        sandbox.run(["true"])
