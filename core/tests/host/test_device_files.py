"""The place on the host for devices' files, and what a device may know of its machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pyvmm.device_context import DeviceContext, DeviceInfo, MachineView
from pyvmm.errors import HostError, UsageError
from pyvmm.host.device_files import HostFiles
from pyvmm.host.eventloop import EventLoop, LoopScope


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_nothing_is_made_before_somebody_asks(tmp_path: Path) -> None:
    files = HostFiles()
    assert not list(tmp_path.iterdir())
    files.remove()


def test_each_device_has_a_private_directory_that_goes_with_all_in_it(tmp_path: Path) -> None:
    files = HostFiles()
    lamp, other = files.directory("lamp0"), files.directory("lamp1")
    assert lamp != other and lamp == files.directory("lamp0")
    for path in (lamp, lamp.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    lamp.joinpath("sub").mkdir()
    lamp.joinpath("sub/file").write_text("x")
    files.remove()
    assert not list(tmp_path.iterdir())
    files.remove()


def test_two_machines_have_two_places() -> None:
    assert HostFiles().path != HostFiles().path


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "ä", "a\nb", "", "%2e"])
def test_any_id_is_a_name_in_the_directory(name: str) -> None:
    files = HostFiles()
    path = files.directory(f"x{name}")
    assert path.parent == files.path
    assert path.is_dir()
    dots = files.directory(name or "x")
    assert dots.resolve().parent == files.path.resolve()


def test_without_a_runtime_directory_it_is_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert HostFiles().path.parent == tmp_path


def test_what_somebody_else_put_there_is_refused(tmp_path: Path) -> None:
    files = HostFiles()
    (tmp_path / "elsewhere").mkdir()
    files.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="not a directory of this user"):
        files.directory("lamp0")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="a directory for a device's files cannot be made: No such file or directory"):
        HostFiles(tmp_path / "missing" / "place").directory("lamp0")


def test_a_device_knows_the_others_by_name_and_meets_them_in_their_directories() -> None:
    devices = {"lamp0": DeviceInfo("lamp", "pyvmm-lamp 1.2"), "net0": DeviceInfo("net", "")}
    machine = MachineView(devices)
    loop = EventLoop()
    context = DeviceContext("lamp0", LoopScope(loop, lambda error: None), lambda reason: None, machine=machine)
    assert list(context.devices) == ["lamp0", "net0"]
    assert context.devices["net0"].kind == "net"
    assert context.directory() == machine.files.directory("lamp0")
    assert context.directory("net0") == machine.files.directory("net0")
    with pytest.raises(UsageError, match=r"^lamp0: the machine has no device 'disk'; its devices: lamp0, net0$"):
        context.directory("disk")
    assert context.label == "lamp0 (pyvmm-lamp 1.2)"
    assert machine.label("net0") == "net0"
    assert machine.label("added") == "added"
    loop.close()


def test_a_machine_is_told_to_another_program_as_text() -> None:
    devices = {"a/b c": DeviceInfo("block", "pyvmm-virtio-block 0.1"), "net0": DeviceInfo("net", "")}
    machine = MachineView(devices)
    again = MachineView.from_text(machine.to_text())
    assert dict(again.devices) == devices
    assert again.files.path == machine.files.path
    none = MachineView.from_text(MachineView().to_text())
    assert not none.devices


def test_files_are_found_again_by_their_path() -> None:
    files = HostFiles()
    path = files.directory("lamp0")
    assert HostFiles(files.path).directory("lamp0") == path
    assert path.stat().st_uid == os.geteuid()


def test_place_is_absolute_where_tmpdir_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "here")
    assert HostFiles().path.parent == tmp_path / "here"
