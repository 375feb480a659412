from __future__ import annotations

import pytest
from pyvmm.startup import trace


def test_each_step_has_its_time_and_the_table_ends_the_account(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace, "steps", None)
    trace.ended("before anybody asks")
    trace.report()
    assert capsys.readouterr().err == ""

    trace.begin()
    trace.ended("one")
    trace.ended("two")
    assert trace.steps is not None
    times = [at for _, at, _ in trace.steps]
    assert times == sorted(times) and times[0] >= 0
    trace.report()

    lines = capsys.readouterr().err.splitlines()
    assert [line[:44].strip() for line in lines] == ["start-up", "Python and its own imports", "one", "two"]
    assert trace.steps is None
