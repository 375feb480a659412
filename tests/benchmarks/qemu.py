"""How QEMU's microvm machine is started: as lean as it can be, and with virtio 1 devices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.machines import Machine

ENDED: Final = 3
"""The exit status when the guest writes 1 to isa-debug-exit: 2 * 1 + 1."""


@dataclass(frozen=True)
class Qemu:
    """QEMU microvm on KVM."""

    name: str = "QEMU"
    aio: str = "threads"
    """How disks are read and written: ``threads`` (QEMU's default), ``io_uring`` or ``native``."""
    rom: Path | None = None
    """Runs in place of QEMU's firmware and of the kernel."""
    options: tuple[str, ...] = ()
    """Further arguments."""
    linux: bool = False
    """Whether the guest is a Linux: it wants a clock, for which it otherwise looks for seconds."""

    def command(self, machine: Machine) -> list[str]:
        # One IOAPIC: with the second, a Linux finds more to set up. QEMU fills its windows from the last one on, and
        # tells the guest of them in that order, so disks keep theirs.
        kind = "microvm,accel=kvm" + (",rtc=on,ioapic2=off" if self.linux else ",pit=off,pic=off,rtc=off")
        command = ["qemu-system-x86_64", "-M", kind, "-cpu", _cpu(), "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-serial", "stdio", "-no-reboot"]
        command += ["-m", f"{machine.memory}M", "-smp", str(machine.cpus)]
        command += ["-global", "virtio-mmio.force-legacy=false"]
        if not self.linux:
            command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        if self.rom:
            command += ["-bios", str(self.rom)]
        else:
            command += ["-kernel", str(machine.kernel), "-append", machine.cmdline]
        if machine.initrd:
            command += ["-initrd", str(machine.initrd)]
        for i, disk in enumerate(machine.disks):
            # O_DIRECT and fdatasync at the guest's FLUSH, as pyvmm does it.
            flags = ",readonly=on" if disk.read_only else ""
            flags += ",cache=none" if disk.direct else ",cache=writeback"
            path = str(disk.path).replace(",", ",,")
            command += ["-drive", f"if=none,id=disk{i},format=raw,file={path},aio={self.aio}{flags}"]
            command += ["-device", f"virtio-blk-device,drive=disk{i}"]
        for i, card in enumerate(machine.cards):
            vhost = "on" if card.vhost else "off"
            command += ["-netdev", f"tap,id=net{i},ifname={card.tap},script=no,downscript=no,vhost={vhost}"]
            command += ["-device", f"virtio-net-device,netdev=net{i},mac={card.mac}"]
        return [*command, *self.options]

    def ended_well(self, status: int) -> bool:
        return status == (0 if self.linux else ENDED)


def _cpu() -> str:
    # A KVM without hardware virtualization refuses the MSR that goes with this feature.
    hardware = any(os.path.exists(f"/sys/module/kvm_{vendor}") for vendor in ("amd", "intel"))
    return "host" if hardware else "host,-arch-capabilities"
