"""Throw-away distributions: a folder on ``sys.path`` with metadata and modules, as pip would leave them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

LAMP = """
    from pathlib import Path
    from typing import Literal

    from pyvmm.plugin import DeviceKind, hookimpl, option, options


    @options
    class LampOptions:
        path: Path = option(primary=True, help="file that the light comes from")
        ro: bool = option(False, help="never written to")
        colour: Literal["red", "green"] = option("red", help="of the light")
        id: str = option("", help="name of the lamp")


    def make(options):
        return None


    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("lamp", LampOptions, make, help="gives light")]
"""
"""A plugin with one kind, ``lamp``, that works."""


@dataclass(frozen=True)
class SitePackages:
    """A folder that distributions can be installed into."""

    path: Path

    def install(
        self,
        name: str,
        kinds: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        version: str = "1.2",
        suffix: str = "dist-info",
        group: str = "pyvmm.devices",
    ) -> None:
        """Install a distribution with entry points ``kinds`` (kind to module) in ``group`` and the sources of
        ``modules``."""
        stem = name.replace("-", "_") + (f"-{version}" if suffix == "dist-info" else "")
        info = self.path / f"{stem}.{suffix}"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n"
        (info / ("METADATA" if suffix == "dist-info" else "PKG-INFO")).write_text(head)
        lines = [f"{kind} = {module}" for kind, module in kinds.items()]
        text = "\n".join(["[console_scripts]", "other = other:main", "", f"[{group}]", *lines, ""])
        (info / "entry_points.txt").write_text(text)
        for module, source in (modules or {}).items():
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SitePackages]:
    """An empty folder, first on ``sys.path``. Modules imported from it are forgotten afterwards."""
    path = tmp_path / "site-packages"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield SitePackages(path)
    for name, module in list(sys.modules.items()):
        if name not in before and str(path) in (getattr(module, "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def lamp(site_packages: SitePackages) -> SitePackages:
    """A folder where the distribution ``pyvmm-lamp`` 1.2 is installed, which offers ``lamp``."""
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": LAMP})
    return site_packages
