"""Rows whose guests are Linux, on a machine whose KVM cannot run one: measured in the lab, their figures fetched."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.benchmarks import images, report
from tests.benchmarks.harness import Bench, BenchError
from tests.guest import artefacts
from tests.system.hardware import why_no_linux_guest
from tests.system.prepared import TOP

TIMEOUT: Final = 4 * 3600
"""Seconds that the lab may take for a row."""


def is_needed() -> bool:
    """Whether this machine cannot run a Linux in a guest."""
    return bool(why_no_linux_guest())


def measure(bench: Bench, row: str) -> None:
    """Run this row in the lab."""
    for tools in (("fio",), ("iperf3",), ("socat",)):
        artefacts.tools_disk(*tools)  # there is no network in the lab
    artefacts.ensure()
    artefacts.disk()
    bench.say("in the lab")
    # In the checkout, which is what the lab can write.
    with tempfile.TemporaryDirectory(dir=images.directory()) as scratch:
        file = Path(scratch, "figures.json")
        command = [str(TOP / "tests/lab/run"), str(TOP / ".venv/bin/python"), "tests/benchmarks", row]
        command += ["--json", str(file), "--quiet"]
        if bench.runs:
            command += ["--runs", str(bench.runs)]
        # A lab that is lost says nothing of the guests in it.
        environment = os.environ | {"PYVMM_LAB_TIMEOUT": str(TIMEOUT), "PYVMM_LAB_TRIES": "3"}
        result = subprocess.run(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL, check=False)
        if not file.exists():
            raise BenchError(f"the lab ended with {result.returncode}")
        entries, notes = report.from_json(file.read_text())
    for entry in entries:
        entry.in_lab = True
    bench.entries += entries
    bench.notes += notes
    if result.returncode != 0:
        raise BenchError("in the lab it was not measured in full")
