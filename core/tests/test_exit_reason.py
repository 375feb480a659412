from __future__ import annotations

import copy
import pickle

import pytest
from pyvmm.exit_reason import End, ExitReason


def test_a_copy_of_an_end_is_the_same() -> None:
    reason = ExitReason(End.QUIT, "x")
    for other in (copy.copy(reason), copy.deepcopy(reason), pickle.loads(pickle.dumps(reason))):
        assert other == reason and other.end is End.QUIT


@pytest.mark.parametrize("name", ["BOGUS", "__init__", "called", "name", ""])
def test_a_name_that_is_no_end_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no way in which a run ends"):
        End.called(name)
    assert End.called("CRASH") is End.CRASH
