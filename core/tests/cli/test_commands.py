"""Commands that packages add: ``pyvmm NAME …``."""

from __future__ import annotations

import sys

import pytest
from pyvmm.cli.main import main

from core.tests.distributions import SitePackages

COMMAND = """
    import click
    from pyvmm.errors import HostError


    @click.command()
    @click.option("--watts", default=40)
    def command(watts):
        if watts > 100:
            raise HostError("lamp: too bright for this host")
        print(f"{watts} W")
        return 5


    other = 3
"""
GROUP = "pyvmm.commands"


@pytest.fixture
def commands(site_packages: SitePackages) -> SitePackages:
    """A folder where a distribution with the command ``lamp`` is installed."""
    site_packages.install("pyvmm-lamp", {"lamp": "lamp_tool:command"}, {"lamp_tool": COMMAND}, group=GROUP)
    return site_packages


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command ends with, and status 2."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyvmm: ")
    return line.removeprefix("pyvmm: ")


def test_a_package_s_command_runs_with_its_own_options(
    commands: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lamp", "--watts", "60"]) == 5
    assert capsys.readouterr().out == "60 W\n"


def test_its_errors_are_as_those_of_pyvmm(commands: SitePackages, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lamp", "--watts", "101"]) == 1
    assert capsys.readouterr().err == "pyvmm: lamp: too bright for this host\n"
    assert error_of(capsys, "lamp", "--what").endswith("; pyvmm lamp --help lists the options")


def test_help_lists_it_without_importing_it(commands: SitePackages, capsys: pytest.CaptureFixture[str]) -> None:
    commands.install("pyvmm-bomb", {"bomb": "bomb:c"}, {"bomb": "raise SystemExit(7)"}, group=GROUP)
    commands.install("pyvmm-later", {"later": "later:c"}, group="pyvmm.commands.v2")
    assert main(["--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"lamp from pyvmm-lamp 1.2", "bomb from pyvmm-bomb 1.2"} <= set(lines)
    assert any(line.startswith("serve ") for line in lines)
    assert not any(line.startswith("later ") for line in lines)
    assert not {"lamp_tool", "bomb"} & sys.modules.keys()


def test_a_start_does_not_look_for_commands(
    commands: SitePackages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyvmm.cli.subcommands", None)
    assert main(["--device", "help"]) == 0


def test_an_unknown_command_names_the_nearest(commands: SitePackages, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "lamb")
    assert line == "there is no command 'lamb' (did you mean 'lamp'?); pyvmm --help lists them"


def test_a_command_of_another_contract_is_refused_before_its_code_runs(
    site_packages: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {"lamp_tool": "raise SystemExit(7)"}
    site_packages.install("pyvmm-lamp", {"lamp": "lamp_tool:command"}, modules, group="pyvmm.commands.v2")
    assert error_of(capsys, "lamp").startswith("pyvmm-lamp 1.2: it is built for version 2 of the plugin contract")


def test_a_disabled_command_says_so(
    commands: SitePackages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYVMM_DISABLE_PLUGINS", "pyvmm-lamp")
    assert error_of(capsys, "lamp").startswith("command 'lamp' is disabled")


def test_two_packages_that_claim_a_command_are_named(
    commands: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.install("other-lamp", {"lamp": "other:command"}, version="3", group=GROUP)
    line = error_of(capsys, "lamp")
    assert "claimed by" in line and "pyvmm-lamp 1.2" in line and "other-lamp 3" in line


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("no_such_module:command", "its command 'no_such_module:command' cannot be imported: ModuleNotFoundError"),
        ("lamp_tool:none", "its command 'lamp_tool:none' cannot be imported: AttributeError"),
        ("lamp_tool:other", "'lamp_tool:other' is no click command, although its entry point is in pyvmm.commands"),
    ],
)
def test_a_broken_command_names_its_package(
    site_packages: SitePackages, capsys: pytest.CaptureFixture[str], value: str, cause: str
) -> None:
    site_packages.install("pyvmm-lamp", {"lamp": value}, {"lamp_tool": COMMAND}, group=GROUP)
    assert error_of(capsys, "lamp").startswith(f"pyvmm-lamp 1.2: {cause}")


def test_a_package_cannot_take_the_name_of_pyvmm_s_own(
    site_packages: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    site_packages.install("pyvmm-bomb", {"serve": "bomb:c"}, {"bomb": "raise SystemExit(7)"}, group=GROUP)
    assert main(["serve", "--help"]) == 0
    assert "Serve a virtio device over vhost-user" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--socket", "/nowhere/s"]])
def test_serve_tells_of_kinds_and_options_as_device_does(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    for spec in ("help", "rng,help", "block,help"):
        assert main(["--device", spec]) == 0
        wanted = capsys.readouterr().out
        assert main(["serve", spec, *more]) == 0
        assert capsys.readouterr() == (wanted, "")


@pytest.mark.parametrize("verbose", ["-v", "-vv", "--verbose"])
def test_verbose_may_come_before_a_command(capsys: pytest.CaptureFixture[str], verbose: str) -> None:
    line = error_of(capsys, verbose, "serve", "rng")
    assert line == "give one of --socket PATH and --fd N; pyvmm serve --help lists the options"


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--no-plugin", "net", "serve", "rng", "--socket", "s"], "No such option"),
        (["--no-plugin", "net", "serve", "rng"], "Got unexpected extra arguments (serve rng); "),
    ],
)
def test_another_option_before_a_command_is_told_its_place(
    capsys: pytest.CaptureFixture[str], words: list[str], wrong: str
) -> None:
    line = error_of(capsys, *words)
    assert line.startswith(wrong)
    assert line.endswith("; options of 'serve' go after it: pyvmm serve …; pyvmm --help lists the options")
