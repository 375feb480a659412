"""The kit's fixtures: each does what it says, and a run that uses none of them imports nothing of pyvmm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.memory import GuestMemory
from pyvmm.testing.bare_metal import BareMachine
from pyvmm.testing.interrupt import RecordingInterrupt
from pyvmm.testing.port_driver import PortDriver
from pyvmm.testing.stepping_loop import SteppingLoop
from pyvmm.testing.vcpu_driver import VcpuDriver
from pyvmm.testing.virtio_driver import VirtioDriver

from core.tests.testing.test_port_driver import Doubler
from core.tests.virtio.probe import Probe

UNUSED = """
    import sys

    def test_nothing_of_it_is_here():
        assert "pytest_pyvmm" in sys.modules
        assert not [name for name in sys.modules if name.split(".")[0] in ("pyvmm", "_cffi_backend")]
"""


def test_a_run_that_uses_no_fixture_imports_nothing_of_pyvmm(tmp_path: Path) -> None:
    (tmp_path / "test_unused.py").write_text(UNUSED.replace("\n    ", "\n"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_guest_memory(guest_memory: GuestMemory) -> None:
    guest_memory.write(0x1000, b"hello")
    assert guest_memory.read(0x1000, 5) == b"hello"


def test_virtio_driver(virtio_driver: Callable[..., VirtioDriver]) -> None:
    one, other = virtio_driver(Probe()), virtio_driver(Probe(), name="other0")
    for driver in (one, other):
        driver.start()
        chain = driver.rings[0].add([b"hello"], [5])
        driver.exchange()
        assert chain.written() == b"hello"
    assert other.device.name == "other0"


def test_vcpu_driver(vcpu_driver: Callable[..., VcpuDriver]) -> None:
    driver = vcpu_driver(Probe())
    driver.start()
    chain = driver.rings[0].add([b"hello"], [5])
    driver.exchange()
    assert chain.written() == b"hello"


def test_port_driver(port_driver: Callable[..., PortDriver]) -> None:
    driver = port_driver(Doubler())
    driver.outb(0x10, 5)
    assert driver.inb(0x10) == 10


def test_recording_interrupt_and_stepping_loop(
    guest_memory: GuestMemory,
    recording_interrupt: RecordingInterrupt,
    stepping_loop: SteppingLoop,
) -> None:
    calls: list[int] = []
    stepping_loop.add(recording_interrupt.event.fd, lambda _: calls.append(recording_interrupt.take()))
    assert stepping_loop.settle() == 0
    recording_interrupt.signal_used_queue()
    recording_interrupt.signal_config_change()
    recording_interrupt.signal_needs_reset("it is broken")
    assert stepping_loop.settle() == 1
    assert calls == [3]
    assert (recording_interrupt.used_signals, recording_interrupt.config_changes) == (1, 1)
    assert recording_interrupt.failures == ["it is broken"]
    stepping_loop.call_later(0.001, lambda: calls.append(0))
    stepping_loop.run_until(lambda: calls[-1] == 0)
    with pytest.raises(AssertionError, match="did not come true"):
        stepping_loop.run_until(lambda: False, timeout=0.01)


def test_bare_machine(bare_machine: Callable[..., BareMachine], tmp_path: Path) -> None:
    source = tmp_path / "double.c"
    source.write_text(
        '#include "guest.h"\n'
        "void program(uint64_t cpu)\n"
        "{\n"
        "    report((uint32_t)(2 * PARAMETERS[cpu]) + ADDED);\n"
        "    poweroff();\n"
        "}\n"
    )
    machine = bare_machine(source, "ADDED=1", user=True)
    machine.set_parameters(21)
    assert machine.run().status == 0
    assert machine.report.words == [43]
