"""The rooms of the core: a module imports only from the rooms before its own, and no imports form a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "core/src/pyvmm"

ORDER = """
    _native
    errors startup log_format logs exit_reason
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
"""The rooms of core/src/pyvmm, in their order: a module imports only from rooms before its own."""

FRONT_DOOR = ("__init__.py", "machine/__init__.py")
"""Faces that import names when somebody asks for them (PEP 562)."""


ROOMS = ORDER.split()


def module_of(path: Path) -> str:
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(CORE.rglob("*.py"))}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the module of each import of the core in ``path``, those for type checkers and in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "pyvmm")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def upward_imports(path: Path) -> list[str]:
    room = room_of(module_of(path))
    assert room in ROOMS, f"{path}: ROOMS does not say where {room!r} stands"
    before = {"pyvmm", *ROOMS[: ROOMS.index(room) + 1]}
    return [
        f"{path}:{line}: {room} may not import {name}, which stands after it"
        for line, name in imports_of(path)
        if room_of(name) not in before
    ]


@pytest.mark.parametrize("path", [path for path in MODULES.values() if path != CORE / "__init__.py"], ids=str)
def test_a_module_imports_from_the_rooms_before_its_own(path: Path) -> None:
    assert upward_imports(path) == []


def test_no_imports_form_a_circle() -> None:
    faces = {module_of(CORE / face) for face in FRONT_DOOR}
    graph = {
        module: {name for _, name in imports_of(path) if name != module}
        for module, path in MODULES.items()
        if module not in faces
    }
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, "a circle of imports: " + " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                visit(name, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_an_upward_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyvmm/virtio").mkdir(parents=True)
    wrong = tmp_path / "pyvmm/virtio/wrong.py"
    wrong.write_text("import os\n\nif 0:\n    from pyvmm.machine import Machine\nfrom pyvmm.host import eventfd\n")
    monkeypatch.setattr("tests.test_rooms.CORE", tmp_path / "pyvmm")
    assert upward_imports(wrong) == [f"{wrong}:4: virtio may not import pyvmm.machine, which stands after it"]
