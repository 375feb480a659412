"""The kernel's command line."""

from __future__ import annotations

import pytest
from pyvmm.errors import UsageError
from pyvmm.x86_64.boot.cmdline import DEFAULT, Cmdline


def test_parameters_come_in_order() -> None:
    cmdline = Cmdline("console=ttyS0")

    cmdline.insert("  quiet   debug ")
    cmdline.push("root", "/dev/vda")
    cmdline.insert("")

    assert str(cmdline) == "console=ttyS0 quiet debug root=/dev/vda"


def test_a_value_with_blanks_is_quoted() -> None:
    cmdline = Cmdline()

    cmdline.push("dyndbg", "file a.c +p")

    assert str(cmdline) == 'dyndbg="file a.c +p"'


def test_quoted_blanks_stay() -> None:
    assert str(Cmdline('dyndbg="file  a.c   +p" quiet "x y"=1')) == 'dyndbg="file  a.c   +p" quiet "x y"=1'


def test_what_is_added_after_arguments_for_init_still_reaches_the_kernel() -> None:
    cmdline = Cmdline("quiet -- single")

    cmdline.push("root", "/dev/vda")
    cmdline.insert("ro -- -v")

    assert str(cmdline) == "quiet root=/dev/vda ro -- single -v"


def test_has_knows_kernel_parameters_only() -> None:
    cmdline = Cmdline("root=/dev/vda ro -- init=no")

    assert cmdline.has("root")
    assert cmdline.has("ro")
    assert not cmdline.has("roo")
    assert not cmdline.has("init")


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "quiet\r", "caf\u00e9", "\udcff", "\x1b[2J", "a\x7f"])
def test_characters_that_a_kernel_cannot_take_are_refused(text: str) -> None:
    cmdline = Cmdline("quiet")

    with pytest.raises(UsageError, match="only printable ASCII can") as caught:
        cmdline.insert(text)

    assert str(caught.value).isprintable()
    assert str(cmdline) == "quiet"


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(UsageError, match="not closed"):
        Cmdline('dyndbg="file a.c')


def test_a_quote_in_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter can have"):
        Cmdline().push("root", 'a"b')


def test_as_much_as_the_limit_fits_and_not_one_more() -> None:
    assert len(str(Cmdline("x" * 2047))) == 2047
    cmdline = Cmdline("x" * 2046)

    with pytest.raises(UsageError, match="2048 characters, and the kernel takes 2047"):
        cmdline.insert("y")

    assert str(cmdline) == "x" * 2046


def test_a_lower_limit_holds() -> None:
    with pytest.raises(UsageError, match="takes 254"):
        Cmdline("x" * 255, limit=254)


def test_the_default_leaves_room() -> None:
    assert len(str(Cmdline(" ".join(DEFAULT)))) < 100
