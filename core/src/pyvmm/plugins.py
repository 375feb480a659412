"""The plugins of this process: imported one by one, as their kinds of device are asked for.

What was not asked for is not imported and cannot be felt. What was asked for and cannot be had is one
:class:`PluginError` that names the distribution, its version and the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.entry_points import EntryPoint, entry_points
from pyvmm.errors import UsageError
from pyvmm.options import DeviceSpec, describe, nearest, parse_records
from pyvmm.process_options import NO_PROCESS, records_of

if TYPE_CHECKING:
    import pluggy

    from pyvmm.plugin import DeviceKind


class PluginError(UsageError):
    """A kind of device was asked for that no plugin offers, or whose plugin does not work."""


@dataclass(frozen=True)
class DeviceRequest:
    """One device that a machine is to have."""

    kind: DeviceKind[Any]
    options: Any
    """A record of the type ``kind.options``."""

    spec: str
    """What the user typed, for messages: ``net:tap0,mtu=9000``."""

    id: str
    """Unique in the machine: the device's own option ``id`` where it has one, or kind and number: ``net0``."""

    process: bool = False
    """Whether the device gets a process of its own."""

    restart: bool = False
    """Whether a process that dies is replaced."""


class InstalledKind(NamedTuple):
    """A kind of device in the list that ``--device help`` shows."""

    kind: str
    package: str
    version: str

    state: str
    """``ok``, or why it cannot be used."""

    help: str
    """One line by the plugin's author; empty where the plugin does not work."""


