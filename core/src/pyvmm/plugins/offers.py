"""The offers of installed packages, and the choice of usable ones: not disabled, not built for another version of the
plugin contract, and not claimed by two packages. No plugin's code runs for this."""

from __future__ import annotations

import os

from pyvmm.device_request import DISABLED_PLUGINS
from pyvmm.errors import PluginError
from pyvmm.plugin import API_VERSION
from pyvmm.plugins.entry_points import EntryPoint, entry_points, normalized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Offers:
    """The entry points of one group, by name."""

    def __init__(self, group: str, noun: str, disabled: Iterable[str] = ()) -> None:
        """``noun`` is the word for one of them in messages. ``disabled``: names of entry points or distributions, or
        patterns as in a shell."""
        self._group = group
        self._noun = noun
        self.patterns = tuple(filter(None, disabled))
        self._all: Mapping[str, Sequence[EntryPoint]] | None = None
        self._enabled: Mapping[str, Sequence[EntryPoint]] | None = None

    @property
    def all(self) -> Mapping[str, Sequence[EntryPoint]]:
        """All entry points of the group, by name. Nothing is imported."""
        if self._all is None:
            offers: dict[str, list[EntryPoint]] = {}
            for point in entry_points(self._group):
                offers.setdefault(point.name, []).append(point)
            self._all = offers
        return self._all

    @property
    def enabled(self) -> Mapping[str, Sequence[EntryPoint]]:
        """The entry points of :attr:`all` that are not disabled."""
        if not self.patterns:
            return self.all
        if self._enabled is None:
            left = {
                name: [point for point in points if not self.is_disabled(point)] for name, points in self.all.items()
            }
            self._enabled = {name: points for name, points in left.items() if points}
        return self._enabled

    def is_disabled(self, point: EntryPoint) -> bool:
        """Whether a pattern matches the entry point's name or its distribution's name."""
        return any(_matches(pattern, point) for pattern in self.patterns)

    def unmatched(self, patterns: Sequence[str]) -> list[str]:
        """The patterns among ``patterns`` that match nothing that is installed."""
        if not patterns:
            return []
        points = [point for points in self.all.values() for point in points]
        return [pattern for pattern in patterns if not any(_matches(pattern, point) for point in points)]

    def choose(self, name: str) -> EntryPoint | None:
        """The entry point to use for ``name``; None if no package offers it.

        Raises :class:`PluginError` if all packages that offer it are disabled or built for another version of the
        contract, or if two remain.
        """
        points = self.enabled.get(name, ())
        if not points:
            if disabled := self.all.get(name):
                raise PluginError(
                    f"{self._noun} {name!r} is disabled, by --no-plugin or {DISABLED_PLUGINS}: "
                    f"{_all_of(disabled)} offers it"
                )
            return None
        usable = [point for point in points if point.api_version == API_VERSION]
        if not usable:
            raise PluginError(f"{points[0]}: {refusal(points[0])}")
        if len(usable) > 1:
            raise PluginError(
                f"{self._noun} {name!r} is claimed by {_all_of(usable)}; uninstall all but one, or disable them with "
                f"--no-plugin PACKAGE"
            )
        return usable[0]


def refusal(point: EntryPoint) -> str:
    """The reason why ``point`` cannot be used, by its version of the contract; empty if it can be used."""
    if point.api_version == API_VERSION:
        return ""
    older = f"install a newer {point.distribution}"
    newer = f"install a newer pyvmm-core or an older {point.distribution}"
    return (
        f"it is built for version {point.api_version} of the plugin contract, and this pyvmm has version "
        f"{API_VERSION}; {older if point.api_version < API_VERSION else newer}"
    )


def disabled_by_environment() -> Sequence[str]:
    """The names and patterns in :data:`~pyvmm.device_request.DISABLED_PLUGINS`."""
    return tuple(filter(None, map(str.strip, os.environ.get(DISABLED_PLUGINS, "").split(","))))


def _matches(pattern: str, point: EntryPoint) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(point.name, pattern) or fnmatchcase(normalized(point.distribution), normalized(pattern))


def _all_of(points: Iterable[EntryPoint]) -> str:
    return " and ".join(map(str, points))
