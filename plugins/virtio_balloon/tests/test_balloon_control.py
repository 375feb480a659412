"""The balloon's size, what the guest says of its memory, and who asks for them."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balloon_bench import ALL, STATS, Bench, Client
from pyvmm.errors import UsageError
from pyvmm.options import Size, parse_options
from pyvmm_virtio_balloon import BalloonOptions, commands, pyvmm_device_kinds
from pyvmm_virtio_balloon import constants as c
from pyvmm_virtio_balloon.device import Balloon

MIB = 1 << 20
CONFIG_INTERRUPT = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "balloon.sock"


@pytest.fixture
def controlled(make_bench: Callable[..., Bench], path: Path) -> Bench:
    """A balloon with a control socket, and a driver."""
    bench = make_bench(size=Size(8 * MIB), socket=path)
    bench.start()
    return bench


@pytest.fixture
def client(controlled: Bench, path: Path) -> Iterator[Client]:
    client = Client(controlled, path)
    yield client
    client.socket.close()


# --- configuration


def test_the_driver_finds_the_target(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=Size(5 * MIB + 4095))
    assert bench.driver.probe() == 5
    bench.start()
    assert bench.config() == (5 * 256, 0, 0, 0)
    assert bench.driver.read_config(16, 4) == bytes(4)


def test_the_driver_says_how_far_it_is(bench: Bench) -> None:
    bench.driver.write_config(4, struct.pack("<I", 300))
    assert bench.device.actual == 300 * 4096
    bench.driver.write_config(5, b"\x02")  # bytewise, too
    assert bench.config()[1] == 0x22C


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (8, 4), (0, 1), (16, 4), (15, 8), (1000, 1)])
def test_the_rest_is_not_the_drivers_to_write(bench: Bench, offset: int, length: int) -> None:
    bench.driver.write_config(offset, b"\xff" * length)
    assert (bench.config()[0], bench.config()[2]) == (0, 0)
    assert len(bench.device.config) == 16


def test_a_driver_that_begins_has_an_empty_balloon(bench: Bench) -> None:
    bench.driver.write_config(4, struct.pack("<I", 300))
    bench.driver.write_config(12, struct.pack("<I", 0xAA))
    bench.start()
    assert bench.config() == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({}, ALL),
        ({"deflate_on_oom": False}, [1, 4, 5]),
        ({"reporting": False}, [1, 2]),
    ],
)
def test_features_are_as_the_options_say(
    make_bench: Callable[..., Bench], options: dict[str, bool], features: list[int]
) -> None:
    bench = make_bench(**options)
    assert bench.driver.offered_features() & (1 << 24) - 1 == sum(1 << bit for bit in features)


def test_a_target_beyond_the_guests_memory_is_warned_of(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    make_bench(size=Size(1 << 30)).start()
    assert "balloon0: the target of 1G is more than the guest has" in caplog.text


# --- the size, asked for


def test_a_new_size_reaches_the_driver(controlled: Bench, client: Client) -> None:
    assert client.ask("size") == {"target": 8 * MIB, "actual": 0}
    assert client.ask("size 16M") == {"target": 16 * MIB, "actual": 0}
    assert controlled.driver.take_interrupt()
    assert controlled.driver.interrupt_status & CONFIG_INTERRUPT
    assert controlled.config()[0] == 16 * 256
    controlled.driver.write_config(4, struct.pack("<I", 1))
    assert client.ask("size 0") == {"target": 0, "actual": 4096}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("size lots", "'lots' is not a size"),
        ("size -1", "'-1' is not a size"),
        ("size 66M", "'66M' is more than the guest has: 65M"),
        ("size 16T", "'16T' is"),
        ("inflate 1M", "unknown command 'inflate'; the commands are size, stats"),
        ("stats now", "stats has no argument"),
    ],
)
def test_what_cannot_be_done_is_said(client: Client, line: str, error: str) -> None:
    assert error in client.ask(line)["error"]
    assert client.ask("size")["target"] == 8 * MIB


def test_a_size_can_be_said_before_there_is_a_driver(make_bench: Callable[..., Bench], path: Path) -> None:
    bench = make_bench(socket=path)
    client = Client(bench, path)
    assert client.ask("size 1G") == {"target": 1 << 30, "actual": 0}
    assert "too large" in client.ask("size 16T")["error"]
    assert "no driver" in client.ask("stats")["error"]
    client.socket.close()


# --- statistics


def test_what_the_guest_says_is_asked_for_anew(controlled: Bench, client: Client) -> None:
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 1))
    client.send("stats")
    (used,) = controlled.driver.rings[STATS].take_used()
    assert used.length == 0
    with pytest.raises(BlockingIOError):
        client.answer()

    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 5 << 40), (c.VIRTIO_BALLOON_S_CACHES, 7), (0x7777, 9))
    assert client.answer() == {"target": 8 * MIB, "actual": 0, "free_memory": 5 << 40, "disk_caches": 7}


def test_two_who_ask_get_the_same_answer(controlled: Bench, client: Client, path: Path) -> None:
    other = Client(controlled, path)
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 1))
    client.send("stats")
    other.send("stats")
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 2))
    assert client.answer() == other.answer()
    other.socket.close()


def test_a_guest_that_does_not_answer(controlled: Bench, client: Client) -> None:
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 1))
    client.send("stats")
    controlled.driver.loop.advance(commands.PATIENCE / 2)
    assert controlled.device.on_statistics
    controlled.driver.loop.advance(commands.PATIENCE / 2)
    assert not controlled.device.on_statistics
    assert "did not answer" in client.answer()["error"]
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 2))  # late
    assert client.ask("size")["target"] == 8 * MIB


def test_a_driver_that_goes_while_it_is_asked(controlled: Bench, client: Client) -> None:
    controlled.say((c.VIRTIO_BALLOON_S_MEMFREE, 1))
    client.send("stats")
    controlled.driver.reset()
    assert client.answer() == {"error": "the guest's driver is gone"}
    assert "no driver" in client.ask("stats")["error"]


def test_a_driver_without_statistics(make_bench: Callable[..., Bench], path: Path) -> None:
    bench = make_bench(socket=path)
    bench.start([])
    client = Client(bench, path)
    assert client.ask("stats") == {"error": "the guest has no driver that supports statistics"}
    client.socket.close()


@pytest.mark.parametrize("data", [b"", b"\x04", struct.pack("<HQ", 4, 1)[:9], b"\xff" * 10, b"\x04\0" * 100_000])
def test_statistics_that_make_no_sense(bench: Bench, data: bytes) -> None:
    ring = bench.driver.rings[STATS]
    ring.add([data] if data else [], [] if data else [10])
    ring.kick()
    bench.driver.run()
    assert len(bench.device.statistics) <= 1
    assert not bench.driver.needs_reset
    assert bench.device.ask_statistics()


def test_a_driver_with_several_buffers_for_statistics_gets_all_but_one_back(bench: Bench) -> None:
    for value in range(3):
        bench.say((c.VIRTIO_BALLOON_S_MEMFREE, value))
    assert len(bench.driver.rings[STATS].take_used()) == 2
    assert bench.device.statistics == {"free_memory": 2}


def test_a_reset_while_the_buffer_for_statistics_is_held(bench: Bench) -> None:
    for value in range(10):
        bench.say((c.VIRTIO_BALLOON_S_MEMFREE, value))
        bench.start()
        assert bench.device.statistics == {}
    assert not bench.driver.needs_reset


def test_statistics_are_logged_at_intervals(make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    bench = make_bench(stats=1)
    bench.device.interval = 0.01  # type: ignore[assignment]
    bench.start()
    with caplog.at_level(logging.INFO):
        for value in range(3):
            bench.say((c.VIRTIO_BALLOON_S_MEMFREE, value))
            bench.driver.wait_used(STATS)
    assert "balloon0: target 0, actual 0, free_memory 1" in caplog.text
    for _ in range(20):  # a guest that says nothing
        bench.driver.loop.run_once(0.05)
    assert len(bench.device.on_statistics) == 1


# --- options, and numbers


def test_options(tmp_path: Path) -> None:
    assert parse_options(BalloonOptions, "balloon", "") == BalloonOptions()
    text = "64M,socket=/run/b,stats=5,deflate-on-oom=off,reporting=off"
    assert parse_options(BalloonOptions, "balloon", text) == BalloonOptions(
        Size(64 * MIB), Path("/run/b"), 5, False, False
    )
    for wrong in ("16T", ",stats=-1", ",stats=x", "-5", ",socket="):
        with pytest.raises(UsageError, match=r"^balloon: "):
            parse_options(BalloonOptions, "balloon", wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^balloon: socket=.*give another path$"):
        Balloon(BalloonOptions(socket=tmp_path / "file"))


def test_one_kind_that_names_the_guests_driver() -> None:
    (kind,) = pyvmm_device_kinds()
    assert (kind.name, kind.kernel_config) == ("balloon", "CONFIG_VIRTIO_BALLOON")


HEADERS = [Path("/usr/include/linux/virtio_balloon.h")]


@pytest.mark.skipif(not all(path.exists() for path in HEADERS), reason="needs the kernel's headers")
def test_constants_are_those_of_the_headers() -> None:
    text = "".join(path.read_text() for path in HEADERS)
    defined = {name: int(value) for name, value in re.findall(r"#define\s+(VIRTIO_\w+)\s+(\d+)", text)}
    ours = {name: value for name, value in vars(c).items() if name.startswith("VIRTIO_")}
    assert ours == {name: defined[name] for name in ours}
