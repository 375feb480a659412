"""Which installed distribution offers which kind of device: the entry points, read without importing a plugin.

importlib_metadata knows, and takes as long to import as the rest of a start together. So the usual case, folders
of ``*.dist-info`` and ``*.egg-info`` on ``sys.path``, is read here by the same rules, and importlib_metadata is asked
only where that may not be the whole truth: a zip file on the path, or an importer that finds distributions by
its own means.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any, Final

GROUP: Final = "pyvmm.devices"


class EntryPoint:
    """One line of a distribution's ``[pyvmm.devices]``: ``kind = module``."""

    def __init__(self, kind: str, value: str, metadata: Callable[[], tuple[str, str]]) -> None:
        """``value`` is ``module``, as a rule, or ``module:attribute``; ``metadata`` reads name and version."""
        self.kind = kind
        self.value = value
        self._read_metadata = metadata

    @cached_property
    def _metadata(self) -> tuple[str, str]:
        return self._read_metadata()

    @property
    def distribution(self) -> str:
        """The name of the distribution, as on PyPI. A start does not need it, so it is read when it is asked for."""
        return self._metadata[0]

    @property
    def version(self) -> str:
        """The version of the distribution."""
        return self._metadata[1]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def entry_points() -> Iterable[EntryPoint]:
    """All entry points of the group ``pyvmm.devices``, in the order of ``sys.path``."""
    if any(map(_finds_distributions, sys.meta_path)) or any(map(_is_no_folder_of_metadata, sys.path)):
        return _ask_importlib_metadata()
    return _scan(sys.path)


def _finds_distributions(finder: object) -> bool:
    """Whether ``finder`` may know of distributions that are no folders on ``sys.path``."""
    if getattr(finder, "__module__", "").startswith(("_frozen_importlib", "importlib_metadata")):
        return False  # those two look where we look
    return hasattr(finder, "find_distributions")


def _is_no_folder_of_metadata(path: str) -> bool:
    """Whether ``path`` on ``sys.path`` has metadata elsewhere than in a folder beside the modules."""
    return path.endswith(".egg") or os.path.isfile(path)


def _ask_importlib_metadata() -> Iterator[EntryPoint]:
    import importlib_metadata

    for found in importlib_metadata.entry_points(group=GROUP):
        yield EntryPoint(found.name, found.value, partial(_metadata_of, found.dist))


def _metadata_of(distribution: Any) -> tuple[str, str]:
    return distribution.metadata["Name"] or "", distribution.version or ""


def _scan(paths: Iterable[str]) -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for path in dict.fromkeys(paths):
        try:
            names = os.listdir(path or ".")
        except OSError:
            continue  # sys.path may name what is not there
        for name in names:
            if not name.lower().endswith((".dist-info", ".egg-info")):
                continue
            distribution = re.sub("[-_.]+", "-", os.path.splitext(name)[0].partition("-")[0]).lower()
            if distribution in seen:
                continue  # the first on the path hides the later ones, as for modules
            seen.add(distribution)
            yield from _read(os.path.join(path, name))


def _read(folder: str) -> Iterator[EntryPoint]:
    """The entry points in one distribution's folder of metadata."""
    try:
        with open(f"{folder}/entry_points.txt", "rb", buffering=0) as file:
            data = file.read()
        if GROUP.encode() not in data:
            return
        text = data.decode()
    except (OSError, UnicodeDecodeError):
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif group == GROUP and line and not line.startswith("#"):
            kind, _, value = line.partition("=")
            yield EntryPoint(kind.strip(), value.strip(), partial(_name_and_version, folder))


def _name_and_version(folder: str) -> tuple[str, str]:
    """From the head of METADATA or PKG-INFO, which is a mail's; from the folder's name where there is none."""
    name, _, version = os.path.splitext(os.path.basename(folder))[0].partition("-")
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(folder, file_name), encoding="utf-8", errors="replace") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if not line.strip():
                        break
                    if key == "Name":
                        name = value.strip()
                    elif key == "Version":
                        version = value.strip()
            break
        except OSError:
            continue
    return name, version
