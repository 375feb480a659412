from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import importlib_metadata
import pytest
from pyvmm.errors import UsageError
from pyvmm.options import DeviceSpec
from pyvmm.plugins import PluginError, Plugins, entry_points

from core.tests.distributions import LAMP, SitePackages


def fails(kind: str) -> str:
    """The one line with which asking for ``kind`` fails."""
    with pytest.raises(PluginError) as raised:
        Plugins().kind(kind)
    assert raised.value.exit_status == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_kind_that_was_asked_for_is_imported(lamp: SitePackages) -> None:
    kind = Plugins().kind("lamp")
    assert (kind.name, kind.help) == ("lamp", "gives light")
    assert kind.make is sys.modules["pyvmm_lamp"].make


def test_a_kind_that_was_not_asked_for_is_not_imported(lamp: SitePackages) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise SystemExit(7)"})
    plugins = Plugins()
    assert {"lamp", "bomb"} <= plugins.offers.keys()
    assert not {"pyvmm_lamp", "pyvmm_bomb"} & sys.modules.keys()
    plugins.kind("lamp")
    assert "pyvmm_bomb" not in sys.modules


def test_a_package_offers_several_kinds(site_packages: SitePackages) -> None:
    two = LAMP.replace("return [", 'return [DeviceKind("torch", LampOptions, make, help="a small one"), ')
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp", "torch": "pyvmm_lamp"}, {"pyvmm_lamp": two})
    plugins = Plugins()
    assert plugins.kind("torch").name == "torch"
    assert plugins.kind("lamp").name == "lamp"


def test_an_entry_point_names_an_object_in_a_module(site_packages: SitePackages) -> None:
    source = LAMP + "\n    import sys\n    plugin = sys.modules[__name__]\n"
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp:plugin [extra]"}, {"pyvmm_lamp": source})
    assert Plugins().kind("lamp").name == "lamp"


def test_an_unknown_kind_names_the_nearest(lamp: SitePackages) -> None:
    assert fails("lamb") == (
        "no installed package offers device kind 'lamb' (did you mean 'lamp'?); --device help lists what is installed"
    )


def test_an_unknown_kind_says_what_its_package_may_be_called(lamp: SitePackages) -> None:
    message = fails("qqq")
    assert message.startswith("no installed package offers device kind 'qqq'; installed are ")
    assert "lamp" in message
    assert message.endswith("; device packages are named like pyvmm-qqq or pyvmm-virtio-qqq")


def test_an_unknown_kind_that_is_no_name_gets_no_advice_on_packages(lamp: SitePackages) -> None:
    assert "packages are named" not in fails("/no/kind.img")


def test_an_unknown_kind_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.plugins.offers.entry_points", lambda group: [])
    with pytest.raises(PluginError, match="device kind 'net'; no device package is installed; "):
        Plugins().kind("net")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one two"),
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("def (", "SyntaxError: invalid syntax (pyvmm_lamp.py, line 1)"),
    ],
)
def test_a_plugin_that_breaks_at_import_is_named_with_version_and_cause(
    site_packages: SitePackages, source: str, cause: str
) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    assert fails("lamp") == f"pyvmm-lamp 1.2: its module 'pyvmm_lamp' cannot be imported: {cause}"


def test_a_plugin_whose_module_is_gone_is_named(site_packages: SitePackages) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"})
    assert "cannot be imported: ModuleNotFoundError: No module named 'pyvmm_lamp'" in fails("lamp")


@pytest.mark.parametrize("value", ["", ":", "a b", "pyvmm_lamp:nothing"])
def test_an_entry_point_that_names_nothing_is_named(site_packages: SitePackages, value: str) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": value}, {"pyvmm_lamp": LAMP})
    assert fails("lamp").startswith(f"pyvmm-lamp 1.2: its module {value!r} cannot be imported: ")


def test_a_module_without_hooks_is_named(site_packages: SitePackages) -> None:
    source = LAMP.replace("@hookimpl\n", "\n")
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    assert fails("lamp") == (
        "pyvmm-lamp 1.2: module 'pyvmm_lamp' has no hook: it needs a pyvmm_device_kinds marked with @hookimpl"
    )


