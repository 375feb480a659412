"""The guest's program, a static one; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

SOURCE = Path("agent/agent.c")
COMPILERS = (["musl-gcc", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"], ["gcc"], ["cc"])
FLAGS = ["-static", "-std=gnu11", "-Os", "-s", "-Wall", "-Wextra"]


class BuildWithAgent(build_py):
    """Builds the modules, and the program into their package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.make_agent(Path(self.build_lib, "pyvmm_run"))
        else:
            self.make_agent(Path("src/pyvmm_run"))

    def make_agent(self, package: Path) -> None:
        package.mkdir(parents=True, exist_ok=True)
        chosen = os.environ.get("CC")
        compilers = [shlex.split(chosen)] if chosen else [c for c in COMPILERS if shutil.which(c[0])]
        if not compilers:
            sys.exit("pyvmm-run: its guest program needs a C compiler: install gcc and libc6-dev, or musl-tools")
        said = ""
        for compiler in compilers:
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(package / "agent")]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                return
            said += f"{shlex.join(command)}:\n{result.stderr}"
        sys.exit(
            f"{said}pyvmm-run: its guest program cannot be compiled; it needs a C library to link statically "
            "(libc6-dev, or musl-tools) and the kernel's headers (linux-libc-dev)"
        )

    def get_outputs(self, *arguments: Any, **named: Any) -> list[str]:
        return [*super().get_outputs(*arguments, **named), os.path.join(self.build_lib, "pyvmm_run/agent")]


class WithProgram(Distribution):
    """A distribution for one kind of processor."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_py": BuildWithAgent},
    distclass=WithProgram,
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
