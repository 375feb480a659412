"""The plugins of this process. Each is imported when one of its kinds of device is asked for.

Unused plugins are never imported and cost nothing. If a plugin that was asked for cannot be used, a
:class:`PluginError` names the distribution, its version and the cause.
"""

from __future__ import annotations

from pyvmm.device_process.options import NO_PROCESS, records_of
from pyvmm.device_request import DISABLED_PLUGINS, DeviceRequest, LoadedPlugin
from pyvmm.errors import PluginError, PyvmmError, UsageError, cause_of, nearest
from pyvmm.logs import logger
from pyvmm.options import DeviceSpec, describe, format_options, parse_device, parse_records
from pyvmm.plugins.entry_points import DEVICES, EntryPoint
from pyvmm.plugins.hooks import caller
from pyvmm.plugins.offers import Offers, disabled_by_environment, refusal
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from pyvmm.plugin import DeviceKind

__all__ = ["DeviceRequest", "InstalledKind", "LoadedPlugin", "PluginError", "Plugins"]

log = logger(__name__)


@record
class InstalledKind:
    """A kind of device in the list that ``--device help`` shows."""

    kind: str
    package: str
    version: str

    state: str
    """``ok``; ``disabled``; ``refused``: it is built for another version of the contract; or ``broken``."""

    help: str
    """One line by the plugin's author, or the reason why the kind cannot be used."""


