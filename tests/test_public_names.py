"""What is public is what docs/reference documents; plugins import nothing else, and use nothing that is private."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from pyvmm.device_context import DeviceContext
from pyvmm.plugin import AcpiRequest, CmdlineRequest, DeviceKind
from pyvmm.plugins import hookspecs

from tests.system.prepared import TOP

REFERENCE = TOP / "docs/reference"


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository."""
    names = subprocess.check_output(["git", "ls-files", "-z", *patterns], cwd=TOP, text=True).split("\0")
    return [TOP / name for name in names if name and (TOP / name).exists()]


SOURCES = tracked("plugins/*/src/*.py")
PAGES = "\n".join(path.read_text() for path in sorted(REFERENCE.glob("*.md")))
PUBLIC = sorted(set(re.findall(r"^\.\. automodule:: (pyvmm[\w.]*)$", PAGES, re.M)) - {"pyvmm.plugins.hookspecs"})
"""The modules that a device's author may import."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """What a source imports of pyvmm: module and name; the name is empty where it is the module itself."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "pyvmm":
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pyvmm":
            for alias in node.names:
                assert node.module is not None
                module = f"{node.module}.{alias.name}"
                if hasattr(importlib.import_module(node.module), "__path__") and find_spec(module):
                    yield module, ""
                else:
                    yield node.module, alias.name


def name_of(path: Path) -> str:
    return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_plugin_imports_only_public_names(path: Path) -> None:
    for module, name in imports(path):
        assert module in PUBLIC, f"{module} is in no automodule of docs/reference"
        if name:
            assert name in importlib.import_module(module).__all__, f"{module}.{name} is not public"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_plugin_imports_no_other_plugin(path: Path) -> None:
    own = path.relative_to(TOP).parts[3]
    for node in ast.walk(tree(path)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert not module.startswith("pyvmm_") or module.partition(".")[0] == own


def private_names_defined(nodes: ast.AST) -> set[str]:
    """Private functions, classes, variables and attributes that a source makes."""
    found: set[str] = set()
    for node in ast.walk(nodes):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("package", sorted({path.parent for path in SOURCES}), ids=name_of)
def test_a_plugin_uses_no_private_attribute_of_others(package: Path) -> None:
    trees = [tree(path) for path in SOURCES if path.parent == package]
    own = set().union(*map(private_names_defined, trees))
    used = {
        node.attr
        for each in trees
        for node in ast.walk(each)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id == "os")  # os._exit is what it is called
    }
    assert used <= own


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_plugin_s_class_has_no_private_name_of_its_base_in_the_core(path: Path) -> None:
    """It would take the place of what the core relies on."""
    module = importlib.import_module(
        ".".join(path.relative_to(TOP).with_suffix("").parts[3:]).removesuffix(".__init__")
    )
    for class_ in vars(module).values():
        if not inspect.isclass(class_) or class_.__module__ != module.__name__:
            continue
        for base in class_.__mro__[1:]:
            if base.__module__.partition(".")[0] == "pyvmm":
                theirs = private_names_defined(_class(base))
                assert not theirs & private_names_defined(_class(class_)), f"{class_.__name__} and {base.__name__}"


def _class(class_: type) -> ast.AST:
    source = Path(inspect.getfile(class_))
    return next(
        node for node in ast.walk(tree(source)) if isinstance(node, ast.ClassDef) and node.name == class_.__name__
    )


def test_the_list_of_public_modules_is_short() -> None:
    assert 20 <= len(PUBLIC) <= 60


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_says_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    for public in module.__all__:
        assert hasattr(module, public)
        assert not public.startswith("_")
    assert not any(part.startswith("_") for part in name.split("."))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_documented(name: str) -> None:
    """Sphinx leaves out what has no docstring, and what a list of members does not name."""
    module = importlib.import_module(name)
    if f".. pyvmm-constants:: {name}\n" in PAGES:
        return  # they are listed by their names
    directive = re.search(rf"^\.\. automodule:: {re.escape(name)}\n((?:   :.*\n)*)", PAGES, re.M)
    assert directive is not None
    members = re.search(r":members:(.*)", directive.group(1))
    assert members is not None
    shown = [word.strip() for word in members.group(1).split(",") if word.strip()]
    assert not shown or set(shown) == set(module.__all__)
    if ":undoc-members:" not in directive.group(1):
        for public in module.__all__:
            assert _has_docstring(module, public), f"{name}.{public} has no docstring"


def _has_docstring(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return bool(value.__doc__)
    source = tree(Path(inspect.getfile(module))).body
    for statement, after in pairwise(source):
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False  # nor does Sphinx look into the module that it may come from


HOOKS = [name for name in vars(hookspecs) if name.startswith("pyvmm_")]


@pytest.mark.parametrize("name", HOOKS)
def test_the_reference_has_each_hook_with_its_exact_signature(name: str) -> None:
    page = (REFERENCE / "hooks.md").read_text()
    hook = getattr(hookspecs, name)
    assert f"## `{name}{inspect.signature(hook)}`\n".replace("'", "") in page
    assert f".. autofunction:: pyvmm.plugins.hookspecs.{name}\n" in page


def test_the_reference_has_no_hook_that_does_not_exist() -> None:
    page = (REFERENCE / "hooks.md").read_text()
    assert sorted(re.findall(r"^## `(pyvmm_\w+)", page, re.M)) == sorted(HOOKS)


@pytest.mark.parametrize("record", [DeviceKind, CmdlineRequest, AcpiRequest, DeviceContext])
def test_each_field_of_a_record_says_what_it_is(record: type) -> None:
    """So that the reference, which is made from it, does."""
    body = _class(record).body  # type: ignore[attr-defined]
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    assert len(fields) == len(record.__annotations__)
    for field in fields:
        after = body[body.index(field) + 1] if field is not body[-1] else None
        assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(field)
