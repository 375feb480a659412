"""One version for all distributions, and a Debian package for each of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pyvmm import __version__

from tests.system.prepared import TOP

CORE = TOP / "core"
PLUGINS = sorted(path.parent for path in TOP.glob("plugins/*/pyproject.toml"))
each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)


def project(directory: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return table


def debian_packages() -> dict[str, dict[str, str]]:
    """The fields of each package in debian/control, by its name."""
    paragraphs = (TOP / "debian/control").read_text().split("\n\n")
    fields = [dict(re.findall(r"^([\w-]+):((?:.*\n?)(?: .*\n?)*)", text, re.MULTILINE)) for text in paragraphs]
    return {found["Package"].strip(): found for found in fields if "Package" in found}


def debian_name(plugin: Path) -> str:
    return f"python3-pyvmm-{plugin.name.replace('_', '-')}"


def test_the_core_has_the_version_of_the_module() -> None:
    assert project(CORE)["version"] == __version__


@each_plugin
def test_a_plugin_has_the_core_s_version_and_wants_a_core_like_it(plugin: Path) -> None:
    assert project(plugin)["version"] == __version__
    assert f"pyvmm-core~={__version__}" in project(plugin)["dependencies"]


def test_debian_s_package_has_the_version() -> None:
    first = (TOP / "debian/changelog").read_text().partition("\n")[0]

    assert first.startswith(f"pyvmm ({__version__}-")


@each_plugin
def test_debian_has_a_package_for_a_plugin_which_the_command_names(plugin: Path) -> None:
    packages = debian_packages()
    name = debian_name(plugin)

    assert project(plugin)["name"] == name.removeprefix("python3-")
    has_program = (plugin / "setup.py").exists()
    assert packages[name]["Architecture"].strip() == ("amd64" if has_program else "all")
    named = re.findall(r"[\w-]+", packages["pyvmm"]["Recommends"] + packages["pyvmm"]["Suggests"])
    assert name in named


def test_debian_has_no_package_for_what_is_no_plugin() -> None:
    others = {"python3-pyvmm", "pyvmm", "pyvmm-doc"}

    assert set(debian_packages()) == others | {debian_name(plugin) for plugin in PLUGINS}
