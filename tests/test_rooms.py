"""The rooms of the core: a module imports only from the rooms before its own, and no imports form a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
CORE = TOP / "core/src/pyvmm"

ORDER = """
    _native
    errors limits startup logs exit_reason
    host memory options
    kvm
    device_context
    bus chardev
    x86_64
    virtio
    plugin
    vhost_user device_manager device_request
    device_process
    machine
    plugins
    cli testing __main__
"""
ROOMS = ORDER.split()
"""The rooms of core/src/pyvmm, in their order: a module imports only from its own and from those before it."""

FACES = ("pyvmm.machine", "pyvmm.plugins")
"""Like a package's first module, they import what they offer only when somebody asks for it."""


def modules_of(package: Path) -> dict[str, Path]:
    """The files of a package by the names of their modules."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules_of(CORE)
PLUGINS = [path.parent for path in sorted(TOP.glob("plugins/*/src/*/__init__.py"))]


def imports_of(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import within ``package``, also those in functions and for type checkers."""
    known = modules_of(package)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in whole]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == package.name)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def late_imports(path: Path, core: Path) -> list[str]:
    """The imports of a module of the core that are of a room after its own."""
    room = path.relative_to(core).with_suffix("").parts[0]
    assert room in ROOMS, f"{path}: ORDER does not say where {room!r} stands"
    reachable = {"", *ROOMS[: ROOMS.index(room) + 1]}
    return [
        f"{path}:{line}: {room} may not import {name}, which stands after it"
        for line, name in imports_of(path, core)
        if room_of(name) not in reachable
    ]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "pyvmm"])
def test_a_module_imports_from_the_rooms_before_its_own(module: str) -> None:
    assert late_imports(MODULES[module], CORE) == []


def test_an_import_from_a_later_room_is_found(tmp_path: Path) -> None:
    (tmp_path / "pyvmm/virtio").mkdir(parents=True)
    wrong = tmp_path / "pyvmm/virtio/wrong.py"
    wrong.write_text("import os\n\nif 0:\n    from pyvmm.machine import Machine\nfrom pyvmm.host import eventfd\n")
    assert late_imports(wrong, tmp_path / "pyvmm") == [
        f"{wrong}:4: virtio may not import pyvmm.machine, which stands after it"
    ]


def circle_in(package: Path) -> list[str]:
    """The modules of one circle of imports, the first also last; empty where there is none."""
    modules = modules_of(package)
    graph = {
        name: sorted({imported for _, imported in imports_of(path, package)} - {name})
        for name, path in modules.items()
        if name not in (package.name, *FACES)
    }
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for imported in graph.get(name, ()):
                if found := search(imported, [*way, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := search(name, []))), [])


@pytest.mark.parametrize("package", [CORE, *PLUGINS], ids=lambda package: package.name)
def test_no_imports_form_a_circle(package: Path) -> None:
    assert circle_in(package) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "lamp"
    package.mkdir()
    for name, imported in {"a": "b", "b": "c", "c": "b"}.items():
        (package / f"{name}.py").write_text(f"def f():\n    from lamp.{imported} import f\n")
    assert circle_in(package) == ["lamp.b", "lamp.c", "lamp.b"]
