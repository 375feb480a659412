"""The same from asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from host_sandbox import HostSandbox
from pyvmm.testing.waiting import wait_until
from pyvmm_run import aio


def test_commands_files_and_processes() -> None:
    async def main() -> None:
        async with aio.Sandbox(of=HostSandbox()) as sandbox:
            result = await sandbox.run(["sh", "-c", "cat; exit 3"], input=b"in", capture_output=True)
            assert (result.returncode, result.stdout) == (3, b"in")
            with pytest.raises(FileNotFoundError):
                await sandbox.run(["no-such-command"])
            process = await sandbox.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"line\n")
            assert await process.stdout.readline() == b"line\n"
            out, err = await process.communicate(b"x" * 1_000_000)
            assert (out, err, process.returncode) == (b"x" * 1_000_000, None, 0)
            process = await sandbox.popen(["sleep", "1000"])
            process.terminate()
            assert await process.wait() == -signal.SIGTERM

    asyncio.run(main())


def test_twenty_sandboxes_at_once() -> None:
    async def one(number: int) -> bytes:
        async with aio.Sandbox(of=HostSandbox()) as sandbox:
            return bytes((await sandbox.run(["echo", str(number)], capture_output=True)).stdout)

    async def main() -> list[bytes]:
        return await asyncio.gather(*map(one, range(20)))

    assert asyncio.run(main()) == [b"%d\n" % number for number in range(20)]


def test_a_cancelled_task_ends_its_command_and_not_the_others(tmp_path: Path) -> None:
    async def main() -> str:
        async with aio.Sandbox(of=HostSandbox()) as sandbox:
            task = asyncio.create_task(sandbox.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 1000"]))
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await asyncio.sleep(0.01)
            pid = (tmp_path / "pid").read_text().strip()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await sandbox.run(["true"], check=True)
            return pid

    pid = asyncio.run(main())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
