"""Which plugins are let in: those of this version of the contract, which nobody has disabled, one for each kind."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from pyvmm.cli.main import main
from pyvmm.errors import PluginError
from pyvmm.options import DeviceSpec
from pyvmm.plugin import API_VERSION
from pyvmm.plugins import InstalledKind, Plugins
from pyvmm.testing.waiting import PATIENCE

from core.tests.distributions import LAMP, SitePackages


def rows(plugins: Plugins, kind: str) -> list[InstalledKind]:
    """What ``--device help`` has on ``kind``."""
    return [row for row in plugins.installed_kinds() if row.kind == kind]


def refused(plugins: Plugins, kind: str) -> str:
    """The one line with which ``kind`` is refused."""
    with pytest.raises(PluginError) as raised:
        plugins.kind(kind)
    assert raised.value.exit_status == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- the version


def test_a_plugin_built_for_a_later_contract_is_refused_before_its_code_runs(site_packages: SitePackages) -> None:
    later = {"pyvmm_lamp": "raise SystemExit(7)"}
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, later, group=f"pyvmm.devices.v{API_VERSION + 1}")
    message = refused(Plugins(), "lamp")
    assert message == (
        "pyvmm-lamp 1.2: it is built for version 2 of the plugin contract, and this pyvmm has version 1; "
        "install a newer pyvmm-core or an older pyvmm-lamp"
    )
    assert "pyvmm_lamp" not in sys.modules
    [row] = rows(Plugins(), "lamp")
    assert (row.state, row.help) == ("refused", message.removeprefix("pyvmm-lamp 1.2: "))
    assert "pyvmm_lamp" not in sys.modules


def test_a_plugin_built_for_an_earlier_contract_is_refused(lamp: SitePackages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.plugins.offers.API_VERSION", API_VERSION + 1)
    assert refused(Plugins(), "lamp").endswith("this pyvmm has version 2; install a newer pyvmm-lamp")


@pytest.mark.parametrize("group", ["pyvmm.devices.v0", "pyvmm.devices.v", "pyvmm.devices.v1x", "pyvmm.devices.x"])
def test_another_group_is_none_of_ours(site_packages: SitePackages, group: str) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": LAMP}, group=group)
    assert "lamp" not in Plugins().offers


def test_a_package_serves_two_versions_of_the_contract(lamp: SitePackages) -> None:
    """One line for each: this pyvmm takes its own."""
    lamp.install("pyvmm-next", {"lamp": "pyvmm_next"}, group="pyvmm.devices.v2")
    assert Plugins().kind("lamp").name == "lamp"
    assert {row.package: row.state for row in rows(Plugins(), "lamp")} == {"pyvmm-lamp": "ok", "pyvmm-next": "refused"}


def test_a_kind_that_is_refused_cannot_come_in_by_another_kind_of_its_module(site_packages: SitePackages) -> None:
    two = LAMP.replace("return [", 'return [DeviceKind("torch", LampOptions, make, help=""), ')
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": two})
    site_packages.install("pyvmm-torch", {"torch": "pyvmm_lamp"}, group="pyvmm.devices.v2")
    plugins = Plugins()
    plugins.kind("lamp")
    assert "built for version 2" in refused(plugins, "torch")


# --- disabled


@pytest.mark.parametrize("name", ["lamp", "l?mp", "pyvmm-lamp", "PyVMM_Lamp", "pyvmm-l*", "*"])
def test_a_disabled_plugin_is_as_if_it_were_not_installed(lamp: SitePackages, name: str) -> None:
    plugins = Plugins([name])
    assert "lamp" not in plugins.offers
    assert refused(plugins, "lamp") == (
        "device kind 'lamp' is disabled, by --no-plugin or PYVMM_DISABLE_PLUGINS: pyvmm-lamp 1.2 offers it"
    )
    [row] = rows(plugins, "lamp")
    assert row.state == "disabled"
    assert "pyvmm_lamp" not in sys.modules


@pytest.mark.parametrize("name", ["", "lam", "pyvmm", "pyvmm_lamp1"])
def test_what_has_another_name_is_not_disabled(lamp: SitePackages, name: str) -> None:
    assert Plugins([name]).kind("lamp").name == "lamp"


def test_the_environment_disables_plugins(lamp: SitePackages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_DISABLE_PLUGINS", " net,, lam* ")
    plugins = Plugins(["rng"])
    assert not {"lamp", "net", "rng"} & plugins.offers.keys()
    assert plugins.disabled == ("rng", "net", "lam*")


def test_disabling_one_of_two_packages_that_claim_a_kind_lets_the_other_in(lamp: SitePackages) -> None:
    lamp.install("other-lamp", {"lamp": "other_lamp"}, {"other_lamp": LAMP}, version="3")
    message = refused(Plugins(), "lamp")
    assert "pyvmm-lamp 1.2" in message and "other-lamp 3" in message
    assert "--no-plugin" in message
    plugins = Plugins(["pyvmm-lamp"])
    assert plugins.kind("lamp").make.__module__ == "other_lamp"
    assert plugins.plugin("lamp").package == "other-lamp 3"


def test_a_kind_that_is_claimed_twice_cannot_come_in_by_another_kind_of_its_module(site_packages: SitePackages) -> None:
    two = LAMP.replace("return [", 'return [DeviceKind("torch", LampOptions, make, help=""), ')
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp", "torch": "pyvmm_lamp"}, {"pyvmm_lamp": two})
    site_packages.install("pyvmm-torch", {"torch": "pyvmm_torch"}, {"pyvmm_torch": LAMP})
    plugins = Plugins()
    plugins.kind("lamp")
    assert "is claimed by" in refused(plugins, "torch")


def test_a_request_knows_its_package_and_what_it_was_chosen_without(lamp: SitePackages) -> None:
    [request] = Plugins(["other*"]).request_devices([DeviceSpec("lamp", "x")])
    assert request.package == "pyvmm-lamp 1.2"
    assert request.plugin is not None
    assert request.plugin.disabled == ("other*",)


def test_the_command_leaves_plugins_out(lamp: SitePackages, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-plugin", "pyvmm-lamp", "--device", "lamp:x"]) == 2
    assert capsys.readouterr().err == (
        "pyvmm: device kind 'lamp' is disabled, by --no-plugin or PYVMM_DISABLE_PLUGINS: pyvmm-lamp 1.2 offers it\n"
    )


def test_a_name_that_nothing_has_is_warned_of(lamp: SitePackages, caplog: pytest.LogCaptureFixture) -> None:
    Plugins(["lamb"]).warn_of_unmatched(["lamb", "lamp*"])
    assert caplog.record_tuples == [
        (
            "pyvmm.plugins.registry",
            logging.WARNING,
            "--no-plugin lamb: no installed device kind or package has that name",
        )
    ]


COUNT = """
import sys

opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)

from pyvmm.options import DeviceSpec
from pyvmm.plugins import Plugins

requests = Plugins().request_devices([DeviceSpec("lamp7", "x"), DeviceSpec("lamp40", "x")])
print(*[request.package for request in requests], sep=", ")
print(sum(name.startswith("lamp_") for name in sys.modules))
print(sum("lamp_" in name and name.endswith("METADATA") for name in opened))
print(sum("lamp_" in name and not name.endswith(("METADATA", "entry_points.txt")) for name in opened))
"""


def test_a_start_reads_no_more_of_50_plugins_than_their_entry_points(site_packages: SitePackages) -> None:
    for number in range(50):
        name = f"lamp{number}"
        source = LAMP.replace('"lamp"', f'"{name}"')
        site_packages.install(f"lamp-{number}", {name: f"lamp_{number}"}, {f"lamp_{number}": source})
    environment = {**os.environ, "PYTHONPATH": str(site_packages.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    packages, imported, metadata, others = done.stdout.splitlines()
    assert packages == "lamp-7 1.2, lamp-40 1.2"
    assert (imported, metadata) == ("2", "2")
    assert int(others) <= 4, "each of the two modules, and perhaps its bytecode"


@pytest.mark.parametrize("words", ["help", "lamp,help"])
def test_help_that_nobody_reads_to_its_end_is_no_error(lamp: SitePackages, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = "import sys; from pyvmm.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--device", words],
        env={**os.environ, "PYTHONPATH": str(lamp.path)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_default_device_that_is_disabled_is_not_missed(lamp: SitePackages) -> None:
    program = (
        "from pyvmm.cli.run import _requests; from pyvmm.plugins import Plugins;"
        "print(_requests(Plugins(), [], ['lamp']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(lamp.path), "PYVMM_DISABLE_PLUGINS": "lamp"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
