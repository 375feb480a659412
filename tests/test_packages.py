"""Each distribution by itself: built, installed, taken away; a machine has the devices whose packages are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest
from pyvmm import __version__
from pyvmm.testing.waiting import PATIENCE

from tests.system.prepared import CACHE, TOP, key_of, prepared_directory
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


def tracked(source: Path) -> list[str]:
    """The files that git knows in the folder ``source``, relative to it."""
    names = subprocess.check_output(["git", "ls-files", "-z", "."], cwd=source, text=True).split("\0")
    return [name for name in names if name and (source / name).exists()]


@pytest.fixture(scope="module")
def wheels() -> Path:
    """Wheels of all distributions and of what they need; made once for what the sources are now."""
    inputs = [TOP / "tests/release/build.py", *(source / name for source in PACKAGES for name in tracked(source))]
    return prepared_directory(CACHE / "wheels" / key_of(sys.version, Path(__file__), *inputs)[:16], make_wheels)


def make_wheels(directory: Path) -> None:
    """Each from its sdist alone, which comes from a copy: a build leaves its traces in the sources."""
    for old in list(directory.parent.glob("[0-9a-f]*")):
        shutil.rmtree(old)  # of other sources
    with tempfile.TemporaryDirectory() as scratch:
        for source in PACKAGES:
            copy = Path(scratch, source.name)
            for name in tracked(source):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((source / name).read_bytes())
            command = [sys.executable, str(TOP / "tests/release/build.py"), str(copy), scratch, str(directory)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    pip("wheel", "--quiet", "-w", str(directory), "pluggy", "click", "importlib-metadata", "cffi")


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
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
        )

    def files(self) -> set[Path]:
        return {path for path in self.path.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def environment(tmp_path: Path, wheels: Path) -> Environment:
    return Environment(tmp_path / "venv", wheels)


def test_the_core_s_wheel_serves_every_python_from_3_11_on(wheels: Path) -> None:
    (wheel,) = wheels.glob("pyvmm_core-*.whl")

    assert "-cp311-abi3-linux_" in wheel.name


def test_a_wheel_has_every_file_of_the_package_and_the_license(wheels: Path) -> None:
    for source in PACKAGES:
        [wheel] = wheels.glob(f"pyvmm_{source.name}-*.whl")
        archive = zipfile.ZipFile(wheel)
        there = archive.namelist()
        [metadata] = [archive.read(name).decode() for name in there if name.endswith(".dist-info/METADATA")]

        wanted = {name.removeprefix("src/") for name in tracked(source) if name.startswith("src/")}
        assert wanted - set(there) == set()
        assert "\nLicense: Apache-2.0\n" in metadata
        # In the folder or, since setuptools 77, in one below it.
        assert any(".dist-info/" in name and name.endswith("/LICENSE") for name in there)


def test_the_core_alone_has_no_device(environment: Environment) -> None:
    environment.install("pyvmm-core")

    listed = environment.pyvmm("--device", "help")

    assert environment.pyvmm("--version").stdout == f"pyvmm {__version__}\n"
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
