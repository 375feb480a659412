"""Each distribution by itself: built, installed, taken away; a machine has the devices whose packages are there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.system.prepared import TOP
from tests.test_bad_input import program

pytestmark = pytest.mark.xdist_group("packages")  # which are made once

needs_kvm = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm")

PACKAGES = [
    TOP / name.rpartition("/")[0]
    for name in subprocess.check_output(
        ["git", "ls-files", "core/pyproject.toml", "plugins/*/pyproject.toml"], cwd=TOP, text=True
    ).split()
]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of all distributions, made from their own folders alone, and of what they need."""
    directory = tmp_path_factory.mktemp("wheels")
    for source in PACKAGES:
        # In a copy: a build leaves its traces in the sources.
        copy = tmp_path_factory.mktemp("source") / source.name
        names = subprocess.check_output(["git", "ls-files", "-z", "."], cwd=source, text=True).split("\0")
        for name in filter(None, names):
            if (source / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((source / name).read_bytes())
        pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(directory), str(copy))
    pip("wheel", "--quiet", "-w", str(directory), "pluggy", "click", "importlib-metadata", "cffi")
    return directory


class Environment:
    """A virtual environment that has only what is installed here."""

    def __init__(self, path: Path, wheels: Path) -> None:
        venv.create(path, with_pip=False, symlinks=True)
        self.path = path
        self.wheels = wheels

    def install(self, *names: str) -> None:
        pip(
            "--python",
            str(self.path / "bin/python"),
            "install",
            "--quiet",
            "--no-index",
            "-f",
            str(self.wheels),
            *names,
        )

    def uninstall(self, name: str) -> None:
        pip("--python", str(self.path / "bin/python"), "uninstall", "--quiet", "--yes", name)

    def pyvmm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.path / "bin/pyvmm"), *arguments]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )

    def files(self) -> set[Path]:
        return {path for path in self.path.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def environment(tmp_path: Path, wheels: Path) -> Environment:
    return Environment(tmp_path / "venv", wheels)


def test_the_core_s_wheel_serves_every_python_from_3_11_on(wheels: Path) -> None:
    (wheel,) = wheels.glob("pyvmm_core-*.whl")

    assert "-cp311-abi3-linux_" in wheel.name
    assert not any("testing/conftest" in name for name in zipfile.ZipFile(wheel).namelist())


def test_all_versions_are_one(wheels: Path) -> None:
    versions = {path.name.split("-")[1] for path in wheels.glob("pyvmm_*.whl")}

    assert len(versions) == 1


def test_the_core_alone_has_no_device(environment: Environment) -> None:
    environment.install("pyvmm-core")

    listed = environment.pyvmm("--device", "help")

    assert listed.returncode == 0
    assert listed.stdout.startswith("No device package is installed")


@needs_kvm
def test_one_plugin_gives_a_vmm_with_one_device(environment: Environment, tmp_path: Path) -> None:
    environment.install("pyvmm-core", "pyvmm-virtio-block")
    kernel, disk = program(tmp_path / "kernel"), tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))

    run = environment.pyvmm("--kernel", str(kernel), "--memory", "16M", "--device", f"block:{disk}")
    without = environment.pyvmm("--kernel", str(kernel), "--device", "net:tap0")

    assert run.returncode == 0, run.stderr
    assert without.returncode == 2
    assert without.stderr.count("\n") == 1 and "'net'" in without.stderr


def test_a_package_that_goes_takes_its_device_and_all_its_files_along(environment: Environment) -> None:
    environment.install("pyvmm-core", "pyvmm-serial")
    before = environment.files()
    environment.install("pyvmm-virtio-net")
    there = environment.pyvmm("--device", "help").stdout

    environment.uninstall("pyvmm-virtio-net")
    gone = environment.pyvmm("--device", "help").stdout
    asked = environment.pyvmm("--device", "net:tap0")

    assert "\nnet " in there
    assert "\nnet " not in gone and "\nserial " in gone
    assert asked.returncode == 2 and "'net'" in asked.stderr and asked.stderr.count("\n") == 1
    assert environment.files() == before
