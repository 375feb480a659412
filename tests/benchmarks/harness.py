"""Contenders that measure in turn, A B A B, and their figures: medians, spread, ratios."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

OURS: Final = "pyvmm"


class BenchError(Exception):
    """Something cannot be measured; the message is one line that says why."""


@dataclass(frozen=True)
class Metric:
    """One thing that is measured."""

    name: str
    unit: str
    lower_is_better: bool = False


@dataclass
class Entry:
    """All samples of one metric in one row."""

    row: str
    metric: Metric
    samples: dict[str, list[float]] = field(default_factory=dict)
    """By contender."""
    in_lab: bool = False

    def median(self, contender: str) -> float:
        """Of the contender's samples."""
        return statistics.median(self.samples[contender])

    def spread(self, contender: str) -> float:
        """How far samples are apart, as a part of the median: half of what the middle half spans (of all, if few)."""
        samples = sorted(self.samples[contender])
        middle = statistics.median(samples)
        if len(samples) < 2 or middle == 0:
            return 0.0
        low, high = samples[0], samples[-1]
        if len(samples) >= 4:
            low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return (high - low) / 2 / middle

    def peers(self) -> list[str]:
        """The contenders with which pyvmm is compared."""
        return [name for name in self.samples if name != OURS]

    def ratio(self, peer: str) -> float | None:
        """How much better pyvmm is than ``peer``: 1 is as good, 2 twice as good."""
        if OURS not in self.samples or peer not in self.samples:
            return None
        ours, theirs = self.median(OURS), self.median(peer)
        if self.metric.lower_is_better:
            ours, theirs = theirs, ours
        return ours / theirs if theirs else None


Contender = Callable[[], Mapping[Metric, float]]
"""Measures once."""


class Bench:
    """The collection of the rows' measurements."""

    def __init__(self, runs: int | None = None) -> None:
        """``runs``: how often each contender has its turn; by default, as each row has it."""
        self.runs = runs
        self.entries: list[Entry] = []
        self.notes: list[str] = []
        self._row = ""

    def begin(self, row: str) -> None:
        """Begin a row: further samples belong to it."""
        self._row = row
        if not sys.stderr.isatty():
            print(f"{row} …", file=sys.stderr)

    def entry(self, metric: Metric) -> Entry:
        """The present row's entry for ``metric``, made when it is first asked for."""
        for entry in self.entries:
            if entry.row == self._row and entry.metric == metric:
                return entry
        entry = Entry(self._row, metric)
        self.entries.append(entry)
        return entry

    def add(self, metric: Metric, contender: str, value: float) -> None:
        """Take one sample."""
        self.entry(metric).samples.setdefault(contender, []).append(value)

    def alternate(self, contenders: Mapping[str, Contender], *, runs: int) -> None:
        """Let the contenders measure in turn, each ``runs`` times unless the user said how often.

        The first turn of each is thrown away where there are more than two: it fills caches. One that cannot
        measure in its first turn is left out from then on; later it just misses a sample. A note says so.
        """
        total = self.runs or runs
        left = dict(contenders)
        warm_up = 1 if total > 2 else 0
        for run in range(-warm_up, total):
            for name, measure in list(left.items()):
                turn = "warming up" if run < 0 else f"run {run + 1} of {total}"
                self.say(f"{name}, {turn}")
                try:
                    values = measure()
                except BenchError as error:
                    self.note(f"{name}: {error}")
                    if run == -warm_up:
                        del left[name]
                    continue
                if run >= 0:
                    for metric, value in values.items():
                        self.add(metric, name, value)

    def note(self, text: str) -> None:
        """Add a note for readers of the figures."""
        line = f"{self._row}: {text}"
        if line not in self.notes:
            self.notes.append(line)
            print(line, file=sys.stderr)

    def say(self, text: str) -> None:
        """How far it is; for who watches."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self._row}: {text}", end="", file=sys.stderr, flush=True)

    def said(self) -> None:
        """The row is over."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
