"""The kick: whatever the vCPU is at, its present run or the next one comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyvmm.kvm import Kvm, Vcpu, VcpuExit
from pyvmm.memory import GuestMemory
from pyvmm.testing.waiting import PATIENCE
from pyvmm.x86_64.boot.registers import set_boot_state

ENTRY = 0x100000
PROGRAMS = {
    "spin": b"\xeb\xfe",  # jmp .
    "halt": b"\xf4\xeb\xfd",  # hlt; jmp .-1
    "exits": b"\xe4\x80\xeb\xfc",  # in al, 0x80; jmp .-2
}


@contextmanager
def vcpu_at(kvm: Kvm, program: str, user: bool = False) -> Iterator[Vcpu]:
    """A vCPU that starts with one of the programs."""
    with GuestMemory.create([(0, 4 << 20)]) as memory, kvm.create_vm() as vm:
        vm.create_irqchip()
        vm.set_memory(memory)
        memory.write(ENTRY, PROGRAMS[program])
        vcpu = vm.create_vcpu(0)
        set_boot_state(vcpu, memory, ENTRY, user=user)
        yield vcpu


class Runner:
    """A thread that runs a vCPU until it is interrupted, as often as it is told."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.go = threading.Semaphore(0)
        self.back = threading.Semaphore(0)
        self.runs = 0
        self.exits = 0
        self.running = True
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        self.vcpu.enter_thread()
        while True:
            self.go.acquire()
            if not self.running:
                break
            while self.vcpu.run() != VcpuExit.INTERRUPTED:
                self.exits += 1
            self.runs += 1
            self.back.release()
        self.vcpu.leave_thread()

    def __enter__(self) -> Runner:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.go.release()
        self.vcpu.kick()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.mark.parametrize(
    ("program", "user", "cycles"),
    [("spin", False, 4000), ("spin", True, 4000), ("halt", False, 500), ("exits", False, 500), ("exits", True, 100)],
)
def test_thousands_of_kicks_at_any_moment_all_bring_the_vcpu_back(
    kvm: Kvm, program: str, user: bool, cycles: int
) -> None:
    with vcpu_at(kvm, program, user) as vcpu, Runner(vcpu) as runner:
        for cycle in range(cycles):
            runner.go.release()
            for _ in range(cycle % 7 * 40):  # sometimes before the run, sometimes on its way in, sometimes inside
                pass
            vcpu.kick()
            assert runner.back.acquire(timeout=PATIENCE), f"the kick of cycle {cycle} was lost"
        assert runner.runs == cycles


def test_a_kick_while_a_thread_comes_to_the_vcpu_is_not_lost(kvm: Kvm) -> None:
    with vcpu_at(kvm, "spin") as vcpu:
        for attempt in range(300):
            with Runner(vcpu) as runner:
                runner.go.release()
                for _ in range(attempt % 30 * 10):
                    pass
                vcpu.kick()
                assert runner.back.acquire(timeout=PATIENCE), f"the kick of attempt {attempt} was lost"


def test_a_kick_before_the_run_ends_it_at_once(kvm: Kvm) -> None:
    with vcpu_at(kvm, "spin") as vcpu:
        vcpu.enter_thread()
        for _ in range(100):
            vcpu.kick()
            assert vcpu.run() == VcpuExit.INTERRUPTED
        vcpu.leave_thread()


def test_a_kick_where_no_thread_runs_the_vcpu_ends_the_next_run(kvm: Kvm) -> None:
    with vcpu_at(kvm, "spin") as vcpu:
        vcpu.kick()
        vcpu.enter_thread()
        assert vcpu.run() == VcpuExit.INTERRUPTED
        vcpu.leave_thread()
        vcpu.kick()
        vcpu.enter_thread()
        assert vcpu.run() == VcpuExit.INTERRUPTED
        vcpu.leave_thread()


def test_several_kicks_are_one(kvm: Kvm) -> None:
    with vcpu_at(kvm, "exits") as vcpu:
        vcpu.enter_thread()
        for _ in range(5):
            vcpu.kick()
        assert vcpu.run() == VcpuExit.INTERRUPTED
        assert vcpu.run() == VcpuExit.IO
        vcpu.leave_thread()


def test_a_kick_loses_no_access(kvm: Kvm) -> None:
    """What is read by ``in`` is what was answered, though the run that finishes the access is interrupted."""
    with vcpu_at(kvm, "exits") as vcpu:
        vcpu.enter_thread()
        for number in range(200):
            while (reason := vcpu.run()) == VcpuExit.INTERRUPTED:
                pass
            assert reason == VcpuExit.IO
            vcpu.run_area[vcpu.exit.data_offset] = number & 0xFF
            vcpu.kick()
            assert vcpu.run() == VcpuExit.INTERRUPTED
            assert vcpu.get_regs().rax & 0xFF == number & 0xFF
        vcpu.leave_thread()


def test_kicks_from_many_threads_at_once_all_bring_it_back(kvm: Kvm) -> None:
    with vcpu_at(kvm, "spin") as vcpu, Runner(vcpu) as runner:
        for _ in range(50):
            runner.go.release()
            kickers = [threading.Thread(target=vcpu.kick) for _ in range(3)]
            for kicker in kickers:
                kicker.start()
            assert runner.back.acquire(timeout=PATIENCE)
            for kicker in kickers:
                kicker.join()
