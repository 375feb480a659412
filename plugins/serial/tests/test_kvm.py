"""A guest that is nothing but a console driver, on /dev/kvm, so that its accesses take the ways of a machine's."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from pyvmm.bus import BusDevice
from pyvmm.device_manager import MMIODeviceManager
from pyvmm.exit_reason import End, ExitReason
from pyvmm.host.eventloop import EventLoop
from pyvmm.kvm import Kvm
from pyvmm.machine.vcpu_loop import VcpuLoop
from pyvmm.memory import GuestMemory
from pyvmm_serial import SerialOptions
from pyvmm_serial.device import Serial

END_PORT = 0xF4
CODE_ADDRESS = 0x1000

POLLED = """
    66 b9 {count}      mov ecx, count
    ba fd 03        1: mov dx, 0x3fd
    ec              2: in al, dx
    a8 20              test al, 0x20
    74 fb              jz 2b
    ba f8 03           mov dx, 0x3f8
    88 c8              mov al, cl
    ee                 out dx, al
    66 49              dec ecx
    75 ee              jnz 1b
    e6 f4              out 0xf4, al
    f4                 hlt
"""
"""Sends ``count`` bytes, the low byte of a counter that falls to 1, in real mode: as Linux's console polls LSR."""

STRING = """
    b9 00 10           mov cx, 4096
    be 00 20           mov si, 0x2000
    ba f8 03           mov dx, 0x3f8
    f3 6e              rep outsb
    e6 f4              out 0xf4, al
    f4                 hlt
"""
"""Sends 4096 bytes from 0x2000 on with one instruction, never looking at LSR."""


def assemble(listing: str, count: int = 0) -> bytes:
    """The bytes of a listing: what comes before the mnemonics, ``{count}`` as 32 bits."""
    code = b""
    for line in listing.strip().splitlines():
        for word in line.split()[:6]:
            if word == "{count}":
                code += count.to_bytes(4, "little")
            elif len(word) == 2 and all(digit in "0123456789abcdef" for digit in word):
                code += bytes.fromhex(word)
            else:
                break
    return code


def run(code: bytes, data: bytes, output: Path) -> None:
    """Run ``code`` in a machine with a serial port into ``output``, up to its write to the end register."""
    loop = EventLoop()
    reasons: list[ExitReason] = []

    def stop(reason: ExitReason) -> None:
        reasons.append(reason)

    with Kvm() as kvm, kvm.create_vm() as vm, GuestMemory.create([(0, 1 << 20)]) as memory:
        vm.set_tss_address(0xFFFBD000)
        vm.set_identity_map_address(0xFFFBC000)
        vm.create_irqchip()
        vm.set_memory(memory)
        memory.write(CODE_ADDRESS, code)
        memory.write(0x2000, data)
        devices = MMIODeviceManager(memory, loop=loop, stop=stop, fast_ports=vm.fast_ports)
        devices.register_bus_device(Serial(SerialOptions(file=output)), "serial0")

        class EndRegister(BusDevice):
            def write(self, offset: int, data: memoryview) -> None:
                stop(ExitReason(End.POWEROFF))
                loop.stop()

        devices.ports.insert(EndRegister(), END_PORT, 1)
        devices.carry_out(vm)
        vcpu = vm.create_vcpu(0)
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(rip=CODE_ADDRESS)
        thread = threading.Thread(target=VcpuLoop(vcpu, devices.bus, devices.ports, stop, reasons).run)
        thread.start()
        loop.run()
        thread.join()
        devices.close()
        loop.close()
    assert [reason.end for reason in reasons] == [End.POWEROFF]


needs_kvm = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="needs /dev/kvm")


@needs_kvm
@pytest.mark.parametrize("count", [1, 5000, 100_000])
def test_console_output_is_whole_and_in_order_up_to_the_last_byte(tmp_path: Path, count: int) -> None:
    run(assemble(POLLED, count), b"", tmp_path / "out")

    expected = bytes(i & 0xFF for i in range(count, 0, -1))
    got = (tmp_path / "out").read_bytes()
    assert len(got) == len(expected)
    assert got == expected


@needs_kvm
def test_string_output_is_whole_and_in_order(tmp_path: Path) -> None:
    data = bytes(i % 251 for i in range(4096))

    run(assemble(STRING), data, tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
