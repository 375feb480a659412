"""Measures pyvmm beside QEMU's microvm: python tests/benchmarks [ROW…] [OPTION…]; --help lists the options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import installed, lab, plots, report
from tests.benchmarks.harness import Bench, BenchError
from tests.benchmarks.rows import Row
from tests.system.kernels import PreparationError

HOST_ROWS: Final = ("start", "plugins", "devices", "memory", "density", "exits", "gil", "block_ring", "net_ring")
LINUX_ROWS: Final = ("boot", "block", "net", "fs", "rng", "console", "vsock", "balloon")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for; 0, or 1 where a row could not be measured at all."""
    rows = _rows()
    options = _parse(arguments, rows)
    if options.list:
        for row in rows:
            print(f"{row.name:<11} {'lab ' if row.linux else '    '} {row.summary}")
        return 0
    chosen = [row for row in rows if row.name in (options.rows or [row.name for row in rows])]
    about = report.machine()
    bench = Bench(options.runs)
    if "PYVMM_COMMAND" not in os.environ:
        try:
            installed.prepare()
        except BenchError as error:
            sys.exit(f"pyvmm cannot be installed: {error}")
    failed = False
    for row in chosen:
        bench.begin(row.name)
        try:
            if row.linux and lab.is_needed():
                lab.measure(bench, row.name)
            else:
                row.measure(bench)
        except (BenchError, PreparationError) as error:
            bench.note(f"not measured: {error}")
            failed = True
        bench.said()
    if options.json:
        Path(options.json).write_text(report.to_json(about, bench.entries, bench.notes))
    if options.markdown:
        report.put_into(Path(options.markdown), report.markdown(about, bench.entries, bench.notes))
    if options.plots:
        try:
            plots.draw_all(report.table(bench.entries), Path(options.plots))
        except BenchError as error:
            print(error, file=sys.stderr)
    if not options.quiet:
        for name, value in about.items():
            print(f"{name}: {value}")
        print(f"\n{report.table(bench.entries)}")
        for note in bench.notes:
            print(f"\nnote: {note}")
    return 1 if failed else 0


def _rows() -> list[Row]:
    return [import_module(f"tests.benchmarks.rows.{name}").ROW for name in (*HOST_ROWS, *LINUX_ROWS)]


def _parse(arguments: Sequence[str] | None, rows: Sequence[Row]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/benchmarks", description="pyvmm beside QEMU's microvm, in turn.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure; all, by default (see --list)")
    parser.add_argument("--runs", type=int, help="turns of each contender, in place of each row's own number")
    parser.add_argument("--json", metavar="FILE", help="write everything there, samples included")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the table there; into a page with marks, only between them"
    )
    parser.add_argument(
        "--plots", metavar="DIRECTORY", help="draw the table there: an SVG picture for each group of rows"
    )
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    options = parser.parse_args(arguments)
    names = [row.name for row in rows]
    for name in options.rows:
        if name not in names:
            parser.error(f"no row {name!r}; there are: {', '.join(names)}")
    if options.runs is not None and options.runs < 1:
        parser.error("--runs: at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