def test_a_hook_with_an_argument_that_does_not_exist_is_named(site_packages: SitePackages) -> None:
    source = LAMP.replace("pyvmm_device_kinds()", "pyvmm_device_kinds(machine)")
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    message = fails("lamp")
    assert message.startswith("pyvmm-lamp 1.2: module 'pyvmm_lamp' breaks the contract: PluginValidationError")
    assert "pyvmm_device_kinds" in message and "machine" in message


def test_a_hook_that_does_not_exist_is_named(site_packages: SitePackages) -> None:
    source = LAMP.replace("pyvmm_device_kinds()", "pyvmm_devices()")
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    message = fails("lamp")
    assert message.startswith("pyvmm-lamp 1.2: module 'pyvmm_lamp' breaks the contract: ")
    assert "unknown hook 'pyvmm_devices'" in message


def test_a_plugin_that_breaks_the_contract_does_not_spoil_the_others(lamp: SitePackages) -> None:
    source = LAMP.replace("pyvmm_device_kinds()", "pyvmm_devices()")
    lamp.install("pyvmm-dark", {"dark": "pyvmm_dark"}, {"pyvmm_dark": source})
    plugins = Plugins()
    with pytest.raises(PluginError):
        plugins.kind("dark")
    assert plugins.kind("lamp").name == "lamp"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("[1]", "must return DeviceKind objects, not int"),
        ("3", "fails: TypeError: 'int' object is not iterable"),
        (
            "[DeviceKind('lamp', dict, make, help='')]",
            "kind 'lamp': TypeError: dict is not a record of options: decorate it with @options of pyvmm.plugin",
        ),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_hook_whose_answer_is_wrong_is_named(site_packages: SitePackages, answer: str, cause: str) -> None:
    source = re.sub("return \\[.*", f"return {answer}", LAMP)
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    assert fails("lamp") == f"pyvmm-lamp 1.2: pyvmm_device_kinds of 'pyvmm_lamp' {cause}".replace("' kind", "': kind")


@pytest.mark.parametrize("has_options", [True, False])
def test_a_dataclass_in_place_of_a_record_of_options_is_one_line_with_the_way_out(
    site_packages: SitePackages, has_options: bool
) -> None:
    source = LAMP.replace("@options", "@__import__('dataclasses').dataclass(frozen=True)")
    if not has_options:
        source = re.sub(r"    (\w+: .*) = option\(.*", r"    \1", source)
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    message = fails("lamp")
    assert "\n" not in message
    assert "LampOptions" in message and "decorate it with @options of pyvmm.plugin" in message


def test_an_entry_point_whose_module_offers_no_such_kind_is_named(site_packages: SitePackages) -> None:
    site_packages.install("pyvmm-lamp", {"candle": "pyvmm_lamp"}, {"pyvmm_lamp": LAMP})
    message = "pyvmm-lamp 1.2: module 'pyvmm_lamp' offers no device kind 'candle', although its entry point says so"
    assert fails("candle") == message


def test_a_module_cannot_offer_a_kind_that_another_packages_entry_point_names(lamp: SitePackages) -> None:
    liar = LAMP.replace("return [", 'return [DeviceKind("liar", LampOptions, make, help=""), ')
    lamp.install("pyvmm-liar", {"liar": "pyvmm_liar"}, {"pyvmm_liar": liar})
    plugins = Plugins()
    plugins.kind("liar")
    assert plugins.kind("lamp").make is sys.modules["pyvmm_lamp"].make


def test_a_kind_that_two_packages_claim_names_both(lamp: SitePackages) -> None:
    lamp.install("other-lamp", {"lamp": "other_lamp"}, {"other_lamp": LAMP}, version="3")
    message = fails("lamp")
    assert message.startswith("device kind 'lamp' is claimed by ")
    assert "pyvmm-lamp 1.2" in message and "other-lamp 3" in message
    assert message.endswith("; uninstall all but one, or disable them with --no-plugin PACKAGE")
    assert "pyvmm_lamp" not in sys.modules


