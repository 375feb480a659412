"""Where another release of Debian comes from."""

from __future__ import annotations

from tests.system.debian import lines_for

TARGETS = """\
bookworm http://archive.invalid/debian/
bookworm http://second.invalid/debian/
bookworm-backports http://archive.invalid/debian/
bookworm-updates http://archive.invalid/debian/
bookworm-security http://security.invalid/debian-security/
"""


def test_another_release_comes_from_the_archives_of_the_hosts_own() -> None:
    assert lines_for("trixie", TARGETS) == [
        "deb http://archive.invalid/debian/ trixie main",
        "deb http://archive.invalid/debian/ trixie-updates main",
        "deb http://security.invalid/debian-security/ trixie-security main",
    ]


def test_without_archives_there_are_no_lines() -> None:
    assert lines_for("trixie", "") == []
