from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from pyvmm.cli.file_checks import check_file, file_fault
from pyvmm.cli.kernel_search import find_kernel, version_key
from pyvmm.errors import UsageError

RELEASE = os.uname().release


def put(boot: Path, *names: str) -> None:
    for name in names:
        (boot / name).write_bytes(b"\x7fELF")


def test_the_environments_kernel_comes_first(tmp_path: Path) -> None:
    put(tmp_path, f"vmlinuz-{RELEASE}", "mine", f"initrd.img-{RELEASE}")
    assert find_kernel({"PYVMM_KERNEL": str(tmp_path / "mine")}, tmp_path) == (tmp_path / "mine", None)


def test_the_environments_kernel_is_missing(tmp_path: Path) -> None:
    put(tmp_path, f"vmlinuz-{RELEASE}")
    with pytest.raises(UsageError, match=r"^PYVMM_KERNEL: '/no/kernel': no such file$"):
        find_kernel({"PYVMM_KERNEL": "/no/kernel"}, tmp_path)


@pytest.mark.parametrize("initrd", ["initrd.img-{}", "initramfs-{}.img", "initrd-{}"])
def test_the_hosts_own_kernel_comes_with_the_initrd_beside_it(tmp_path: Path, initrd: str) -> None:
    name = initrd.format(RELEASE)
    put(tmp_path, f"vmlinuz-{RELEASE}", "vmlinuz-999.0", name, "initrd.img-999.0")
    assert find_kernel({}, tmp_path) == (tmp_path / f"vmlinuz-{RELEASE}", tmp_path / name)


def test_an_initrd_of_the_users_own_leaves_out_the_one_beside_the_kernel(tmp_path: Path) -> None:
    put(tmp_path, f"vmlinuz-{RELEASE}", f"initrd.img-{RELEASE}")
    assert find_kernel({}, tmp_path, with_initrd=False).initrd is None


def test_else_the_newest_kernel_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-13-amd64", "vmlinuz-5.19", "initrd.img-6.1.0-9-amd64")
    assert find_kernel({"PYVMM_KERNEL": ""}, tmp_path) == (tmp_path / "vmlinuz-6.1.0-13-amd64", None)


def test_versions_are_sorted_by_their_numbers() -> None:
    names = ["5.19", "6.1-rc1", "6.1-rc10", "6.1", "6.1.0-9-amd64", "6.1.0-13-amd64", "6.9.1", "6.10~rc2", "6.10"]
    assert sorted(random.Random(1).sample(names, len(names)), key=version_key) == names


def test_no_kernel_at_all_names_every_path_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        find_kernel({}, tmp_path)
    assert str(raised.value) == (
        f"no kernel to boot; tried $PYVMM_KERNEL (not set), {tmp_path}/vmlinuz-{RELEASE} (no such file), "
        f"{tmp_path}/vmlinuz-* (no such file); give one with --kernel FILE or PYVMM_KERNEL"
    )


def test_kernels_that_cannot_be_read_are_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "vmlinuz-6.1")
    (tmp_path / "vmlinuz-6.1").chmod(0o600)
    (tmp_path / "vmlinuz-6.2").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(UsageError) as raised:
        find_kernel({}, tmp_path)
    assert f"{tmp_path}/vmlinuz-6.1 (not readable for this user (mode 0600))" in str(raised.value)
    assert f"{tmp_path}/vmlinuz-6.2 (a directory, not a file)" in str(raised.value)


def test_a_kernel_whose_initrd_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "vmlinuz-6.1", "vmlinuz-6.2", "initrd.img-6.1")
    (tmp_path / "initrd.img-6.2").mkdir()
    assert find_kernel({}, tmp_path) == (tmp_path / "vmlinuz-6.1", tmp_path / "initrd.img-6.1")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/no/such", "no such file"),
        ("/", "a directory, not a file"),
        ("/dev/null/x", "Not a directory"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "not a path: it has a NUL character"),
        ("/dev/null", ""),
    ],
)
def test_what_is_wrong_with_a_file_is_said(path: str, fault: str) -> None:
    assert file_fault(Path(path)) == fault
    if fault:
        with pytest.raises(UsageError, match=f"^--initrd: .*: {re.escape(fault)}$"):
            check_file(Path(path), "--initrd")
