"""As many vCPUs as a machine can have: each runs on a thread of its own, and finds out which one it is."""

from __future__ import annotations

import gc
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.errors import HostError, UsageError
from pyvmm.exit_reason import End
from pyvmm.kvm import Kvm
from pyvmm.limits import MAX_CPUS, PAGE_SIZE
from pyvmm.testing.bare_metal import BareMachine

ANSWERS, WORDS = 8, 8


@pytest.mark.parametrize("cpus", [2, 3, MAX_CPUS])
def test_each_vcpu_runs_and_knows_its_number(program: Callable[..., Path], cpus: int) -> None:
    with BareMachine(program("cpus.c"), cpus=cpus, all_cpus=True) as machine:
        machine.set_parameters(cpus)
        assert machine.run().end is End.POWEROFF
        answers = [machine.answers(WORDS, ANSWERS + WORDS * cpu) for cpu in range(cpus)]
        reports = machine.report.words

    assert sorted(reports) == list(range(cpus))
    assert [answer[0] for answer in answers] == [1] * cpus
    assert [answer[1] for answer in answers] == list(range(cpus))
    assert all(cpus <= answer[2] < 2 * cpus for answer in answers)
    assert [answer[3] for answer in answers] == list(range(cpus))
    if any(answer[5] for answer in answers):  # the host has leaf 0xB
        assert [answer[4:6] for answer in answers] == [[cpu, cpus] for cpu in range(cpus)]


def test_all_vcpus_that_are_busy_end_by_a_stop(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_EXITS"), user=True, cpus=MAX_CPUS, all_cpus=True) as machine:

        def stop() -> None:
            machine.report.wait(MAX_CPUS)
            machine.stop_by_user()

        stopper = threading.Thread(target=stop)
        stopper.start()
        assert machine.run().end is End.QUIT
        stopper.join()
        assert sorted(machine.report.words) == list(range(MAX_CPUS))


def test_more_than_kvm_takes_are_the_users_mistake(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kvm, "max_vcpus", 3)
    with pytest.raises(UsageError, match=r"^cpus: 4 are more than the 3 that this host's KVM takes; give fewer$"):
        BareMachine(program("end.c", "END_POWEROFF"), cpus=4)


@pytest.mark.parametrize(("cpus", "lines"), [(1, 0), (2, 0), (3, 1)])
def test_more_than_kvm_recommends_are_a_line_of_the_log(
    program: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cpus: int,
    lines: int,
) -> None:
    monkeypatch.setattr(Kvm, "recommended_vcpus", 2)
    with caplog.at_level("INFO", "pyvmm.machine.machine"), BareMachine(program("end.c", "END_POWEROFF"), cpus=cpus):
        pass
    assert [f"cpus: {cpus} are more than the 2" in record.getMessage() for record in caplog.records] == [True] * lines


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """So many descriptors that a machine with one vCPU can be made, and not one with all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # which may close some of other tests
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 32, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_a_host_without_descriptors_for_all_vcpus_gets_a_line(program: Callable[..., Path]) -> None:
    with pytest.raises(HostError, match=r"^cpus: no file descriptor is left for vCPU \d+ of 64; raise the limit"):
        BareMachine(program("end.c", "END_POWEROFF"), cpus=MAX_CPUS)


def test_a_host_without_threads_for_all_vcpus_gets_a_line(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_SPIN"), cpus=MAX_CPUS, all_cpus=True) as machine:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_SIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))  # for some stacks, and not for 64
        try:
            with pytest.raises(HostError, match=r"^vcpu\d+: the host has no thread for it; raise its limits"):
                machine.run()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