def test_the_list_of_kinds_has_a_row_for_each_and_a_reason_for_the_broken(lamp: SitePackages) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise RuntimeError('boom')"})
    rows = {row.kind: row for row in Plugins().installed_kinds()}
    good, bad = rows["lamp"], rows["bomb"]
    assert (good.package, good.version, good.state, good.help) == ("pyvmm-lamp", "1.2", "ok", "gives light")
    assert (bad.package, bad.version, bad.state) == ("pyvmm-bomb", "1.2", "broken")
    assert bad.help == "its module 'pyvmm_bomb' cannot be imported: RuntimeError: boom"


def test_requests_have_options_spec_and_a_numbered_id(lamp: SitePackages) -> None:
    specs = [DeviceSpec("lamp", "a"), DeviceSpec("lamp", "b,id=desk"), DeviceSpec("lamp", "c")]
    requests = Plugins().request_devices(specs)
    assert [request.id for request in requests] == ["lamp0", "desk", "lamp1"]
    assert [request.spec for request in requests] == ["lamp:a", "lamp:b,id=desk", "lamp:c"]
    assert requests[0].options.path == Path("a")
    assert requests[0].kind.name == "lamp"


def test_an_id_that_is_taken_names_the_device_that_has_it(lamp: SitePackages) -> None:
    specs = [DeviceSpec("lamp", "a"), DeviceSpec("lamp", "b,id=lamp0")]
    with pytest.raises(UsageError, match=r"^lamp:b,id=lamp0: the id 'lamp0' is taken by lamp:a; give another with id="):
        Plugins().request_devices(specs)


@pytest.mark.parametrize("suffix", ["dist-info", "egg-info"])
def test_distributions_are_found_as_importlib_metadata_finds_them(site_packages: SitePackages, suffix: str) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp", "torch": "x.y:z"}, suffix=suffix)
    site_packages.install("Other.Name", {"other": "other"}, suffix=suffix)
    expected = {
        (point.name, point.value, point.dist.metadata["Name"], point.dist.version)
        for point in importlib_metadata.entry_points(group="pyvmm.devices")
    }
    found = {(p.name, p.value, p.distribution, p.version) for p in entry_points.entry_points("pyvmm.devices")}
    assert found == expected
    assert ("lamp", "pyvmm_lamp", "pyvmm-lamp", "1.2") in found


