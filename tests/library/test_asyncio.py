"""Machines in an asyncio program: as in any other, and many at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from pyvmm import AsyncMachine, Machine
from pyvmm.errors import UsageError
from pyvmm.exit_reason import End
from pyvmm.machine import MachineEvent
from pyvmm.testing import waiting
from pyvmm.testing.waiting import PATIENCE

from tests.library.conftest import Configure
from tests.library.test_machine import descriptors
from tests.system.prepared import TOP

MANY = 20


def run(program: Coroutine[Any, Any, None]) -> None:
    """Run an asyncio program; one that hangs fails."""

    async def with_limit() -> None:
        async with asyncio.timeout(PATIENCE):
            await program

    asyncio.run(with_limit())


async def talk(machine: AsyncMachine, word: str = "hello") -> None:
    """Hear the guest's first words, and have it answer."""
    assert await machine.console.read_until(b"ready\n") == b"ready\n"
    await machine.console.write(f"{word}\n".encode())
    assert await machine.console.read_until(b"\n") == f"you said {word}\n".encode()


@pytest.mark.parametrize("twin", [Machine, AsyncMachine])
def test_a_machine_from_its_start_to_its_end(configure: Configure, twin: type[Machine | AsyncMachine]) -> None:
    async def program() -> None:
        async with twin(configure(name="web")) as machine:
            assert isinstance(machine, AsyncMachine)
            assert machine.name == machine.machine.name == "web"
            states = [machine.state]
            await machine.start()
            states.append(machine.state)
            await talk(machine)
            await machine.console.write(b"poweroff\n")
            reason = await machine.wait()
            assert reason.end is End.POWEROFF
            states.append(machine.state)
            assert await machine.wait() is reason
            assert await machine.console.read() == b"bye\n"
            assert await machine.console.read() == b""
            with pytest.raises(EOFError):
                await machine.console.read_until(b"more")
            with pytest.raises(BrokenPipeError):
                await machine.console.write(b"too late")
        assert [*states, machine.state] == ["made", "running", "ended", "closed"]

    run(program())


def test_much_output_and_input_under_way_at_the_same_time(configure: Configure) -> None:
    async def program() -> None:
        async with Machine(configure()) as machine:
            await machine.start()
            output = b""

            async def read() -> None:
                nonlocal output
                while data := await machine.console.read(1000):
                    output += data

            async def write() -> None:
                await machine.console.write(b"flood\n" + b"x\n" * 1000 + b"poweroff\n")

            await asyncio.gather(read(), write(), machine.wait())
            assert output == b"ready\n" + b"0123456789abcdef" * (96 << 6) + b"you said x\n" * 1000 + b"bye\n"

    run(program())


def test_errors_are_those_of_the_twin(configure: Configure) -> None:
    async def program() -> None:
        unmade = AsyncMachine(configure())
        with pytest.raises(UsageError, match="the machine is not made yet; use it within 'async with'"):
            _ = unmade.console
        with pytest.raises(UsageError, match=r"devices\[1\]: .*'rgn' \(did you mean 'rng'\?\)"):
            async with AsyncMachine(configure("rgn")):
                pass
        async with Machine(configure(name="web")) as machine:
            with pytest.raises(UsageError, match=r"the machine was not started|machine 'web' was not started"):
                await machine.wait()
            await machine.start()
            with pytest.raises(UsageError, match="machine 'web' was started before"):
                await machine.start()
            with pytest.raises(TimeoutError, match=r"machine 'web' has not ended after 0\.01 s"):
                await machine.wait(0.01)
            assert machine.stop() is False
            assert (await machine.wait()).end is End.QUIT

    run(program())


def test_events(configure: Configure) -> None:
    async def program() -> None:
        heard: list[tuple[MachineEvent, int]] = []
        async with Machine(configure()) as machine:
            machine.subscribe(lambda event: heard.append((event, threading.get_ident())))
            await machine.start()
            seen = []
            async for event in machine.events():
                seen.append(event)
                if event.kind == "started":
                    machine.stop()
            reason = await machine.wait()
            everything = [
                MachineEvent("console_connected", "serial0"),
                MachineEvent("started"),
                MachineEvent("ended", reason=reason),
            ]
            assert seen == everything
            assert heard == [(event, threading.get_ident()) for event in everything]

    run(program())


def test_a_task_that_is_cancelled_leaves_no_machine(configure: Configure) -> None:
    async def one(running: asyncio.Event) -> None:
        async with AsyncMachine(configure("rng,process=on")) as machine:
            await machine.start()
            await talk(machine)
            running.set()
            await machine.console.read()

    async def program() -> None:
        running = asyncio.Event()
        tasks = [asyncio.create_task(one(event)) for event in (running, asyncio.Event())]
        await running.wait()  # the other one may be at anything
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2

    before = descriptors()
    run(program())
    assert descriptors() == before


def test_many_machines_at_once(configure: Configure) -> None:
    async def one(name: str, all_run: asyncio.Barrier) -> None:
        async with AsyncMachine(configure("rng,process=off", name=name)) as machine:
            await machine.start()
            await talk(machine, name)
            await all_run.wait()
            await machine.console.write(b"poweroff\n")
            assert (await machine.wait()).end is End.POWEROFF

    async def program() -> None:
        all_run = asyncio.Barrier(MANY)
        await asyncio.gather(*(one(f"m{at}", all_run) for at in range(MANY)))

    before = descriptors()
    run(program())
    assert descriptors() == before


CTRL_C = f"""
import asyncio, os, sys
from pyvmm import AsyncMachine, MachineConfig

async def one(at, all_run):
    where = "on" if at < 2 else "off"
    devices = ["serial:stream", f"rng,process={{where}}"]
    async with AsyncMachine(MachineConfig(sys.argv[1], memory=32 << 20, devices=devices)) as machine:
        await machine.start()
        await machine.console.read_until(b"ready\\n")
        for transport in machine.machine.devices.transports():
            if where == "on":
                print(transport.device._source.child.pid, flush=True)
        await all_run.wait()
        await machine.wait()

async def main():
    all_run = asyncio.Barrier({MANY + 1})
    async with asyncio.TaskGroup() as group:
        for at in range({MANY}):
            group.create_task(one(at, all_run))
        await all_run.wait()
        print("ready", flush=True)

asyncio.run(main())
"""


def test_one_ctrl_c_ends_them_all_and_leaves_nothing(guest: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(guest)],
        cwd=TOP,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        said = []
        while (line := program.stdout.readline().strip()) not in ("ready", ""):
            said.append(int(line))
        assert line == "ready", program.communicate(timeout=PATIENCE)
        assert len(said) == 2
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=PATIENCE)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert "pyvmm: " not in errors
    waiting.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in said))
    assert list(tmp_path.iterdir()) == []
