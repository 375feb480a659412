"""Loggers that import logging with their first message, and what was wanted of it until then."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys

import pytest
from pyvmm.logs import logger

START = "import sys; from pyvmm import logs; log = logs.logger('pyvmm.lamp'); logs.configure({}); "


def python(statement: str, verbosity: int = 0) -> tuple[str, str]:
    """What a new Python prints on stdout and stderr."""
    command = [sys.executable, "-c", START.format(verbosity) + statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_who_says_nothing_imports_nothing() -> None:
    assert python("log.debug('a'); log.info('b'); print('logging' in sys.modules)") == ("False", "")


def test_a_warning_is_formatted_as_it_was_wanted() -> None:
    assert python("log.warning('%d lit', 2)") == ("", "pyvmm: lamp: 2 lit")


def test_a_message_cannot_forge_a_line_or_move_the_cursor() -> None:
    statement = r"log.warning('%s', 'one\npyvmm: two\x1b[2J\u202e\udcff é')"
    assert python(statement)[1] == "pyvmm: lamp: one\n" r"    pyvmm: two\x1b[2J\u202e\udcff é"


def test_a_traceback_has_its_lines() -> None:
    statement = "exec(\"try:\\n 1/0\\nexcept ZeroDivisionError:\\n log.exception('a\\\\nb')\")"
    lines = python(statement)[1].splitlines()
    assert lines[:3] == ["pyvmm: lamp: a", "    b", "Traceback (most recent call last):"]


def test_a_plugins_own_logger_is_as_well() -> None:
    statement = "import logging; logging.getLogger('pyvmm_lamp').warning('on')"
    assert python(statement) == ("", "pyvmm: pyvmm_lamp: on")


def test_so_is_a_message_while_logging_is_still_being_imported_elsewhere() -> None:
    statement = (
        "import threading\nready = threading.Barrier(4)\n"
        "def say():\n    ready.wait()\n    import logging\n    logging.getLogger('pyvmm_lamp').warning('x')\n"
        "threads = [threading.Thread(target=say) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]"
    )
    assert python("\n" + statement)[1].splitlines() == ["pyvmm: pyvmm_lamp: x"] * 4


def test_logging_is_as_it_would_be_without_us() -> None:
    statement = (
        "import logging; print(type(logging.__loader__).__name__, logging.__spec__.loader is "
        "logging.__loader__, logging.__spec__.origin == logging.__file__, len(logging.root.handlers))"
    )
    assert python(statement) == ("SourceFileLoader True True 1", "")


def test_the_last_wish_counts() -> None:
    statement = "logs.when_imported(lambda: print('sent')); import logging; logs.when_imported(lambda: print('again'))"
    assert python(statement) == ("sent\nagain", "")


def test_a_level_that_is_set_before_logging_is_imported_is_kept() -> None:
    assert python("print(logs.level()); import logging; print(logs.level())", verbosity=1) == ("20\n20", "")
    assert python("print(logs.level()); import logging; print(logs.level())") == ("30\n30", "")


def test_more_is_shown_where_it_is_wanted() -> None:
    assert python("log.debug('a'); log.info('b')", verbosity=1) == ("", "pyvmm: lamp: b")
    assert python("log.debug('a'); log.info('b')", verbosity=2) == ("", "pyvmm: lamp: a\npyvmm: lamp: b")


def test_a_record_is_of_the_line_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = logger("pyvmm.lamp")
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert [record.funcName for record in caplog.records] == ["test_a_record_is_of_the_line_that_logs"] * 3
    assert {record.name for record in caplog.records} == {"pyvmm.lamp"}
    assert log.isEnabledFor(logging.DEBUG)


def test_all_that_is_said_at_once_is_formatted() -> None:
    statement = (
        "import threading\nready = threading.Barrier(4)\n"
        "def say():\n    ready.wait()\n    log.warning('x')\n"
        "threads = [threading.Thread(target=say) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]"
    )
    command = [sys.executable, "-c", START.format(0) + "\n" + statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["pyvmm: lamp: x"] * 4


def test_a_logger_can_be_copied_and_told_of_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    copied = copy.deepcopy(logger("pyvmm.lamp"))

    def helper() -> None:
        copied.info("lit", stacklevel=2)

    helper()
    assert [record.funcName for record in caplog.records] == ["test_a_logger_can_be_copied_and_told_of_its_caller"]
