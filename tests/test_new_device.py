"""``pyvmm new-device``: what it writes works at once, is found by the command, and goes without a trace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.first_device import install, run
from tests.system.prepared import TOP
from tests.test_bad_input import refused

FORMS: Mapping[str, tuple[str, ...]] = {"virtio": (), "bus": ("--bus",)}


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_it_writes_installs_passes_its_tests_and_is_a_kind_of_device(form: str, tmp_path: Path) -> None:
    run("pyvmm", "new-device", "night-light", *FORMS[form], cwd=tmp_path)
    project, site = tmp_path / "pyvmm-night-light", tmp_path / "site"

    written = files(project)
    install(project, site)
    listed = run("pyvmm", "--device", "help", cwd=tmp_path, path=site)
    options = run("pyvmm", "--device", "night-light,help", cwd=tmp_path, path=site)
    tests = run("pytest", "-q", "-p", "no:cacheprovider", cwd=project, path=site)

    assert written == {
        *(".gitignore", "README.md", "pyproject.toml", "tests/test_night_light.py"),
        *(f"src/pyvmm_night_light/{name}" for name in ("__init__.py", "device.py", "py.typed")),
    }
    assert "night-light  pyvmm-night-light   0.1.0    ok" in listed
    assert "text=TEXT" in options and "(pyvmm-night-light 0.1.0)" in options
    assert " passed" in tests and "skipped" not in tests


@pytest.mark.parametrize("form", FORMS)
def test_what_it_writes_has_types_and_the_usual_form(form: str, tmp_path: Path) -> None:
    run("pyvmm", "new-device", "lamp", *FORMS[form], cwd=tmp_path)
    settings = ("--config", str(TOP / "pyproject.toml"))
    project = tmp_path / "pyvmm-lamp"

    run("ruff", "check", "--no-cache", *settings, ".", cwd=project)
    run("ruff", "format", "--no-cache", "--check", *settings, ".", cwd=project)
    mypy = ("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", os.devnull)
    run(*mypy, "--follow-imports", "silent", "src", cwd=project)


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
