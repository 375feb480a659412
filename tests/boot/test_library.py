"""A program's Linux, in asyncio: its console from the first line on, its drivers, and a graceful stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pyvmm import AsyncMachine, MachineConfig
from pyvmm.exit_reason import End

from tests.boot.booting import SILENCE
from tests.guest import artefacts

SCRIPT = """
echo STATE=$((40 + 2))
read line
echo "HEARD=$line"
sleep 3600
"""


async def talk(config: MachineConfig) -> None:
    async with AsyncMachine(config) as machine:
        await machine.start()
        console = machine.console
        async with asyncio.timeout(SILENCE):
            said = await console.read_until(b"STATE=42")
        assert b"Linux version" in said, said  # as early as its first lines
        await console.write(b"from a program\n")
        async with asyncio.timeout(SILENCE):
            await console.read_until(b"HEARD=from a program")
            up = set()
            async for event in machine.events():
                if event.kind == "driver_up":
                    up.add(event.device)
                if up == {"rng0", "block0"}:
                    break
        assert machine.stop(graceful=SILENCE), "no driver listens to the keyboard"
        reason = await machine.wait(SILENCE)
        assert reason.end is End.REBOOT, reason


def test_a_program_talks_to_linux_and_stops_it_gracefully(tmp_path: Path) -> None:
    guest = artefacts.ensure("cloud")
    initrd = artefacts.with_script(guest.initramfs, SCRIPT, tmp_path / "initrd")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    devices = ["serial:stream", "i8042", "rng,process=on", f"block:{disk}"]

    asyncio.run(talk(MachineConfig(guest.vmlinuz, initrd, "reboot=k", 256 << 20, devices=devices, name="linux")))
