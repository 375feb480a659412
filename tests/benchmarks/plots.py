"""Pictures of the table that :mod:`tests.benchmarks.report` makes: how pyvmm compares, row by row.

    python -m tests.benchmarks.plots .cache/bench.json .cache/plots
    python -m tests.benchmarks.plots docs/explanation/performance.md docs/_static

The second command draws the pictures of the documentation from the table on its page. matplotlib is needed, and
imported only to draw. Text stays text, and colours are variables, so that a picture follows the page into dark mode.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.benchmarks import report
from tests.benchmarks.harness import BenchError

PICTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "start": ("start", "plugins", "devices", "memory", "density"),
    "exits": ("exits",),
    "gil": ("gil",),
    "disk": ("block-ring",),
    "network": ("net-ring",),
    "linux-disk": ("boot", "block", "fs"),
    "linux-network": ("net",),
    "linux-other": (),
}
"""The pictures and the rows that each shows; the last one shows all other rows."""

TITLES: Final = {
    "start": "Start and memory",
    "exits": "Exits",
    "gil": "Exits beside a device that computes in Python",
    "disk": "Disk, on the machine's own KVM",
    "network": "Network card, on the machine's own KVM",
    "linux-disk": "Linux: boot, disk, directory",
    "linux-network": "Linux: network",
    "linux-other": "Linux: other devices",
}

_VARIABLES: Final = {"#010101": "ink", "#020202": "faint", "#030303": "line", "#040404": "paper"}
_VARIABLES_OF_PEERS: Final = {"#050505": "mark", "#060606": "other", "#070707": "third"}
_INK, _FAINT, _LINE, _PAPER = _VARIABLES
_MARKERS: Final = tuple(zip("osD", _VARIABLES_OF_PEERS, strict=True))
_STYLE: Final = """<style>
.pyvmm { --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #8c959f; --mark: #0969da; --other: #9a6700;
  --third: #8250df; }
@media (prefers-color-scheme: dark) { .pyvmm { --paper: #161b22; --ink: #e6edf3; --faint: #9198a1; --line: #656c76;
  --mark: #58a6ff; --other: #d29922; --third: #bc8cff; } }
</style>"""
"""The same variables as in docs/_static/pyvmm.css."""


class Line(NamedTuple):
    """One line of the table: a metric of pyvmm beside one peer."""

    row: str
    what: str
    unit: str
    ours: str
    peer: str
    ratio: float


def lines_of(text: str) -> list[Line]:
    """The lines of the table in ``text``, a page in Markdown, that have a ratio."""
    result = []
    for cells in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        row, what, unit, ours, _, peer, _, _, ratio = [*map(str.strip, cells.split("|")), *[""] * 9][:9]
        if peer and re.fullmatch(r"[\d.]+", ratio) and float(ratio):
            result.append(Line(row.removesuffix(" (lab)"), what, unit, ours, peer, float(ratio)))
    return result


def picture_of(row: str) -> str:
    """The picture that shows ``row``."""
    return next((name for name, rows in PICTURES.items() if row in rows), list(PICTURES)[-1])


def draw_all(text: str, directory: Path) -> list[Path]:
    """Draw the table in ``text``: an SVG file for each picture that has lines.

    :raises BenchError: matplotlib is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines = lines_of(text)
    files = []
    for name in PICTURES:
        shown = [line for line in lines if picture_of(line.row) == name]
        if shown:
            files.append(directory / f"measured-{name}.svg")
            files[-1].write_text(draw(name, shown), encoding="utf-8")
    return files


def draw(name: str, lines: Sequence[Line]) -> str:
    """One picture, as SVG: a line for each metric, a mark for each peer at its ratio."""
    try:
        import matplotlib
    except ImportError:
        raise BenchError("no pictures: matplotlib is not installed") from None
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    metrics = list(dict.fromkeys((line.row, line.what, line.unit, line.ours) for line in lines))
    places = {metric: -place for place, metric in enumerate(metrics)}
    rows = {line.row for line in lines}
    peers = list(dict.fromkeys(line.peer for line in lines))
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "text.color": _INK,
    }
    with matplotlib.rc_context(settings):
        height = 0.2 * len(metrics) + 1.1
        figure = Figure(figsize=(7.4, height), facecolor=_PAPER)
        axes = figure.add_axes((0.53, 0.5 / height, 0.33, 0.2 * len(metrics) / height), facecolor=_PAPER)
        for place in places.values():
            axes.axhline(place, color=_LINE, linewidth=0.3, zorder=0)
        axes.axvline(1, color=_INK, linewidth=1, zorder=1)
        for number, peer in enumerate(peers):
            marker, colour = _MARKERS[number % len(_MARKERS)]
            of_peer = [line for line in lines if line.peer == peer]
            axes.plot(
                [line.ratio for line in of_peer],
                [places[line[:4]] for line in of_peer],
                marker,
                color=colour,
                markerfacecolor=colour if number < len(_MARKERS) else _PAPER,
                markersize=4.5,
                label=peer,
            )
        axes.set_xscale("log")
        low, high = min(line.ratio for line in lines), max(line.ratio for line in lines)
        axes.set_xlim(min(0.5, low / 1.2), max(2, high * 1.2))
        axes.set_ylim(-len(metrics) + 0.4, 0.6)
        axes.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_yticks([])
        axes.tick_params(axis="x", colors=_FAINT)
        for side, spine in axes.spines.items():
            spine.set_color(_LINE)
            spine.set_visible(side == "bottom")
        right = axes.get_yaxis_transform()
        for (row, what, unit, ours), place in places.items():
            label = what if len(rows) == 1 else f"{row}: {what}"
            axes.text(-0.02, place, label, transform=right, ha="right", va="center")
            axes.text(1.02, place, f"{ours} {unit}", transform=right, va="center", color=_FAINT)
        axes.set_xlabel("times as good as the peer: left of 1 pyvmm is worse, right of 1 it is better", color=_FAINT)
        figure.text(0.02, 1 - 0.24 / height, TITLES[name], fontsize=10, weight="bold")
        figure.text(0.98, 1 - 0.24 / height, "pyvmm's own figure", ha="right", color=_FAINT)
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.2, 1),
            ncols=len(peers),
            frameon=False,
            handletextpad=0.1,
            columnspacing=1,
            labelcolor=_INK,
        )
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _follow_the_page(out.getvalue(), name)


def _follow_the_page(svg: str, name: str) -> str:
    """``svg`` with variables in the place of its colours, a title, and no XML prolog."""
    for colour, variable in {**_VARIABLES, **_VARIABLES_OF_PEERS}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    _, root, body = re.split(r"(<svg [^>]*>)", svg, maxsplit=1)
    body = body.replace("*{", ".pyvmm *{", 1)
    root = re.sub(r' (?:width|height)="[^"]*"', "", root).replace("<svg ", '<svg class="pyvmm" role="img" ', 1)
    return "\n".join(line.rstrip() for line in [f"{root}\n<title>{TITLES[name]}</title>", _STYLE, *body.split("\n")])


def main(source: str, directory: str) -> int:
    """Draw the table of ``source``, a page or the JSON of a run, into ``directory``."""
    text = Path(source).read_text(encoding="utf-8")
    if source.endswith(".json"):
        text = report.table(report.from_json(text)[0])
    for path in draw_all(text, Path(directory)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