class Plugins:
    """Finds, imports and checks plugins. A process has one such object, which holds all state."""

    def __init__(self, disabled: Iterable[str] = ()) -> None:
        """``disabled``: names of kinds and distributions to ignore, or patterns as in a shell, in addition to those in
        the environment variable ``PYVMM_DISABLE_PLUGINS``."""
        self._kinds: dict[str, DeviceKind[Any]] = {}
        self._plugins: dict[str, LoadedPlugin] = {}
        self._loaded: dict[str, tuple[LoadedPlugin, Mapping[str, DeviceKind[Any]]]] = {}
        """Loaded plugins and their kinds, by the module that an entry point names. A kind is used only if it was asked
        for and chosen."""
        self.disabled = (*disabled, *disabled_by_environment())
        self._offers = Offers(DEVICES, "device kind", self.disabled)

    @property
    def offers(self) -> Mapping[str, Sequence[EntryPoint]]:
        """The offers of each kind, from the entry points of installed distributions, without disabled ones. It imports
        nothing."""
        return self._offers.enabled

    def warn_of_unmatched(self, disabled: Sequence[str]) -> None:
        """Log a warning for each name or pattern in ``disabled`` that matches no kind and no distribution."""
        for pattern in self._offers.unmatched(disabled):
            log.warning("--no-plugin %s: no installed device kind or package has that name", pattern)

    def kind(self, name: str) -> DeviceKind[Any]:
        """The kind of device called ``name``. The plugin that offers it is imported.

        Raises :class:`PluginError` if no distribution or more than one offers it, or if the one that does is disabled,
        built for another version of the contract, or broken.
        """
        kind = self._kinds.get(name)
        if kind is not None:
            return kind
        point = self._offers.choose(name)
        if point is None:
            raise PluginError(self._unknown(name))
        if point.value not in self._loaded:
            self._loaded[point.value] = self._load(point)
        plugin, kinds = self._loaded[point.value]
        if name not in kinds:
            raise PluginError(
                f"{point}: module {point.value!r} offers no device kind {name!r}, although its entry point says so"
            )
        self._kinds[name] = kinds[name]
        self._plugins[name] = plugin
        return kinds[name]

    def plugin(self, kind: str) -> LoadedPlugin:
        """The plugin that offers ``kind``; raises as :meth:`kind` does."""
        self.kind(kind)
        return self._plugins[kind]

    def installed_kinds(self) -> list[InstalledKind]:
        """A row for each kind that an installed distribution offers, by name.

        Imports all plugins, except those that are disabled or built for another version of the contract. A broken
        plugin gets a row that says so.
        """
        rows = []
        for name, points in sorted(self._offers.all.items()):
            for point in points:
                rows.append(InstalledKind(name, point.distribution, point.version, *self._state(name, point)))
        return rows

    def _state(self, name: str, point: EntryPoint) -> tuple[str, str]:
        """The last two fields of an :class:`InstalledKind`."""
        if self._offers.is_disabled(point):
            return "disabled", f"by --no-plugin or {DISABLED_PLUGINS}"
        if reason := refusal(point):
            return "refused", reason
        try:
            return "ok", self.kind(name).help
        except PluginError as error:
            return "broken", str(error).removeprefix(f"{point}: ")

    def request_devices(
        self, devices: Iterable[str | DeviceSpec | DeviceRequest | Any], *, field: str = ""
    ) -> list[DeviceRequest]:
        """A :class:`DeviceRequest` for each of ``devices``, in their order.

        Each one is a text as on the command line, a :class:`DeviceSpec`, a record of options of an installed kind, or a
        request, which is returned unchanged. ``field``: the caller's name for ``devices``, for messages.

        Raises :class:`PluginError` and what :func:`pyvmm.options.parse_options` raises; :class:`UsageError` for
        an id that is taken.
        """
        requests: dict[str, DeviceRequest] = {}
        count: dict[str, int] = {}
        for at, device in enumerate(devices):
            try:
                request = device if isinstance(device, DeviceRequest) else self._request(device, count)
                if (other := requests.get(request.id)) is not None:
                    raise UsageError(
                        f"{request.spec}: the id {request.id!r} is taken by {other.spec}; give another with id=NAME"
                    )
            except PyvmmError as error:
                if field:
                    raise type(error)(f"{field}[{at}]: {error}") from error
                raise
            requests[request.id] = request
        return list(requests.values())

    def _request(self, device: str | DeviceSpec | Any, count: dict[str, int]) -> DeviceRequest:
        """A request for ``device``. ``count``: the number of devices of each kind whose ids are numbered."""
        if isinstance(device, str):
            device = parse_device(device)
        if isinstance(device, DeviceSpec):
            spec, kind = device, self.kind(device.kind)
            options, *life = parse_records(records_of(kind), spec.kind, spec.text)
        else:
            kind, options = self._kind_with(device), device
            spec = DeviceSpec(kind.name, format_options(options))
            life = [record() for record in records_of(kind)[1:]]
        id_ = getattr(options, "id", None)
        if not isinstance(id_, str) or not id_:
            number = count.get(kind.name, 0)
            count[kind.name] = number + 1
            id_ = f"{kind.name}{number}"
        [where] = life or [NO_PROCESS]
        return DeviceRequest(
            kind, options, str(spec), id_, where.own_process(kind), where.restart, self._plugins[kind.name]
        )

    def _kind_with(self, options: object) -> DeviceKind[Any]:
        """The installed kind whose options are of the type of ``options``; both come from the same package."""
        type_ = type(options)
        package = type_.__module__.partition(".")[0]
        names = [
            name
            for name, points in sorted(self.offers.items())
            if any(point.value.partition(":")[0].partition(".")[0] == package for point in points)
        ]
        kinds = [kind for kind in map(self.kind, names) if kind.options is type_]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            several = ", ".join(kind.name for kind in kinds)
            raise UsageError(f"{options!r}: the options of several kinds of device: {several}; give a text, KIND:…")
        raise UsageError(
            f"{options!r}: not the options of an installed kind of device; give a text, such as 'block:disk.img', a "
            "record of options of such a kind, or a DeviceRequest"
        )

    def _load(self, point: EntryPoint) -> tuple[LoadedPlugin, Mapping[str, DeviceKind[Any]]]:
        """Import the plugin behind ``point``, register it and ask it for its kinds."""
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{point}: its module {point.value!r} cannot be imported: {cause_of(error)}") from error
        call = caller(plugin, f"{point}: module {point.value!r}")
        return LoadedPlugin(str(point), plugin, call, self.disabled), self._ask(point, call)

    def _ask(self, point: EntryPoint, call: Callable[..., Sequence[Any]]) -> Mapping[str, DeviceKind[Any]]:
        """The kinds that the plugin's hook returns, checked, by name."""
        from pyvmm.plugin import DeviceKind

        where = f"{point}: pyvmm_device_kinds of {point.value!r}"
        try:
            kinds = [kind for answer in call("pyvmm_device_kinds") for kind in answer]
        except Exception as error:
            raise PluginError(f"{where} fails: {cause_of(error)}") from error
        for kind in kinds:
            if not isinstance(kind, DeviceKind):
                raise PluginError(f"{where} must return DeviceKind objects, not {type(kind).__name__}")
            try:
                taken = {info.name for info in describe(kind.options)}
            except Exception as error:
                raise PluginError(f"{where}: kind {kind.name!r}: {cause_of(error)}") from error
            if both := taken.intersection(info.name for record in records_of(kind)[1:] for info in describe(record)):
                raise PluginError(f"{where}: kind {kind.name!r}: {min(both)!r} is an option of every virtio device")
        return {kind.name: kind for kind in kinds}

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
