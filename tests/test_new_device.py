"""What ``pyvmm new-device`` writes, and what the tutorial makes of it: installed, tested, checked, refused."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from pyvmm.cli.new_device import names_of, write
from pyvmm.errors import PyvmmError

from tests import first_device
from tests.first_device import install, run
from tests.system.prepared import TOP
from tests.test_bad_input import refused


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def projects(directory: Path) -> dict[str, Path]:
    """By their kinds: one of each form, and the tutorial's."""
    run("pyvmm", "new-device", "lamp", cwd=directory)
    run("pyvmm", "new-device", "night-light", "--bus", cwd=directory)
    tutorial = first_device.follow(directory)
    return {"lamp": directory / "pyvmm-lamp", "night-light": directory / "pyvmm-night-light", "lighthouse": tutorial}


def test_it_writes_a_whole_package(tmp_path: Path) -> None:
    said = run("pyvmm", "new-device", "night-light", "-v", cwd=tmp_path)

    written = files(tmp_path / "pyvmm-night-light")
    assert written == {
        *(".gitignore", "README.md", "pyproject.toml", "tests/test_night_light.py"),
        *(f"src/pyvmm_night_light/{name}" for name in ("__init__.py", "device.py", "py.typed")),
    }
    assert all(f"pyvmm-night-light/{name}\n" in said for name in written)


def test_packages_install_pass_their_tests_and_are_kinds_of_device(tmp_path: Path) -> None:
    made = projects(tmp_path)
    site = tmp_path / "site"

    install(site, *made.values())
    listed = run("pyvmm", "--device", "help", cwd=tmp_path, path=site)
    options = run("pyvmm", "--device", "lighthouse,help", cwd=tmp_path, path=site)

    for kind, project in made.items():
        tests = run("pytest", "-q", "-p", "no:cacheprovider", cwd=project, path=site)
        assert " passed" in tests and "skipped" not in tests
        assert re.search(rf"^{kind} +pyvmm-{kind} +0\.1\.0 +ok ", listed, re.MULTILINE)
    assert "character=Fl(N) SECONDSs  Fl(3) 12s" in options
    assert "(pyvmm-lighthouse 0.1.0)" in options


def test_their_code_has_types_and_the_usual_form(tmp_path: Path) -> None:
    made = projects(tmp_path)
    settings = ("--no-cache", "--config", str(TOP / "pyproject.toml"))
    for project in made.values():
        run("ruff", "check", *settings, ".", cwd=project)
        run("ruff", "format", *settings, "--check", ".", cwd=project)
    mypy = ("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", os.devnull, "--follow-imports", "silent")
    run(*mypy, *(str(project / "src") for project in made.values()), cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("net", "taken by pyvmm-virtio-net"),
        ("core", "taken"),
        ("help", "taken"),
        ("virtio", "names no device"),
        ("Lamp", "cannot be a kind of device"),
        ("9lives", "cannot be a kind of device"),
        ("night_light", "cannot be a kind of device"),
        ("../lamp", "cannot be a kind of device"),
        ("lämp", "cannot be a kind of device"),
        ("lamp-", "cannot be a kind of device"),
        ("", "cannot be a kind of device"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, why: str, tmp_path: Path) -> None:
    line = refused("new-device", name, "--directory", str(tmp_path / "new"), status=2, names=why)

    assert repr(name) in line
    assert not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")

    refused("new-device", "lamp", "--directory", str(tmp_path), status=2, names=str(tmp_path))
    refused("new-device", "lamp", "--directory", str(tmp_path / "mine"), status=2, names="mine")

    assert files(tmp_path) == {"mine"}


def test_a_directory_that_cannot_be_made_is_named() -> None:
    refused("new-device", "lamp", "--directory", "/proc/lamp", status=1, names="/proc/lamp")


def test_a_name_is_needed_and_help_lists_the_options(tmp_path: Path) -> None:
    refused("new-device", status=2, names="pyvmm new-device --help")
    assert "--bus" in run("pyvmm", "new-device", "--help", cwd=tmp_path)


def test_the_tutorial_s_files_take_the_place_of_some_or_are_the_guest_s(tmp_path: Path) -> None:
    run("pyvmm", "new-device", "lighthouse", cwd=tmp_path)
    before = files(tmp_path / "pyvmm-lighthouse")
    tutorial = first_device.tutorial_files()

    assert set(tutorial) - before == {"init", "keeper", "guest.sh"}
    for name in ("init", "keeper", "guest.sh"):
        (tmp_path / name).write_text(tutorial[name])
        run("sh", "-n", name, cwd=tmp_path)


@pytest.mark.parametrize("was_there", [False, True])
def test_a_disk_that_is_full_has_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    directory = tmp_path / "lamp"
    if was_there:
        directory.mkdir()
    write_text = Path.write_text

    def full(path: Path, text: str, **more: str) -> int:
        if path.name == "device.py":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PyvmmError, match=r"lamp cannot be written: No space left on device$"):
        write(directory, "virtio", names_of("lamp"))
    assert list(tmp_path.iterdir()) == [directory] * was_there
    assert not was_there or not any(directory.iterdir())
