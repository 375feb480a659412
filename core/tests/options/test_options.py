from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.errors import UsageError
from pyvmm.options import (
    REQUIRED,
    DeviceSpec,
    Size,
    describe,
    format_options,
    format_size,
    int_between,
    option,
    options,
    parse_device,
    parse_options,
    parse_size,
)


class Cache(enum.Enum):
    WRITE_BACK = "writeback"
    NONE = "none"


class Speed(enum.Enum):
    FULL = 1
    HALF_SPEED = 2


def parse_mac(text: str) -> bytes:
    if not re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", text):
        raise ValueError("is not a MAC address")
    return bytes.fromhex(text.replace(":", ""))


@options
class DiskOptions:
    path: Path = option(primary=True, help="the image")
    ro: bool = option(False, help="never written to")
    direct: bool = option(True)
    size: Size | None = option(None)
    queues: int = option(1, parse=int_between(1, 8))
    offset: int = option(0)
    serial_number: str = option("")
    format: Literal["raw", "qcow2"] = option("raw")
    cache: Cache = option(Cache.WRITE_BACK)
    speed: Speed = option(Speed.FULL)
    forward: tuple[str, ...] = option((), help="a port")
    extra: tuple[int, ...] = option(())


@options
class NetOptions:
    tap: str = option(primary=True)
    mac: bytes | None = option(None, parse=parse_mac, metavar="XX:XX:XX:XX:XX:XX")


@options
class NoOptions:
    pass


@options
class PairOptions:
    low: int = option(0)
    high: int = option(9)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")


