from __future__ import annotations

import pytest
from pyvmm import startup


def test_each_step_has_its_time_and_the_table_ends_the_account(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup, "steps", None)
    startup.ended("before anybody asks")
    startup.report()
    assert capsys.readouterr().err == ""

    startup.begin()
    startup.ended("one")
    startup.ended("two")
    assert startup.steps is not None
    times = [at for _, at, _ in startup.steps]
    assert times == sorted(times) and times[0] >= 0
    startup.report()

    lines = capsys.readouterr().err.splitlines()
    assert [line[:44].strip() for line in lines] == ["start-up", "Python, and what it imports by itself", "one", "two"]
    assert startup.steps is None
