"""A package that is none of ours: installed, tested by the contract, used, and taken away without a trace."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from pyvmm.testing.waiting import PATIENCE

from tests.documentation import DOWNSTREAM
from tests.first_device import run


def environment(path: Path) -> Path:
    """A virtual environment that finds, after its own, the packages of the one that runs this: its interpreter."""
    venv.create(path, with_pip=False, symlinks=True)
    (site,) = path.glob("lib/python3*/site-packages")
    ours = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "ours.pth").write_text("".join(f"import site; site.addsitedir({entry!r})\n" for entry in ours))
    return path / "bin/python"


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if "__pycache__" not in path.parts}


def test_it_comes_passes_its_tests_and_goes_without_a_trace(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(DOWNSTREAM / "ramdisk"), str(source)], check=True)
    python = environment(tmp_path / "venv")
    before = files(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    into = (*pip, "--python", str(python))

    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels", str(source), cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").iterdir()
    run(*into, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel), cwd=tmp_path)
    listed = run(str(python), "-m", "pyvmm", "--device", "help", cwd=tmp_path)
    tests = run(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=source)
    run(*into, "uninstall", "--quiet", "--yes", "pyvmm-ramdisk", cwd=tmp_path)
    gone = subprocess.run(
        [python, "-m", "pyvmm", "--device", "ramdisk"],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )

    assert "\nramdisk " in listed and "\nblock " in listed
    assert " passed" in tests
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert "no installed package offers device kind 'ramdisk'" in gone.stderr
    assert files(tmp_path / "venv") == before