class Plugins:
    """Finds, imports and checks plugins. One object for a process; all state is in it."""

    def __init__(self) -> None:
        self._kinds: dict[str, DeviceKind[Any]] = {}

    @cached_property
    def manager(self) -> pluggy.PluginManager:
        """pluggy's manager: it holds the plugins that were asked for and no others."""
        import pluggy

        from pyvmm import hookspecs

        manager = pluggy.PluginManager("pyvmm")
        manager.add_hookspecs(hookspecs)
        return manager

    @cached_property
    def offers(self) -> Mapping[str, Sequence[EntryPoint]]:
        """Who offers which kind, by the installed distributions' entry points; nothing is imported for it."""
        offers: dict[str, list[EntryPoint]] = {}
        for point in entry_points():
            offers.setdefault(point.kind, []).append(point)
        return offers

    def kind(self, name: str) -> DeviceKind[Any]:
        """The kind of device called ``name``, importing the plugin that offers it.

        Raises :class:`PluginError` where no distribution offers it, two do, or the one that does is broken.
        """
        kind = self._kinds.get(name)
        if kind is not None:
            return kind
        offers = self.offers.get(name)
        if not offers:
            raise PluginError(self._unknown(name))
        if len(offers) > 1:
            packages = " and ".join(map(str, offers))
            raise PluginError(f"device kind {name!r} is claimed by {packages}; uninstall all but one")
        [point] = offers
        self._load(point)
        kind = self._kinds.get(name)
        if kind is None:
            raise PluginError(
                f"{point}: module {point.value!r} offers no device kind {name!r}, as its entry point says"
            )
        return kind

    def installed_kinds(self) -> list[InstalledKind]:
        """A row for each kind that an installed distribution offers, by name.

        Imports all plugins: a broken one is a row that says so.
        """
        rows = []
        for name in sorted(self.offers):
            for point in self.offers[name]:
                state, text = "ok", ""
                try:
                    text = self.kind(name).help
                except PluginError as error:
                    state = str(error).removeprefix(f"{point}: ")
                rows.append(InstalledKind(name, point.distribution, point.version, state, text))
        return rows

    def request_devices(self, specs: Iterable[DeviceSpec]) -> list[DeviceRequest]:
        """A :class:`DeviceRequest` for each of ``specs``, in their order.

        Raises :class:`PluginError` and what :func:`pyvmm.options.parse_options` raises; :class:`UsageError` for
        an id that is taken.
        """
        requests: dict[str, DeviceRequest] = {}
        count: dict[str, int] = {}
        for spec in specs:
            kind = self.kind(spec.kind)
            options, *life = parse_records(records_of(kind), spec.kind, spec.text)
            id_ = getattr(options, "id", None)
            if not isinstance(id_, str) or not id_:
                number = count.get(spec.kind, 0)
                count[spec.kind] = number + 1
                id_ = f"{spec.kind}{number}"
            if id_ in requests:
                raise UsageError(f"{spec}: the id {id_!r} is taken by {requests[id_].spec}; give another with id=NAME")
            [where] = life or [NO_PROCESS]
            requests[id_] = DeviceRequest(kind, options, str(spec), id_, where.process, where.restart)
        return list(requests.values())

    def _load(self, point: EntryPoint) -> None:
        """Import the plugin behind ``point``, register it and take its kinds."""
        try:
            plugin = _import(point.value)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{point}: its module {point.value!r} cannot be imported: {_cause(error)}") from error
        if not self.manager.is_registered(plugin):
            self._register(point, plugin)
        for kind in self._ask(point, plugin):
            if any(other.value == point.value for other in self.offers.get(kind.name, ())):
                self._kinds[kind.name] = kind

    def _register(self, point: EntryPoint, plugin: Any) -> None:
        import pluggy

        try:
            self.manager.register(plugin, name=f"{point} ({point.value})")
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self.manager.is_registered(plugin):  # an unknown hook is found only after registration
                self.manager.unregister(plugin)
            raise PluginError(f"{point}: its module {point.value!r} breaks the contract: {_cause(error)}") from error
        if not self.manager.get_hookcallers(plugin):
            self.manager.unregister(plugin)
            raise PluginError(
                f"{point}: module {point.value!r} has no hook: it needs a pyvmm_device_kinds marked with @hookimpl"
            )

    def _ask(self, point: EntryPoint, plugin: Any) -> Sequence[DeviceKind[Any]]:
        """What the plugin's hook answers, checked."""
        from pyvmm.plugin import DeviceKind

        others = [other for other in self.manager.get_plugins() if other is not plugin]
        hook = self.manager.subset_hook_caller("pyvmm_device_kinds", others)
        where = f"{point}: pyvmm_device_kinds of {point.value!r}"
        try:
            kinds = [kind for answer in hook() for kind in answer]
        except Exception as error:
            raise PluginError(f"{where} fails: {_cause(error)}") from error
        for kind in kinds:
            if not isinstance(kind, DeviceKind):
                raise PluginError(f"{where} must return DeviceKind objects, not {type(kind).__name__}")
            try:
                taken = {info.name for info in describe(kind.options)}
            except Exception as error:
                raise PluginError(f"{where}: kind {kind.name!r}: {_cause(error)}") from error
            if both := taken.intersection(info.name for record in records_of(kind)[1:] for info in describe(record)):
                raise PluginError(f"{where}: kind {kind.name!r}: {min(both)!r} is an option of every virtio device")
        return kinds

    def _unknown(self, name: str) -> str:
        message = f"no installed package offers device kind {name!r}"
        hint = nearest(name, self.offers)
        if hint:
            return f"{message}{hint}; --device help lists what is installed"
        installed = (
            f"installed are {', '.join(sorted(self.offers))}" if self.offers else "no device package is installed"
        )
        if not name.isascii() or not name.replace("-", "").isalnum() or not name.islower():
            return f"{message}; {installed}"
        return f"{message}; {installed}; device packages are named like pyvmm-{name} or pyvmm-virtio-{name}"


def _import(value: str) -> Any:
    """What an entry point's ``module`` or ``module:attribute`` names."""
    import importlib

    module, _, attributes = value.partition("[")[0].partition(":")
    plugin: Any = importlib.import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        plugin = getattr(plugin, attribute)
    return plugin


def _cause(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