@pytest.mark.parametrize("suffix", ["dist-info", "egg-info"])
def test_a_distribution_further_down_the_path_is_hidden_by_its_name(
    lamp: SitePackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Also one that a build has left beside its sources, as egg-info, of a package that is installed from there."""
    later = SitePackages(tmp_path / "later")
    later.path.mkdir()
    later.install("PyVMM.Lamp", {"lamp": "old_lamp"}, version="0.1", suffix=suffix)
    monkeypatch.setattr(sys, "path", [*sys.path, str(later.path), str(tmp_path / "missing"), str(lamp.path)])
    assert [str(point) for point in Plugins().offers["lamp"]] == ["pyvmm-lamp 1.2"]


def test_metadata_that_cannot_be_read_is_passed_over(lamp: SitePackages) -> None:
    (lamp.path / "empty-1.dist-info").mkdir()
    (lamp.path / "file-1.dist-info").write_text("")
    (lamp.path / "binary-1.dist-info").mkdir()
    (lamp.path / "binary-1.dist-info" / "entry_points.txt").write_bytes(b"\xff[pyvmm.devices]\nx = y\n")
    (lamp.path / "bare-1.dist-info").mkdir()
    (lamp.path / "bare-1.dist-info" / "entry_points.txt").write_text("[pyvmm.devices]\n# no\nbare = bare\n")
    offers = Plugins().offers
    assert "lamp" in offers and "x" not in offers
    assert str(offers["bare"][0]) == "bare 1"


def test_a_distribution_in_a_zip_file_is_found(
    site_packages: SitePackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("pyvmm_zipped-2.dist-info/METADATA", "Metadata-Version: 2.1\nName: pyvmm-zipped\nVersion: 2\n")
        file.writestr("pyvmm_zipped-2.dist-info/entry_points.txt", "[pyvmm.devices]\nzipped = pyvmm_zipped\n")
    monkeypatch.syspath_prepend(archive)
    assert [str(point) for point in Plugins().offers["zipped"]] == ["pyvmm-zipped 2"]


def test_a_kind_whose_state_is_lost_with_its_process_refuses_restart(site_packages: SitePackages) -> None:
    mortal = LAMP.replace('help="gives light"', 'help="gives light", restartable=False')
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": mortal})
    with pytest.raises(UsageError) as raised:
        Plugins().request_devices([DeviceSpec("lamp", "x,restart=on")])
    assert raised.value.exit_status == 2
    assert str(raised.value) == (
        "lamp: restart=on is not for this kind: its devices' state would be lost with their process; "
        "see --device lamp,help"
    )
    [request] = Plugins().request_devices([DeviceSpec("lamp", "x,restart=off")])
    assert (request.process, request.restart) == (True, False)


def test_a_kind_that_does_not_say_so_is_restartable(lamp: SitePackages) -> None:
    [request] = Plugins().request_devices([DeviceSpec("lamp", "x,restart=on")])
    assert request.restart


def run_without_pluggy(lamp: SitePackages, program: str) -> None:
    """Run ``program`` in an interpreter that cannot import pluggy."""
    program = "import sys; sys.modules['pluggy'] = None\n" + program
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(lamp.path), *sys.path])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_plugin_that_has_its_kinds_only_needs_no_pluggy(lamp: SitePackages) -> None:
    run_without_pluggy(
        lamp,
        "from pyvmm.plugins import Plugins\n"
        "plugin = Plugins().plugin('lamp')\n"
        "assert [kind.name for kind in plugin.call('pyvmm_device_kinds')[0]] == ['lamp']\n"
        "assert not plugin.call('pyvmm_machine_started', machine=None)\n",
    )


def test_a_plugin_with_another_hook_is_pluggys(lamp: SitePackages) -> None:
    more = LAMP.replace("lamp", "torch") + (
        "\n    started = []\n\n    @hookimpl\n    def pyvmm_machine_started(machine):\n"
        "        started.append(machine)\n"
    )
    lamp.install("pyvmm-torch", {"torch": "pyvmm_torch"}, {"pyvmm_torch": more})
    plugins = Plugins()
    assert (plugins.kind("lamp").name, plugins.kind("torch").name) == ("lamp", "torch")
    for name in ("lamp", "torch"):
        plugins.plugin(name).call("pyvmm_machine_started", machine=name)
    assert sys.modules["pyvmm_torch"].started == ["torch"]
    with pytest.raises(TypeError):  # pluggy takes arguments by name only, and so knows which are missing
        plugins.plugin("torch").call("pyvmm_machine_started", "torch")


@pytest.mark.parametrize(
    "marker", ['__import__("pluggy").HookimplMarker("pyvmm")', "hookimpl(tryfirst=True)", "hookimpl()"]
)
def test_pluggys_own_marker_and_its_options_do_as_well(site_packages: SitePackages, marker: str) -> None:
    source = LAMP.replace("@hookimpl", f"@{marker}")
    assert source != LAMP
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    assert Plugins().kind("lamp").name == "lamp"


def test_a_hook_that_answers_nothing_offers_nothing(site_packages: SitePackages) -> None:
    source = LAMP.replace("return [", "return None and [")
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": source})
    assert fails("lamp") == (
        "pyvmm-lamp 1.2: module 'pyvmm_lamp' offers no device kind 'lamp', although its entry point says so"
    )


def test_a_module_that_two_entry_points_name_differently_is_one_plugin(site_packages: SitePackages) -> None:
    source = LAMP.replace("return [", 'return [DeviceKind("torch", LampOptions, make, help="a small one"), ')
    source += "\n    import sys\n    plugin = sys.modules[__name__]\n"
    points = {"lamp": "pyvmm_lamp", "torch": "pyvmm_lamp:plugin"}
    site_packages.install("pyvmm-lamp", points, {"pyvmm_lamp": source})
    plugins = Plugins()
    assert (plugins.kind("lamp").name, plugins.kind("torch").name) == ("lamp", "torch")
    assert plugins.plugin("lamp").module is plugins.plugin("torch").module is sys.modules["pyvmm_lamp"]
