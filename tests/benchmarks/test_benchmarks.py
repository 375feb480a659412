"""What turns samples into figures; and that the bare-metal guest runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.bare_metal import KvmLoop, run_tests
from tests.benchmarks.harness import Bench, BenchError, Entry, Metric

RATE = Metric("rate", "1/s")
TIME = Metric("time", "ms", lower_is_better=True)


def test_a_ratio_above_one_is_better_for_us_whichever_way_the_metric_goes() -> None:
    rate = Entry("row", RATE, {"pyvmm": [200.0], "QEMU": [100.0]})
    time = Entry("row", TIME, {"pyvmm": [5.0], "QEMU": [10.0]})

    assert rate.ratio("QEMU") == time.ratio("QEMU") == 2
    assert Entry("row", RATE, {"QEMU": [100.0]}).ratio("QEMU") is None


def test_one_odd_sample_moves_neither_median_nor_spread() -> None:
    entry = Entry("row", RATE, {"pyvmm": [98.0, 99.0, 100.0, 101.0, 1000.0]})

    assert entry.median("pyvmm") == 100
    assert entry.spread("pyvmm") == pytest.approx(0.01)


def test_contenders_measure_in_turn_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []

    def contender(name: str) -> dict[Metric, float]:
        turns.append(name)
        return {RATE: float(len(turns))}

    bench = Bench()
    bench.begin("row")
    bench.alternate({"pyvmm": lambda: contender("A"), "QEMU": lambda: contender("B")}, runs=3)

    assert "".join(turns) == "ABABABAB"
    assert bench.entry(RATE).samples == {"pyvmm": [3, 5, 7], "QEMU": [4, 6, 8]}


def test_a_contender_that_cannot_measure_is_noted_and_left_out() -> None:
    turns: list[int] = []

    def broken() -> dict[Metric, float]:
        turns.append(1)
        raise BenchError("no such device")

    bench = Bench(runs=2)
    bench.begin("row")
    bench.alternate({"pyvmm": lambda: {RATE: 1.0}, "QEMU": broken}, runs=5)

    assert bench.notes == ["row: QEMU: no such device"]
    assert len(turns) == 1
    assert list(bench.entry(RATE).samples) == ["pyvmm"]


def test_figures_survive_json() -> None:
    entry = Entry("row", TIME, {"pyvmm": [1.0, 2.0], "QEMU": [3.0]}, in_lab=True)

    assert report.from_json(report.to_json({}, [entry], ["a note"])) == ([entry], ["a note"])


def test_the_table_has_a_line_for_each_peer() -> None:
    entry = Entry("row", RATE, {"pyvmm": [100.0], "QEMU": [50.0], "C": [200.0]})

    lines = report.table([entry]).splitlines()[2:]

    assert [[cell.strip() for cell in line.split("|")][-2] for line in lines] == ["2.00", "0.50"]


def test_a_page_with_a_place_for_the_table_gets_it_there(tmp_path: Path) -> None:
    entry = Entry("row", RATE, {"pyvmm": [100.0]})
    text = report.markdown({"date": "2000-01-02T03:04", "cpus": 2}, [entry], ["a note"])
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text("# Title\n\n<!-- measured -->\nold\n<!-- end of measured -->\n\nEnd\n")

    for path in (page, page, other):
        report.put_into(path, text)

    assert other.read_text() == text
    assert page.read_text() == f"# Title\n\n<!-- measured -->\n{text}<!-- end of measured -->\n\nEnd\n"
    assert text.startswith("Measured on 2000-01-02 by `make bench`; cpus 2.\n")
    assert text.endswith("\nNote: a note\n")


@pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="needs /dev/kvm")
@pytest.mark.parametrize("level", [0, 3])
def test_the_guest_counts_its_accesses(level: int) -> None:
    (result,) = run_tests(KvmLoop(), ["exits,mmioin,0xd0000000,20"], level=level)

    assert result.count > 0
    assert result.seconds == pytest.approx(0.02, abs=0.2)
