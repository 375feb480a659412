"""The cost at the start of plugins that are installed but not used."""

from __future__ import annotations

import compileall
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks import bare_metal
from tests.benchmarks.harness import OURS, Bench, Metric
from tests.benchmarks.machines import Machine
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.rows import Row

MANY: Final = 50
FEW: Final = 2

TIME = Metric(f"start to end with {FEW} plugins' devices, {MANY} installed", "ms", lower_is_better=True)
CPU = Metric(f"{TIME.name}, CPU", "ms", lower_is_better=True)

_PLUGIN: Final = """
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.plugin import DeviceKind, hookimpl, options


@options
class Options:
    pass


class Device(BusDevice):
    placements = [Placement(ports=BusRange(0x7000 + 16 * {number}, 16))]


@hookimpl
def pyvmm_device_kinds():
    return [DeviceKind("{kind}", Options, lambda options: Device(), help="answers nothing", process=False)]
"""


def measure(bench: Bench) -> None:
    """Two devices of two plugins, with 48 other distributions installed and without."""
    vmm = PyVmm(devices=tuple(f"fake{number}" for number in range(FEW)))
    with tempfile.TemporaryDirectory() as scratch:
        environments = {
            name: install(Path(scratch, str(count)), count) for name, count in ((OURS, MANY), (f"{FEW} installed", FEW))
        }
        contenders = {name: partial(_measure, vmm, environment) for name, environment in environments.items()}
        bench.alternate(contenders, runs=30)


def install(directory: Path, count: int) -> dict[str, str]:
    """Make ``count`` distributions, as pip leaves them, for who has the environment that is returned."""
    for number in range(count):
        kind, module = f"fake{number}", f"pyvmm_fake{number}"
        metadata = directory / f"{module}-1.0.dist-info"
        metadata.mkdir(parents=True)
        metadata.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: pyvmm-fake{number}\nVersion: 1.0\n")
        groups = f"[pyvmm.commands]\n{kind} = {module}:command\n\n[pyvmm.devices]\n{kind} = {module}\n"
        metadata.joinpath("entry_points.txt").write_text(groups)
        directory.joinpath(f"{module}.py").write_text(_PLUGIN.format(kind=kind, number=number))
    compileall.compile_dir(directory, quiet=2)
    return {"PYTHONPATH": str(directory)}


def _measure(vmm: PyVmm, environment: Mapping[str, str]) -> dict[Metric, float]:
    seconds, cpu_seconds = bare_metal.time_to_end(vmm, Machine(bare_metal.first()), environment)
    return {TIME: 1000 * seconds, CPU: 1000 * cpu_seconds}


ROW = Row("plugins", f"a start with {FEW} plugins' devices, {MANY} plugins installed beside {FEW}", measure)
