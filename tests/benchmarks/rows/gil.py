"""The law of the GIL: what is left to a vCPU while a device computes in Python."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.bare_metal import run_tests
from tests.benchmarks.harness import OURS, Bench, Contender, Metric
from tests.benchmarks.pyvmm_command import PyVmm, has_device_option
from tests.benchmarks.rows import Row

MS = 1000
DEPTH = 4
CHORES: Final = Path(__file__).resolve().parents[1] / "chores"

_MODULE = "pyvmm_bench_chores"

RATE = Metric("port reads beside a device that computes", "1/s")
HALF = Metric("half of them within", "µs", lower_is_better=True)
SLOW = Metric("99 % of them within", "µs", lower_is_better=True)
SERVED = Metric("its requests meanwhile", "1/s")


def measure(bench: Bench) -> None:
    """With the device busy as it is by default, in a process of its own and in the VMM's, and with it idle."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = _install(Path(scratch))
        contenders: dict[str, Contender] = {OURS: partial(_measure, environment, "", busy=True)}
        if has_device_option("block", "process"):
            for state in ("on", "off"):
                options = f",process={state}"
                contenders[options[1:]] = partial(_measure, environment, options, busy=True)
        else:
            bench.note("devices have no processes of their own yet (no option process=on|off)")
        contenders["device idle"] = partial(_measure, environment, "", busy=False)
        bench.alternate(contenders, runs=5)


def _measure(environment: dict[str, str], options: str, *, busy: bool) -> dict[Metric, float]:
    load = f",chores,{DEPTH}" if busy else ""
    vmm = PyVmm(devices=("chores:1000",), device_options=options)
    (result,) = run_tests(vmm, [f"exits,portin,0x3ff,{MS}{load}"], environment=environment)
    values = {RATE: result.rate, HALF: result.microseconds("p50"), SLOW: result.microseconds("p99")}
    if busy:
        values[SERVED] = result.values["requests"] / result.seconds
    return values


def _install(directory: Path) -> dict[str, str]:
    """Install the plugin for who has this environment: metadata beside a module is all that it takes."""
    metadata = directory / f"{_MODULE}-0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: pyvmm-bench-chores\nVersion: 0\n")
    metadata.joinpath("entry_points.txt").write_text(f"[pyvmm.devices]\nchores = {_MODULE}\n")
    return {"PYTHONPATH": f"{directory}:{CHORES}"}


ROW = Row("gil", "port reads and their 99th percentile beside a device that computes in Python", measure)
