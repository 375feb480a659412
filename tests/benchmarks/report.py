"""The measurements, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.harness import OURS, Entry, Metric
from tests.system.prepared import TOP

MARKS: Final = ("<!-- measured -->", "<!-- end of measured -->")
"""Between these, a page has room for the table."""

_HEAD = ("row", "what", "unit", OURS, "±", "beside", "its", "±", "ratio")
_NUMERIC = (3, 4, 6, 7, 8)


def machine() -> dict[str, Any]:
    """The machine of the measurements, and the programs' versions."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "pyvmm": _first_line("git", "-C", str(TOP), "describe", "--always", "--dirty"),
        "load": os.getloadavg()[0],
    }


def table(entries: Sequence[Entry]) -> str:
    """A table, in Markdown; each peer of a metric has a line."""
    rows = [list(_HEAD)]
    for entry in entries:
        where = " (lab)" if entry.in_lab else ""
        ours = _figures(entry, OURS)
        for peer in entry.peers() or [""]:
            ratio = entry.ratio(peer) if peer else None
            rows.append(
                [
                    entry.row + where,
                    entry.metric.name,
                    entry.metric.unit,
                    *ours,
                    peer,
                    *_figures(entry, peer),
                    "" if ratio is None else f"{ratio:.2f}",
                ]
            )
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(_HEAD))]
    rule = ["-" * (width - 1) + ":" if i in _NUMERIC else "-" * width for i, width in enumerate(widths)]
    lines = [_line(rows[0], widths), "| " + " | ".join(rule) + " |"]
    return "\n".join(lines + [_line(row, widths) for row in rows[1:]])


def markdown(about: dict[str, Any], entries: Sequence[Entry], notes: Sequence[str]) -> str:
    """Everything but the samples, as a part of a page."""
    machine = ", ".join(f"{name} {value}" for name, value in about.items() if name != "date")
    lines = [f"Measured on {about['date'][:10]} by `make bench`; {machine}.", "", table(entries)]
    for note in notes:
        lines += ["", f"Note: {note}"]
    return "\n".join(lines) + "\n"


def put_into(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; where that is a page with a place for it, only there."""
    begin, end = MARKS
    page = path.read_text() if path.exists() else ""
    if begin in page and end in page:
        head, tail = page.split(begin)[0], page.split(end)[-1]
        text = f"{head}{begin}\n{text}{end}{tail}"
    path.write_text(text)


def to_json(about: dict[str, Any], entries: Sequence[Entry], notes: Sequence[str]) -> str:
    """Everything, samples included."""
    rows = [
        {
            "row": entry.row,
            "what": entry.metric.name,
            "unit": entry.metric.unit,
            "lower_is_better": entry.metric.lower_is_better,
            "in_lab": entry.in_lab,
            "contenders": {
                name: {"median": entry.median(name), "spread": entry.spread(name), "samples": samples}
                for name, samples in entry.samples.items()
            },
            "ratio": {peer: entry.ratio(peer) for peer in entry.peers()},
        }
        for entry in entries
    ]
    return json.dumps({"machine": about, "rows": rows, "notes": list(notes)}, indent=1) + "\n"


def from_json(text: str) -> tuple[list[Entry], list[str]]:
    """What :func:`to_json` wrote: entries and notes."""
    data = json.loads(text)
    entries = [
        Entry(
            row=row["row"],
            metric=Metric(row["what"], row["unit"], row["lower_is_better"]),
            samples={name: contender["samples"] for name, contender in row["contenders"].items()},
            in_lab=row["in_lab"],
        )
        for row in data["rows"]
    ]
    return entries, data["notes"]


def number(value: float) -> str:
    """Three digits that count, thousands parted."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _figures(entry: Entry, contender: str) -> tuple[str, str]:
    if contender not in entry.samples:
        return "", ""
    return number(entry.median(contender)), f"{entry.spread(contender):.0%}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if i in _NUMERIC else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def _first_line(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "absent"
    return (result.stdout.splitlines() or ["unknown"])[0]
