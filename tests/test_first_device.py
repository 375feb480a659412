"""The tutorial's package, made of the code that stands in it, passes its tests and is a kind of device."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import first_device
from tests.documentation import files
from tests.system.prepared import TOP


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_device.follow(tmp_path_factory.mktemp("tutorial"))


def test_the_tutorial_s_tests_pass_and_its_help_is_there(project: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    first_device.install(project, site)

    tests = first_device.run("pytest", "-q", "-p", "no:cacheprovider", cwd=project, path=site)
    options = first_device.run("pyvmm", "--device", "lighthouse,help", cwd=project, path=site)

    assert " passed" in tests and "skipped" not in tests
    assert "character=Fl(N) SECONDSs  Fl(3) 12s" in options


def test_the_tutorial_s_code_has_types_and_the_usual_form(project: Path) -> None:
    settings = ("--no-cache", "--config", str(TOP / "pyproject.toml"))
    first_device.run("ruff", "check", *settings, ".", cwd=project)
    first_device.run("ruff", "format", *settings, "--check", ".", cwd=project)
    mypy = ("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", os.devnull, "--follow-imports", "silent")
    first_device.run(*mypy, "src", "tests", cwd=project)


def test_each_of_its_files_takes_the_place_of_one_or_is_the_guest_s(project: Path) -> None:
    assert set(files(first_device.PAGE)) == {
        *("src/pyvmm_lighthouse/__init__.py", "src/pyvmm_lighthouse/device.py", "tests/test_lighthouse.py"),
        *("init", "keeper", "guest.sh"),
    }


@pytest.mark.parametrize("name", ["init", "keeper", "guest.sh"])
def test_its_scripts_are_ones_of_a_shell(name: str, project: Path) -> None:
    subprocess.run(["sh", "-n", str(project / name)], check=True)
