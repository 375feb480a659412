"""The documentation says what is: its links, commands, options, devices and packages exist."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from pyvmm.cli.main_command import command as main_command
from pyvmm.cli.subcommands import OWN, find, installed
from pyvmm.device_process.options import records_of
from pyvmm.options import describe, parse_device, parse_records
from pyvmm.plugins import Plugins
from pyvmm.testing.waiting import PATIENCE

from tests import first_device
from tests.documentation import DOCS, DOWNSTREAM, blocks, commands, pages
from tests.system.prepared import TOP

PLUGINS: Final = Plugins()

KINDS: Final = {
    kind: path.parent
    for path in sorted(TOP.glob("plugins/*/pyproject.toml"))
    for kind in tomllib.loads(path.read_text())["project"]["entry-points"].get("pyvmm.devices", ())
}
"""The kinds of device of this repository, and where their packages are."""

TUTORIAL_S: Final = {"lighthouse", "lamp"}
"""Kinds that documentation makes."""


def named(page: Path) -> str:
    return str(page.relative_to(TOP))


def prose(page: Path) -> str:
    """``page`` without its fenced blocks and what is between backticks."""
    text = re.sub(r"^(`{3,}).*?^\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The headings of ``page`` as MyST and GitHub name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match("https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked), f"{linked.name} has no heading {anchor}"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in sorted(DOCS.rglob("*.md")):
        for block in blocks(page):
            if block.language == "toctree":
                for entry in filter(None, map(str.strip, block.text.splitlines())):
                    name = entry[entry.index("<") + 1 : -1] if entry.endswith(">") else entry
                    listed.add(page.parent / f"{name}.md")
    assert listed == set(DOCS.rglob("*.md"))


def invocations() -> Iterator[tuple[Path, str]]:
    """Each ``pyvmm …`` that a reader is told to type."""
    for page in pages():
        indented = re.findall(r"^    (?:[\w-]+)?[$#]? *(pyvmm .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        for line in [*commands(page), *indented]:
            found = re.search(r"(?:^|[/ ])(pyvmm [^|&]*)", line.partition("  #")[0])
            if found and not re.search(r"--name|install|[…]", line):
                yield page, found[1]


@pytest.mark.parametrize(
    ("page", "line"), sorted(set(invocations())), ids=lambda value: named(value) if isinstance(value, Path) else value
)
def test_every_invocation_is_one_that_the_command_understands(page: Path, line: str) -> None:
    words = shlex.split(line)[1:]
    command = find(words.pop(0)) if words and words[0] in dict(installed()) else main_command
    context = command.make_context("pyvmm", [word for word in words if word != "..."], resilient_parsing=False)

    devices = [*context.params.get("devices", ()), *filter(None, [context.params.get("device")])]
    for spec in devices:
        if spec.kind in TUTORIAL_S or spec.kind == "help" or spec.asks_for_help:
            continue
        parse_records(records_of(PLUGINS.kind(spec.kind)), spec.kind, spec.text)


@pytest.mark.parametrize("kind", KINDS)
def test_each_option_of_a_device_is_in_its_package_s_readme(kind: str) -> None:
    text = (KINDS[kind] / "README.md").read_text(encoding="utf-8")
    for info in describe(PLUGINS.kind(kind).options):
        assert info.help, f"{info.name} has no help"
        if info.primary:
            continue  # it is shown in use
        assert re.search(rf"`(?:[\w-]+:|[^`]*,)?{re.escape(info.name)}[=`\[]", text), f"no {info.name} in the README"


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_has_a_page(kind: str) -> None:
    page = (DOCS / f"reference/devices/{kind}.md").read_text()

    assert f"plugins/{KINDS[kind].name}/README.md" in page
    assert f"{{pyvmm-device}} {kind}\n" in page


@pytest.mark.parametrize("path", ["core", *sorted(str(path.relative_to(TOP)) for path in TOP.glob("plugins/*"))])
def test_the_readme_names_every_package(path: str) -> None:
    name = tomllib.loads((TOP / path / "pyproject.toml").read_text())["project"]["name"]

    assert f"\n| `{name}` |" in (TOP / "README.md").read_text()


def test_each_option_of_the_commands_has_help() -> None:
    for command in (main_command, *map(find, OWN)):
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name}: {parameter.name}"


def test_each_command_is_in_the_reference() -> None:
    page = (DOCS / "reference/command-line.md").read_text()

    for name in OWN:
        assert f"{{pyvmm-command}} {name}\n" in page
    assert "{pyvmm-command}\n" in page


def test_each_variable_of_the_environment_is_in_the_reference() -> None:
    sources = [*TOP.glob("core/src/pyvmm/**/*.py"), *TOP.glob("plugins/*/src/**/*.py"), *TOP.glob("core/native/*.c")]
    used = set()
    for source in sources:
        used |= set(re.findall(r'"(PYVMM_[A-Z_]+)"', source.read_text(encoding="utf-8")))
    page = (DOCS / "reference/command-line.md").read_text()

    for name in used:
        assert f"`{name}`" in page, f"{name} is not in the reference"


def test_make_targets_in_the_documentation_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))

    for page in pages():
        for line in commands(page):
            if line.startswith("make "):
                assert line.split()[1] in targets, f"{page.name}: {line}"


def test_files_of_the_checkout_that_a_reader_is_to_use_are_there() -> None:
    for page in pages():
        for line in commands(page):
            for word in line.split():
                if re.match(r"(?:\./)?(?:core|docs|plugins|release|tests)(?:/|$)", word):
                    assert (TOP / word).exists(), f"{page.name}: {line}"


def test_a_device_s_spelling_in_prose_is_understood() -> None:
    for page in pages():
        for text in re.findall(r"`--device ([^`]+)`", page.read_text(encoding="utf-8")):
            if not re.search("[A-Z]{2}|…", text):
                spec = parse_device(text)
                assert spec.kind in KINDS or spec.kind in TUTORIAL_S or spec.kind == "help", f"{page.name}: {text}"


def code_by_the_documentation() -> Iterator[tuple[str, str]]:
    """The sources of devices that a reader is shown or given, with their names."""
    yield from first_device.tutorial_files().items()
    for path in [*TOP.glob("core/src/pyvmm/cli/templates/**/*.py.tmpl"), *DOWNSTREAM.glob("*/src/**/*.py")]:
        yield str(path.relative_to(TOP)), path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "text"), [pytest.param(*pair, id=pair[0]) for pair in code_by_the_documentation()])
def test_what_is_shown_imports_only_public_names(name: str, text: str) -> None:
    public = set(re.findall(r"^\.\. automodule:: (pyvmm[\w.]*)$", "\n".join(map(reference, pages())), re.MULTILINE))

    for module, names in re.findall(r"^from (pyvmm\.[\w.]+) import (.+)$", text, re.MULTILINE):
        assert module in public, f"{module} is on no page of the reference"
        assert not re.search(r"\b_", names)


def moved_modules() -> list[tuple[str, str]]:
    return re.findall(
        r"^\| `(pyvmm[\w.]+)` \| `(pyvmm[\w.]+)` \|$", (DOCS / "reference/moved.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize(("old", "new"), moved_modules())
def test_what_moved_is_where_the_page_says_and_nowhere_else(old: str, new: str) -> None:
    assert found(new) is not None, f"{new} is not there"
    assert found(old) is None, f"{old} is still there"


def found(name: str) -> object:
    """The module or the public name that is called ``name``; None where there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
    try:
        there = importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    return getattr(there, attribute) if attribute in getattr(there, "__all__", ()) else None


def reference(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.is_relative_to(DOCS / "reference") else ""


TELLTALES: Final = ("host.child", "device_context", "virtio.interrupt", "testing.bare_metal", "testing.hostile_ring")
"""Modules with defaults and values that are of the host, or objects. All others are looked at when the documentation is
built."""


def test_the_reference_has_nothing_of_the_machine_that_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    for module in ("furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(module)
    modules = [f".. automodule:: pyvmm.{name}\n   :members:\n   :undoc-members:\n" for name in TELLTALES]
    code = ".. code-block:: python\n   :caption: lamp/__init__.py\n\n   pass\n"
    (tmp_path / "index.rst").write_text("\n".join(["All\n===\n", *modules, code]))
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-b",
        "text",
        "-c",
        str(DOCS),
        str(tmp_path),
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "NOBODY_S_BUSINESS": "but its own"}

    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5 * PATIENCE, check=False)

    assert built.returncode == 0, built.stderr
    text = (tmp_path / "out/index.txt").read_text()
    for part in (str(TOP), "NOBODY_S_BUSINESS", " at 0x", "<function", "<pyvmm", "PosixPath("):
        assert part not in text
    assert "environment: Mapping[str, str] = os.environ" in text
    assert '"lamp/__init__.py"' in text
