"""The command ``pyvmm new-device``: it generates a working device package with tests."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

import click

from pyvmm import __version__
from pyvmm.errors import PyvmmError, UsageError

TEMPLATES: Final = Path(__file__).parent / "templates"
"""The templates. ``common`` and one of ``virtio`` and ``bus`` make a package. DOT, MODULE and TEST in a file's path
stand for a dot and for names; each file's text is a :class:`string.Template`."""

_SUFFIX: Final = ".tmpl"

_RESERVED: Final = {"help": "--device help lists the kinds", "core": "pyvmm-core is pyvmm's own package"}

_EPILOG = """\
\b
An example:
  pyvmm new-device lamp
  cd pyvmm-lamp
  pip install --editable . pytest
  pytest
  pyvmm --device lamp,help
"""


@click.command("new-device", context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.argument("name")
@click.option("--bus", is_flag=True, help="Generate a device at ports (BusDevice) instead of a virtio device.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory for the package, new or empty; by default pyvmm-NAME.",
)
@click.option("-v", "--verbose", count=True, help="Print the name of each file.")
def command(name: str, bus: bool, directory: Path | None, verbose: int) -> int:
    """Generate a working device package with tests.

    NAME is the kind of device, as in --device NAME: lower case letters, digits and -. The package is called pyvmm-NAME
    and contains a project file, the device with an option, tests and a README.
    """
    names = names_of(name)
    directory = directory or Path(names["distribution"])
    for path in write(directory, "bus" if bus else "virtio", names):
        if verbose:
            click.echo(path)
    click.echo(f"{directory}: a working device of the kind {name!r}; its README.md describes the next steps")
    return 0


def names_of(kind: str) -> Mapping[str, str]:
    """The templates' values for a device called ``kind``.

    Raises :class:`UsageError` for a name that cannot be a kind of device, or that another package uses.
    """
    from importlib.util import find_spec

    from pyvmm.plugins import Plugins

    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", kind) or len(kind) > 40:
        raise UsageError(
            f"new-device: {kind!r} cannot be a kind of device; give up to 40 lower case letters, digits and -, "
            "a letter first"
        )
    if kind in _RESERVED:
        raise UsageError(f"new-device: the name {kind!r} is taken: {_RESERVED[kind]}; give another")
    offers = Plugins().offers.get(kind)
    if offers:
        raise UsageError(f"new-device: the kind {kind!r} is taken by {offers[0]}; give another name, or uninstall it")
    module = f"pyvmm_{kind.replace('-', '_')}"
    if find_spec(module) is not None:
        raise UsageError(f"new-device: a module {module!r} is installed; give another name than {kind!r}")
    name = "".join(word.capitalize() for word in kind.split("-"))
    if name in ("Virtio", "Bus"):  # the device's class is derived from VirtioDevice or BusDevice
        raise UsageError(f"new-device: {kind!r} names no device; give the name of one, such as {kind}-lamp")
    return {
        "kind": kind,
        "distribution": f"pyvmm-{kind}",
        "module": module,
        "name": name,
        "test_name": kind.replace("-", "_"),
        "core_version": __version__,
    }


def write(directory: Path, form: str, names: Mapping[str, str]) -> list[Path]:
    """Write a package of ``form``, ``virtio`` or ``bus``, to ``directory``. Returns the files.

    Raises :class:`PyvmmError` if files are there already or the package cannot be written; then none of its files is
    left.
    """
    written: list[Path] = []
    was_there = directory.exists()
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(
                f"new-device: {directory} exists and is not an empty directory; give another with --directory"
            )
        for templates in (TEMPLATES / "common", TEMPLATES / form):
            for template in sorted(templates.rglob(f"*{_SUFFIX}")):
                name = str(template.relative_to(templates)).removesuffix(_SUFFIX)
                for word, meant in (("DOT", "."), ("MODULE", names["module"]), ("TEST", names["test_name"])):
                    name = name.replace(word, meant)
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
                written.append(path)
    except OSError as error:
        if written:  # the directory was empty or did not exist
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not was_there and directory.is_dir():
            directory.rmdir()
        raise PyvmmError(f"new-device: {directory} cannot be written: {error.strerror}") from error
    return written
