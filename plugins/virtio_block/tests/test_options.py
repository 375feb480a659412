"""The kind, its options, and what it adds to the kernel's command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import parse_options
from pyvmm.plugin import CmdlineRequest
from pyvmm_virtio_block import BlockOptions, kernel_cmdline, pyvmm_device_kinds


def options(text: str) -> BlockOptions:
    return parse_options(BlockOptions, "block", text)


def cmdline(*disks: str, user: str = "", initrd: bool = False) -> str:
    return kernel_cmdline(CmdlineRequest([options(text) for text in disks], user, initrd))


def test_path_alone() -> None:
    assert options("disk.img") == BlockOptions("disk.img")


def test_all_options() -> None:
    record = options("/dev/sdb,ro,id=backup-1,direct,root")
    assert record == BlockOptions("/dev/sdb", ro=True, id="backup-1", direct=True, root=True)


def test_the_path_is_required() -> None:
    with pytest.raises(UsageError, match="path"):
        options("ro=on")


@pytest.mark.parametrize("id", ["x" * 21, "é" * 11, "", "a\tb"])
def test_ids_that_cannot_be(id: str) -> None:
    with pytest.raises(UsageError, match="id"):
        options(f"disk.img,id={id}")


def test_longest_id() -> None:
    assert options("disk.img,id=" + "é" * 10).id == "é" * 10


def test_only_disk_without_initrd_is_root() -> None:
    assert cmdline("a.img") == "root=/dev/vda rw"
    assert cmdline("a.img,ro") == "root=/dev/vda ro"


def test_only_disk_with_an_initrd_is_not() -> None:
    assert cmdline("a.img", initrd=True) == ""


def test_root_is_taken_with_an_initrd_too() -> None:
    assert cmdline("a.img,root", initrd=True) == "root=/dev/vda rw"


def test_none_of_several_is_root_by_itself() -> None:
    assert cmdline("a.img", "b.img") == ""


def test_root_is_named_by_its_place() -> None:
    assert cmdline("a.img", "b.img,root,ro") == "root=/dev/vdb ro"
    assert cmdline(*["x.img"] * 25, "y.img,root") == "root=/dev/vdz rw"
    assert cmdline(*["x.img"] * 26, "y.img,root") == "root=/dev/vdaa rw"
    assert cmdline(*["x.img"] * (26 + 26 * 26), "y.img,root") == "root=/dev/vdaaa rw"


@pytest.mark.parametrize("user", ["root=/dev/vda1", "quiet root=LABEL=x ro"])
def test_users_own_root_goes_before(user: str) -> None:
    assert cmdline("a.img", user=user) == ""
    assert cmdline("a.img,root", user=user) == ""


@pytest.mark.parametrize("user", ["nfsroot=1.2.3.4", "quiet -- root=x", "rootwait"])
def test_words_that_are_no_root(user: str) -> None:
    assert cmdline("a.img", user=user) == "root=/dev/vda rw"


def test_two_roots() -> None:
    with pytest.raises(UsageError, match=r"a\.img and b\.img both have root; give it to one"):
        cmdline("a.img,root", "b.img,root")


def test_no_disks() -> None:
    assert cmdline() == ""


def test_kind_makes_a_device(image: Path) -> None:
    (kind,) = pyvmm_device_kinds()
    assert kind.name == "block"
    device = kind.make(kind.options(image))
    device.close()


def test_a_descriptor_is_that_of_the_machines_process_in_any_process(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb+") as disk:
        disk.truncate(512)
        path = parse_options(BlockOptions, "block", f"/dev/fd/{disk.fileno()}").path
        program = "import sys; from pyvmm_virtio_block.image import Image; print(Image(sys.argv[1]).size)"
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert result.stdout == "512\n"


def test_a_tilde_that_no_shell_replaced_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("~/disk.img", "~", "~root/disk.img"):
        with pytest.raises(UsageError, match=r"begins with ~, which a shell replaces only at the start of a word"):
            parse_options(BlockOptions, "block", text)
    (tmp_path / "~").mkdir()
    assert parse_options(BlockOptions, "block", "~/disk.img").path == "~/disk.img"