def disk(text: str) -> DiskOptions:
    spec = parse_device(text)
    return parse_options(DiskOptions, spec.kind, spec.text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("block", DeviceSpec("block")),
        ("block:", DeviceSpec("block")),
        ("block:a.img", DeviceSpec("block", "a.img")),
        ("block:/dev/disk/by-id/a:b,ro", DeviceSpec("block", "/dev/disk/by-id/a:b,ro")),
        ("block,path=a:b", DeviceSpec("block", ",path=a:b")),
        ("block:,ro", DeviceSpec("block", ",ro")),
        ("block:,,ro", DeviceSpec("block", ",,ro")),
    ],
)
def test_a_device_is_split_behind_its_kind(text: str, expected: DeviceSpec) -> None:
    assert parse_device(text) == expected
    assert parse_device(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "asks"),
    [("block,help", True), ("block:a.img,ro,help", True), ("block:help", False), ("block,ro", False), ("block", False)],
)
def test_a_bare_help_among_the_options_asks_for_help(text: str, asks: bool) -> None:
    assert parse_device(text).asks_for_help is asks


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("block:a.img", "path", Path("a.img")),
        ("block,path=a.img", "path", Path("a.img")),
        ("block:path=a.img", "path", Path("a.img")),
        ("block:/tmp/a=b.img", "path", Path("/tmp/a=b.img")),
        ("block:path=a=b.img", "path", Path("a=b.img")),
        ("block:a,,b.img", "path", Path("a,b.img")),
        ("block:a,,,ro", "path", Path("a,")),
        ("block:a,,,ro", "ro", True),
        ("block:,,a", "path", Path(",a")),
        ("block:ro", "path", Path("ro")),
        ("block:a:b,ro", "path", Path("a:b")),
        ("block:a", "ro", False),
        ("block:a,ro", "ro", True),
        ("block:a,ro=on", "ro", True),
        ("block:a,direct=off", "direct", False),
        ("block:a,direct=false", "direct", False),
        ("block:a,direct=no", "direct", False),
        ("block:a,ro=yes", "ro", True),
        ("block:a,ro=true", "ro", True),
        ("block:a", "size", None),
        ("block:a,size=64k", "size", 65536),
        ("block:a,queues=8", "queues", 8),
        ("block:a,offset=0x10", "offset", 16),
        ("block:a,offset=-010", "offset", -10),
        ("block:a,serial-number=x", "serial_number", "x"),
        ("block:a,serial_number=x", "serial_number", "x"),
        ("block:a,serial-number=", "serial_number", ""),
        ("block:a,serial-number=x=,,y", "serial_number", "x=,y"),
        ("block:a,format=qcow2", "format", "qcow2"),
        ("block:a,cache=none", "cache", Cache.NONE),
        ("block:a,speed=half-speed", "speed", Speed.HALF_SPEED),
        ("block:a", "forward", ()),
        ("block:a,forward=80,forward=81", "forward", ("80", "81")),
        ("block:a,extra=1,extra=2", "extra", (1, 2)),
    ],
)
def test_options_are_read_into_the_record(text: str, field: str, expected: object) -> None:
    value = getattr(disk(text), field)
    assert value == expected
    assert type(value) is type(expected) or isinstance(value, Size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--device: no kind in ''"),
        (":a.img", "--device: no kind in ':a.img'"),
        (",ro", "--device: no kind in ',ro'"),
        ("block,,ro", "--device: 'block,,ro' has two commas after 'block'; one begins an option"),
        ("block", "block: option 'path' is missing; give it as --device block:PATH"),
        ("block:,ro", "block: option 'path' is missing"),
        ("block:path=", "block: option 'path': '' is not a path"),
        ("block:a,rw", "block: unknown option 'rw'"),
        ("block:a,fromat=raw", "block: unknown option 'fromat' (did you mean 'format'?); its options are path, ro,"),
        ("block,a.img", "block: unknown option 'a.img' (path is given as block:PATH or path=PATH); its options are"),
        ("block:a,RO", "block: unknown option 'RO'"),
        ("block:a,ro,ro", "block: option 'ro' is given twice; give it once"),
        ("block:a,path=b", "block: option 'path' is given twice"),
        ("block:a,serial-number=1,serial_number=2", "block: option 'serial-number' is given twice"),
        ("block:a,", "block: an empty option; a comma that belongs to a value is written ,,"),
        ("block:a,=on", "block: no key before '=on'; give key=value"),
        ("block:=on", "block: no key before '=on'; give key=value"),
        ("block:a,size", "block: option 'size' needs a value: size=SIZE"),
        ("block:a,ro=maybe", "block: option 'ro': 'maybe' is not one of on, true, yes, off, false, no"),
        ("block:a,ro=", "block: option 'ro': '' is not one of on"),
        ("block:a,size=1.5G", "block: option 'size': '1.5G' is not a size"),
        ("block:a,size=-1", "block: option 'size': '-1' is not a size"),
        ("block:a,size=99999999T", "block: option 'size': '99999999T' is too large"),
        ("block:a,queues=0", "block: option 'queues': '0' is not between 1 and 8"),
        ("block:a,queues=two", "block: option 'queues': 'two' is not a whole number"),
        ("block:a,offset=1_000", "block: option 'offset': '1_000' is not a whole number"),
        ("block:a,offset=٣", "is not a whole number"),
        ("block:a,offset=" + "9" * 5000, "is not a whole number"),
        ("block:a,format=qcow", "'qcow' is not one of raw, qcow2 (did you mean 'qcow2'?)"),
        ("block:a,cache=WRITE_BACK", "'WRITE_BACK' is not one of writeback, none"),
        ("block:a\0b", "block: a NUL character in 'a\\x00b'"),
        ("block:a,x\ny=1", "block: unknown option 'x\\ny'"),
    ],
)
def test_bad_text_is_one_line_that_names_device_and_option(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        disk(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_status == 2


def test_a_type_of_its_own_is_read_by_parse() -> None:
    assert parse_options(NetOptions, "net", "tap0,mac=52:54:00:12:34:56").mac == bytes.fromhex("525400123456")


def test_a_value_that_parse_refuses_is_named_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"^net: option 'mac': '52:54' is not a MAC address$"):
        parse_options(NetOptions, "net", "tap0,mac=52:54")


def test_an_option_for_a_kind_without_any_is_refused() -> None:
    assert parse_options(NoOptions, "balloon", "") == NoOptions()
    with pytest.raises(UsageError, match=r"^balloon: unknown option 'x'; it has no options$"):
        parse_options(NoOptions, "balloon", "x")


def test_options_that_do_not_go_together_are_refused_with_the_records_own_words() -> None:
    with pytest.raises(UsageError, match=r"^pair: low=10 is above high=9; see --device pair,help$"):
        parse_options(PairOptions, "pair", ",low=10")


def test_a_record_is_described_in_the_order_of_its_fields() -> None:
    infos = {info.name: info for info in describe(DiskOptions)}
    assert list(infos)[:7] == ["path", "ro", "direct", "size", "queues", "offset", "serial-number"]
    assert infos["path"].primary and infos["path"].required and infos["path"].default is REQUIRED
    assert infos["path"].help == "the image"
    assert not infos["ro"].required and infos["ro"].flag
    shapes = [infos[name].metavar for name in ("path", "ro", "size", "queues", "serial-number", "format", "cache")]
    assert shapes == ["PATH", "on|off", "SIZE", "N", "TEXT", "raw|qcow2", "writeback|none"]
    assert infos["speed"].choices == ("full", "half-speed")
    assert infos["forward"].repeated and not infos["path"].repeated
    assert describe(NetOptions)[1].metavar == "XX:XX:XX:XX:XX:XX"


def _record(**annotations: Any) -> type[Any]:
    fields = {name: option(None) for name in annotations}
    return options(type("Record", (), {"__annotations__": annotations, **fields}))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (dict, "dict is not a record of options: decorate it with @options of pyvmm.plugin"),
        (parse_mac, "parse_mac is not a record of options"),
        (dataclass(frozen=True)(type("Record", (), {})), "Record is not a record of options"),
        (_record(a=bytes), "Record.a: an option of type <class 'bytes'> needs parse="),
        (_record(a=list[int]), "needs parse=; a key that may be repeated has tuple[TYPE, ...]"),
        (_record(a=int | str), "Record.a: an option of type int | str needs parse="),
        (_record(a="Nowhere"), "name 'Nowhere' is not defined; the types of options are needed at run time"),
    ],
)
def test_a_type_that_cannot_be_a_record_is_refused(record: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        describe(record)


def test_two_primary_options_are_refused() -> None:
    @options
    class Two:
        a: int = option(1, primary=True)
        b: int = option(1, primary=True)

    with pytest.raises(TypeError, match="more than one primary"):
        describe(Two)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1k", 1 << 10), ("256M", 256 << 20), ("5GiB", 5 << 30), ("2T", 2 << 40)],
)
def test_a_size_is_bytes_or_a_power_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "1.5G", "-1", "+1", "1e9", " 1", "1 M", "1MB", "1P", "٣", "0x10", "1_0", "1\n"]
)
def test_a_size_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", [str(1 << 63), "8388608T", "9" * 5000])
def test_a_size_past_63_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too large"):
        parse_size(text)


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_records = st.builds(
    DiskOptions,
    path=_text.filter(lambda text: text and text[0] != "~").map(Path),  # a ~ that no shell replaced is refused
    ro=st.booleans(),
    direct=st.booleans(),
    size=st.none() | st.integers(0, (1 << 63) - 1).map(Size),
    queues=st.integers(1, 8),
    offset=st.integers(-(1 << 40), 1 << 40),
    serial_number=_text,
    format=st.sampled_from(["raw", "qcow2"]),
    cache=st.sampled_from(Cache),
    speed=st.sampled_from(Speed),
    forward=st.lists(_text, min_size=0, max_size=3).map(tuple),
    extra=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)


@given(_records)
def test_a_record_survives_being_written_and_read(record: DiskOptions) -> None:
    spec = parse_device(str(DeviceSpec("block", format_options(record))))
    assert parse_options(DiskOptions, spec.kind, spec.text) == record


@given(st.text())
def test_any_text_is_read_or_refused_with_a_usage_error_in_one_line(text: str) -> None:
    try:
        disk("block:" + text)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
