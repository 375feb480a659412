"""The kit's fixtures for pytest, which finds this module by itself where pyvmm-core is installed.

Every run of pytest on such a host imports it, so it is not in the package and imports nothing of it: what a fixture
needs is imported with the first test that asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyvmm.bus import BusDevice
    from pyvmm.memory import GuestMemory
    from pyvmm.testing.bare_metal import BareMachine
    from pyvmm.testing.interrupt import RecordingInterrupt
    from pyvmm.testing.port_driver import PortDriver
    from pyvmm.testing.stepping_loop import SteppingLoop
    from pyvmm.testing.vcpu_driver import VcpuDriver
    from pyvmm.testing.virtio_driver import VirtioDriver
    from pyvmm.virtio.device import VirtioDevice

# What fails in the contract suite is to be shown as in a test.
pytest.register_assert_rewrite("pyvmm.testing")


@pytest.fixture
def guest_memory() -> Iterator[GuestMemory]:
    """Guest memory without KVM: 64 MiB from address 0 on."""
    from pyvmm.memory import GuestMemory

    with GuestMemory.create([(0, 64 << 20)]) as memory:
        yield memory


@pytest.fixture
def recording_interrupt() -> Iterator[RecordingInterrupt]:
    """An interrupt that counts what a device tells its driver."""
    from pyvmm.testing.interrupt import RecordingInterrupt

    interrupt = RecordingInterrupt()
    yield interrupt
    interrupt.close()


@pytest.fixture
def stepping_loop() -> Iterator[SteppingLoop]:
    """An event loop that takes a turn when the test says so."""
    from pyvmm.testing.stepping_loop import SteppingLoop

    loop = SteppingLoop()
    yield loop
    loop.close()


@pytest.fixture
def virtio_driver() -> Iterator[Callable[..., VirtioDriver]]:
    """Makes a driver for a virtio device, not started: ``virtio_driver(device)``. Both are closed after the test."""
    from pyvmm.testing.virtio_driver import VirtioDriver

    with ExitStack() as stack:

        def make(device: VirtioDevice, **options: Any) -> VirtioDriver:
            return stack.enter_context(VirtioDriver(device, **options))

        yield make


@pytest.fixture
def port_driver() -> Iterator[Callable[..., PortDriver]]:
    """Makes a driver for a device at ports or in memory: ``port_driver(device)``. Both are closed after the test."""
    from pyvmm.testing.port_driver import PortDriver

    with ExitStack() as stack:

        def make(device: BusDevice, **options: Any) -> PortDriver:
            return stack.enter_context(PortDriver(device, **options))

        yield make


@pytest.fixture
def vcpu_driver() -> Iterator[Callable[..., VcpuDriver]]:
    """As ``virtio_driver``, by a guest on a real vCPU. Skips the test where there is no /dev/kvm."""
    _need_kvm()
    from pyvmm.testing.vcpu_driver import VcpuDriver

    with ExitStack() as stack:

        def make(device: VirtioDevice, **options: Any) -> VcpuDriver:
            return stack.enter_context(VcpuDriver(device, **options))

        yield make


@pytest.fixture
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., BareMachine]]:
    """Makes a machine that runs a program in C of the test's own: ``bare_machine(Path("program.c"), *defines)``.

    Skips the test where there is no /dev/kvm or no gcc.
    """
    _need_kvm()
    from pyvmm.errors import HostError
    from pyvmm.testing.bare_metal import BareMachine, compile_program

    folder = tmp_path_factory.mktemp("programs")
    with ExitStack() as stack:

        def make(source: Path, *defines: str, **options: Any) -> BareMachine:
            try:
                program = compile_program(folder, source, *defines)
            except HostError as error:
                pytest.skip(str(error))
            return stack.enter_context(BareMachine(program, **options))

        yield make


def _need_kvm() -> None:
    if not os.path.exists("/dev/kvm"):
        pytest.skip("no /dev/kvm on this machine")
