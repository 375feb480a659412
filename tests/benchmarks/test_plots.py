"""Pictures of the benchmarks' table, and that those in the documentation show the table on its page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import plots, report
from tests.benchmarks.harness import Entry, Metric
from tests.system.prepared import TOP

PAGE = TOP / "docs/explanation/performance.md"
RATE = Metric("reads, depth 1", "1/s")
TIME = Metric("start, warm", "ms", lower_is_better=True)


def texts(svg: str) -> list[str]:
    return [re.sub("&#?[a-z0-9]+;", "'", text).strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_lines_are_those_of_the_table_that_have_a_ratio() -> None:
    table = report.table(
        [
            Entry("block", RATE, {"pyvmm": [200.0], "QEMU": [100.0], "QEMU io_uring": [400.0]}, in_lab=True),
            Entry("start", TIME, {"pyvmm": [5.0]}),
        ]
    )

    assert plots.lines_of(f"Text.\n\n{table}\n\n| other | table |\n") == [
        plots.Line("block", "reads, depth 1", "1/s", "200", "QEMU", 2.0),
        plots.Line("block", "reads, depth 1", "1/s", "200", "QEMU io_uring", 0.5),
    ]


def test_a_row_that_no_picture_names_is_in_the_last_one() -> None:
    assert plots.picture_of("gil") == "gil"
    assert plots.picture_of("a new row") == list(plots.PICTURES)[-1]


def test_a_picture_is_drawn_with_its_text_and_without_fixed_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = report.table(
        [
            Entry("start", TIME, {"pyvmm": [5.0], "QEMU": [10.0], "C": [1.0]}),
            Entry("block-ring", RATE, {"pyvmm": [200.0], "QEMU": [100.0]}),
        ]
    )

    files = plots.draw_all(table, tmp_path)

    assert [path.name for path in files] == ["measured-start.svg", "measured-disk.svg"]
    start = files[0].read_text()
    assert {"start, warm", "5.00 ms", "QEMU", "C"} <= set(texts(start))
    assert set(re.findall("#[0-9a-f]{6}", start.partition("</style>")[2])) == set()
    assert files[0].read_text() == plots.draw("start", plots.lines_of(table)[:2])


def test_drawing_is_all_that_imports_matplotlib() -> None:
    code = "import sys, tests.benchmarks.plots; sys.exit('matplotlib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=TOP, check=False).returncode == 0


@pytest.mark.parametrize("name", plots.PICTURES)
def test_the_documentation_s_pictures_show_the_table_on_the_page(name: str) -> None:
    svg = (TOP / f"docs/_static/measured-{name}.svg").read_text(encoding="utf-8")
    shown = texts(svg)
    lines = [line for line in plots.lines_of(PAGE.read_text(encoding="utf-8")) if plots.picture_of(line.row) == name]

    assert lines
    for line in lines:
        assert any(text.endswith(line.what) for text in shown), line
        assert f"{line.ours} {line.unit}" in shown, line
        assert line.peer in shown, line
    labels = {line[:4] for line in lines}
    assert len([text for text in shown if re.search(r"^[\d.,]+ (?:ms|s|µs|1/s|[MK]iB(?:/s)?|Mbit/s)$", text)]) == len(
        labels
    )
    assert f"_static/measured-{name}.svg" in PAGE.read_text(encoding="utf-8")
