"""/dev/kvm: what is said where it is missing or lacks something, what is released, and which errors there are."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import HostError
from pyvmm.host.eventfd import EventFd
from pyvmm.kvm import FastPorts, Kvm, KvmError, Vm
from pyvmm.kvm import kvm as kvm_module
from pyvmm.kvm.ioctl import ioctl
from pyvmm.limits import MAX_CPUS
from pyvmm.memory import GuestMemory


def descriptors() -> list[str]:
    gc.collect()  # other tests' views hold on to their memory
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    return sorted(found)


# --- what can be wrong with it


def test_a_missing_device_says_which_module_to_load(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"kvm: not there; load the module kvm_intel or kvm_amd") as raised:
        Kvm(str(tmp_path / "kvm"))
    assert raised.value.exit_status == 1
    assert "\n" not in str(raised.value)


def test_no_permission_says_which_group_to_join(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch(mode=0)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(HostError, match=r"kvm: no permission; add the user to the group"):
            Kvm(str(path))
    finally:
        os.seteuid(uid)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_another_device_is_not_a_kvm_device(path: str) -> None:
    before = descriptors()
    with pytest.raises(HostError, match=f"{path}: not a KVM device"):
        Kvm(path)
    assert descriptors() == before


def test_a_directory_is_one_line() -> None:
    with pytest.raises(HostError, match=r"/dev: Is a directory"):
        Kvm("/dev")


def test_another_api_version_is_named(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_module, "ioctl", lambda fd, request, *_: 11)
    before = descriptors()
    with pytest.raises(HostError, match=r"/dev/kvm: KVM API version 11, pyvmm needs 12"):
        Kvm()
    assert descriptors() == before


def test_capabilities_that_are_missing_are_named(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    check = Kvm.check_extension
    missing = ("KVM_CAP_IRQFD", "KVM_CAP_IMMEDIATE_EXIT")
    monkeypatch.setattr(Kvm, "check_extension", lambda self, name: 0 if name in missing else check(self, name))
    before = descriptors()
    with pytest.raises(HostError, match=r"lacks KVM_CAP_IRQFD, KVM_CAP_IMMEDIATE_EXIT; Linux 4\.11"):
        Kvm()
    assert descriptors() == before


# --- errors of ioctls


def test_an_ioctl_that_fails_names_itself_and_the_errno() -> None:
    with open("/dev/null", "rb") as file, pytest.raises(KvmError) as raised:
        ioctl(file.fileno(), "KVM_CREATE_VM", 0)
    assert (raised.value.request, raised.value.errno) == ("KVM_CREATE_VM", errno.ENOTTY)
    assert str(raised.value) == "KVM_CREATE_VM: Inappropriate ioctl for device (ENOTTY)"
    assert isinstance(raised.value, HostError)


def test_an_ioctl_of_a_closed_machine_is_an_error(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.close()
    with pytest.raises(KvmError, match="KVM_CREATE_IRQCHIP: Bad file descriptor"):
        vm.create_irqchip()


@pytest.mark.parametrize(
    ("act", "request_name"),
    [
        (lambda vm: vm.create_vcpu(0), "KVM_CREATE_VCPU"),
        (lambda vm: vm.create_irqchip(), "KVM_CREATE_IRQCHIP"),
        (lambda vm: vm.irqfd(vm.fd, 5), "KVM_IRQFD"),
        (lambda vm: vm.ioeventfd(-1, 0xD0000000, 4, 0), "KVM_IOEVENTFD"),
        (lambda vm: vm.ioeventfd(0, 0xD0000000, 3, 0), "KVM_IOEVENTFD"),
        (lambda vm: vm.set_identity_map_address(0xFFFBC000), "KVM_SET_IDENTITY_MAP_ADDR"),
    ],
)
def test_what_a_machine_refuses_is_named(kvm: Kvm, act: Callable[[Vm], Any], request_name: str) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        vm.create_vcpu(0)
        with pytest.raises(KvmError, match=rf"^{request_name}: ") as raised:
            act(vm)
        assert raised.value.errno != 0


def test_a_register_that_kvm_refuses_is_named_by_its_number(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        vcpu = vm.create_vcpu(0)
        with pytest.raises(KvmError, match="KVM_SET_MSRS of 0x12345678"):
            vcpu.set_msrs({0x10: 0, 0x12345678: 1})


def test_an_ioctl_that_a_signal_interrupts_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyvmm._native import lib

    answers = [-errno.EINTR, -errno.EINTR, 7]

    class Interrupted:
        KVM_CREATE_VM = lib.KVM_CREATE_VM

        @staticmethod
        def pyvmm_ioctl_int(fd: int, number: int, argument: int) -> int:
            return answers.pop(0)

    monkeypatch.setattr("pyvmm.kvm.ioctl.lib", Interrupted)
    assert ioctl(0, "KVM_CREATE_VM", 0) == 7


def test_machines_are_made_while_signals_come(kvm: Kvm) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def pester() -> None:
        # Not without a pause: a call that is interrupted each time that it is made never ends.
        while not stop.wait(0.0001):
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        for _ in range(100):
            with kvm.create_vm() as vm:
                vm.create_irqchip()
                vm.create_vcpu(0)
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(caught) > 10


# --- what it can do


def test_the_host_says_what_it_can_do(kvm: Kvm) -> None:
    assert kvm.max_vcpus >= MAX_CPUS
    assert 1 <= kvm.recommended_vcpus <= kvm.max_vcpus
    leaves = {entry.function for entry in kvm.supported_cpuid()}
    assert {0, 1, 0x80000000} <= leaves


def test_memory_is_the_guests(kvm: Kvm) -> None:
    with GuestMemory.create([(0, 1 << 20), (4 << 30, 1 << 20)]) as memory, kvm.create_vm() as vm:
        vm.set_memory(memory)


# --- what is released


def test_context_managers_release_every_descriptor(kvm: Kvm) -> None:
    before = descriptors()
    for _ in range(3):
        with Kvm() as other, GuestMemory.create([(0, 1 << 20)]) as memory, other.create_vm() as vm:
            vm.create_irqchip()
            vm.set_memory(memory)
            vcpus = [vm.create_vcpu(index) for index in range(4)]
            assert len(descriptors()) > len(before)
        assert descriptors() == before
        assert all(vcpu.fd == -1 for vcpu in vcpus)


def test_closing_twice_does_nothing(kvm: Kvm) -> None:
    other = Kvm()
    vm = other.create_vm()
    vm.create_irqchip()
    vcpu = vm.create_vcpu(0)
    for _ in range(2):
        vcpu.close()
        vm.close()
        other.close()


def test_a_vcpu_closes_though_somebody_keeps_a_view_of_its_data(kvm: Kvm) -> None:
    before = descriptors()
    vm = kvm.create_vm()
    vm.create_irqchip()
    vcpu = vm.create_vcpu(0)
    view = vcpu.run_area[0:4]
    vm.close()
    assert vcpu.fd == -1
    assert len(bytes(view)) == 4
    view.release()
    del view, vcpu, vm
    assert descriptors() == before


def test_a_vcpu_that_is_closed_can_do_nothing_any_more(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        vcpu = vm.create_vcpu(0)
        vcpu.close()
        vcpu.kick()
        assert vcpu.exit_detail() == 0
        with pytest.raises(KvmError, match="KVM_RUN: Bad file descriptor"):
            vcpu.run()
        with pytest.raises(KvmError, match="KVM_GET_REGS: Bad file descriptor"):
            vcpu.describe()


def test_eventfds_that_are_closed_leave_the_machine_usable(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        event = EventFd()
        vm.irqfd(event.fd, 5)
        vm.ioeventfd(event.fd, 0xD0000050, 4, 0)
        event.signal()
        event.close()
        vm.irq_line(5, True)
        vm.irq_line(5, False)


# --- fast ports


def test_there_are_16_fast_ports_and_then_none() -> None:
    before = descriptors()
    ports = FastPorts()
    made = [ports.add(port) for port in range(16)]
    assert all(made)
    assert ports.add(16) is None
    for port in made:
        assert port is not None
        port.event.close()
    assert descriptors() == before


def test_a_fast_port_outlives_what_it_is_one_of() -> None:
    port = FastPorts().add(0x3F8)
    assert port is not None
    port.set(collect_writes=True, answer=0x60)
    assert port.drain() == b""
    port.event.close()
