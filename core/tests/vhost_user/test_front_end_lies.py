"""The front end with back ends that lie, stall or go: each fails its device, and nothing else."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm._native import lib
from pyvmm.errors import PyvmmError
from pyvmm.testing.mmio_driver import DRIVER_OK, NEEDS_RESET
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import PATIENCE
from pyvmm.vhost_user import front_end as front_end_module
from pyvmm.vhost_user.connection import Message
from pyvmm.vhost_user.protocol import (
    MAX_FDS,
    NEED_REPLY,
    REPLY,
    BackendRequest,
    ConfigSpace,
    FrontendRequest,
    Inflight,
    ProtocolFeature,
    VringState,
    pack_u64,
)

from core.tests.vhost_user.liar import FEATURES, PROTOCOL_FEATURES, Liar
from core.tests.vhost_user.served import driver_of, front_end

FUZZ_EXAMPLES = int(os.environ.get("PYVMM_FUZZ_EXAMPLES", "150"))

Lie = Callable[[Liar, Message], bool]


def lying_to(request: FrontendRequest, lie: Callable[[Liar, Message], object]) -> Lie:
    """The truth but for answers to ``request``."""

    def decide(liar: Liar, message: Message) -> bool:
        if message.request != request:
            return False
        lie(liar, message)
        return True

    return decide


def say_nothing(liar: Liar, message: Message) -> None:
    """A stall."""


def hang_up(liar: Liar, message: Message) -> None:
    liar.hang_up()


def refuse(liar: Liar, message: Message) -> None:
    liar.answer(message, pack_u64(1))


def answer_too_short(liar: Liar, message: Message) -> None:
    liar.answer(message, b"\1\2\3")


def answer_another(liar: Liar, message: Message) -> None:
    liar.answer(Message(message.request + 1), pack_u64(0))


def answer_as_request(liar: Liar, message: Message) -> None:
    liar.send(struct.pack("=IIIQ", message.request, 1, 8, 0))


def answer_of_another_version(liar: Liar, message: Message) -> None:
    liar.send(struct.pack("=IIIQ", message.request, 2 | REPLY, 8, 0))


def answer_without_end(liar: Liar, message: Message) -> None:
    liar.send(struct.pack("=III", message.request, 1 | REPLY, 0xFFFFFFFF) + bytes(8192))


def answer_in_part(liar: Liar, message: Message) -> None:
    liar.send(struct.pack("=III", message.request, 1 | REPLY, 8) + b"\0\0\0")


def answer_with_descriptors(liar: Liar, message: Message) -> None:
    fd = os.memfd_create("unwanted")
    liar.answer(message, pack_u64(0), (fd,) * MAX_FDS)
    os.close(fd)


WRONG = [
    say_nothing,
    hang_up,
    answer_too_short,
    answer_another,
    answer_as_request,
    answer_of_another_version,
    answer_without_end,
    answer_in_part,
]

AT_START = [
    FrontendRequest.GET_FEATURES,
    FrontendRequest.GET_PROTOCOL_FEATURES,
    FrontendRequest.GET_QUEUE_NUM,
    FrontendRequest.SET_BACKEND_REQ_FD,
    FrontendRequest.GET_CONFIG,
]
BY_DRIVER = [
    FrontendRequest.SET_FEATURES,
    FrontendRequest.SET_STATUS,
    FrontendRequest.GET_STATUS,
    FrontendRequest.SET_MEM_TABLE,
    FrontendRequest.SET_VRING_NUM,
    FrontendRequest.SET_VRING_BASE,
    FrontendRequest.SET_VRING_ADDR,
    FrontendRequest.SET_VRING_KICK,
    FrontendRequest.SET_VRING_CALL,
    FrontendRequest.SET_VRING_ERR,
    FrontendRequest.SET_VRING_ENABLE,
]


@pytest.mark.parametrize("request_", AT_START, ids=lambda request: request.name)
@pytest.mark.parametrize("lie", WRONG)
def test_lie_at_the_start_is_one_line(request_: FrontendRequest, lie: Callable[[Liar, Message], None]) -> None:
    with pytest.raises(PyvmmError) as caught:
        front_end(Liar(lying_to(request_, lie)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("request_", BY_DRIVER, ids=lambda request: request.name)
@pytest.mark.parametrize("lie", [*WRONG, refuse, answer_with_descriptors])
def test_lie_while_the_driver_starts_fails_the_device(
    request_: FrontendRequest, lie: Callable[[Liar, Message], None]
) -> None:
    with driver_of(Liar()) as driver:
        source = source_of(driver)
        source.lie = lying_to(request_, lie)
        try:
            driver.start()
        except AssertionError:
            assert not driver.status & DRIVER_OK  # features refused
        assert driver.needs_reset


@pytest.mark.parametrize("lie", [*WRONG, answer_with_descriptors])
@pytest.mark.parametrize("request_", [FrontendRequest.RESET_DEVICE, FrontendRequest.GET_VRING_BASE])
def test_lie_at_a_reset_keeps_the_driver_from_having_the_device(
    request_: FrontendRequest, lie: Callable[[Liar, Message], None]
) -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        source_of(driver).lie = lying_to(request_, lie)
        driver.reset()
        assert driver.status & lib.VIRTIO_CONFIG_S_FAILED


def source_of(driver: VirtioDriver) -> Liar:
    source = driver.device._source  # type: ignore[attr-defined]
    assert isinstance(source, Liar)
    return source


def test_stalled_back_end_is_given_up_after_its_time() -> None:
    with pytest.raises(PyvmmError, match="does not answer"):
        front_end(Liar(lying_to(FrontendRequest.GET_FEATURES, say_nothing), timeout=0.05))


def test_stalled_back_end_keeps_no_other_waiting() -> None:
    with driver_of(Liar()) as driver:
        asked, gives_up = threading.Event(), threading.Event()

        def stall(liar: Liar, message: Message) -> None:
            asked.set()
            gives_up.wait()

        source_of(driver).lie = lying_to(FrontendRequest.SET_MEM_TABLE, stall)
        turns = 0

        def turn(_: int) -> None:
            nonlocal turns
            turns += 1

        reading, writing = os.pipe()
        os.write(writing, b"x")
        driver.loop.add(reading, turn)
        vcpu = threading.Thread(target=driver.start)
        vcpu.start()
        assert asked.wait(PATIENCE)
        turns = 0
        for _ in range(100):
            driver.loop.run_once(0)
        assert turns == 100
        assert vcpu.is_alive()
        gives_up.set()
        while vcpu.is_alive():
            driver.loop.run_once(0)
        assert driver.needs_reset
        driver.loop.remove(reading)
        os.close(reading)
        os.close(writing)


def test_status_that_refuses_the_features_is_heeded() -> None:
    lie = lying_to(FrontendRequest.GET_STATUS, lambda liar, message: liar.answer(message, pack_u64(3)))
    with driver_of(Liar(lie)) as driver, pytest.raises(AssertionError, match="were refused"):
        driver.start()


def test_old_back_end_without_features_of_the_protocol_works() -> None:
    source = Liar(features=1 << 32)
    with driver_of(source, config_size=0) as driver:
        driver.start()
        assert not driver.needs_reset
        driver.reset()
        assert driver.status == 0
    assert FrontendRequest.SET_VRING_ENABLE not in source.requests
    assert FrontendRequest.GET_PROTOCOL_FEATURES not in source.requests


@pytest.mark.parametrize(
    ("features", "message"),
    [(0, "does not offer VIRTIO_F_VERSION_1"), (1 << 32, "no configuration space")],
)
def test_back_end_that_lacks_something_is_refused(features: int, message: str) -> None:
    with pytest.raises(PyvmmError, match=message):
        front_end(Liar(features=features))


def test_config_is_asked_each_time_where_changes_are_not_told() -> None:
    source = Liar(protocol_features=PROTOCOL_FEATURES & ~ProtocolFeature.BACKEND_REQ.mask)
    with driver_of(source) as driver:
        before = source.requests.count(FrontendRequest.GET_CONFIG)
        driver.read_config(0, 4)
        driver.read_config(0, 4)
        assert source.requests.count(FrontendRequest.GET_CONFIG) == before + 2


@pytest.mark.parametrize(
    "config",
    [
        b"",
        ConfigSpace(0, bytes(15)).pack(),
        ConfigSpace(1, bytes(16)).pack(),
        struct.pack("=III", 0, 16, 0),
        struct.pack("=III", 0, 16, 7) + bytes(16),
        struct.pack("=III", 0xFFFFFFF0, 16, 0) + bytes(16),
    ],
)
def test_wrong_config_is_refused(config: bytes) -> None:
    lie = lying_to(FrontendRequest.GET_CONFIG, lambda liar, message: liar.answer(message, config))
    with pytest.raises(PyvmmError, match="config"):
        front_end(Liar(lie))


@pytest.mark.parametrize(
    ("description", "size", "count"),
    [
        (Inflight(1 << 16, 0, 2, 128), 1 << 15, 1),
        (Inflight(1 << 16, 1 << 15, 2, 128), 1 << 16, 1),
        (Inflight(1 << 63, 1 << 62, 2, 128), 1 << 16, 1),
        (Inflight(1 << 16, 0, 2, 128), 1 << 16, 0),
        (Inflight(1 << 16, 0, 2, 128), 1 << 16, 2),
        (Inflight(0, 0, 2, 128), 1 << 16, 1),
    ],
)
def test_wrong_inflight_buffer_fails_the_device(description: Inflight, size: int, count: int) -> None:
    def lie(liar: Liar, message: Message) -> None:
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, size)
        liar.answer(message, description.pack(), (fd,) * count)
        os.close(fd)

    source = Liar(restartable=True)
    with driver_of(source) as driver:
        source.lie = lying_to(FrontendRequest.GET_INFLIGHT_FD, lie)
        driver.start()
        assert driver.needs_reset


def test_message_that_nobody_asked_fails_the_device() -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        source_of(driver).send(struct.pack("=III", 1, 1, 0))
        driver.run_until(lambda: driver.needs_reset)


@pytest.mark.parametrize("request_", [BackendRequest.IOTLB_MSG, BackendRequest.VRING_HOST_NOTIFIER_MSG, 77])
def test_unknown_request_of_the_back_end_is_answered_with_failure(request_: int) -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        source = source_of(driver)
        fd = os.memfd_create("unwanted")
        source.channel_send(struct.pack("=III", request_, 1 | NEED_REPLY, 4) + bytes(4), (fd,))
        os.close(fd)
        [channel] = source.fds[FrontendRequest.SET_BACKEND_REQ_FD]
        driver.run_until(lambda: len(os.read(channel, 20)) == 20)
        assert not driver.needs_reset


def test_flood_of_config_changes_costs_little() -> None:
    source = Liar()
    with driver_of(source) as driver:
        driver.start()
        before = source.requests.count(FrontendRequest.GET_CONFIG)
        began = time.monotonic()
        for _ in range(1000):
            source.channel_send(struct.pack("=III", BackendRequest.CONFIG_CHANGE_MSG, 1, 0) * 10)
            time.sleep(0.0005)  # gives the device the time to read them all, if it does
        asked = source.requests.count(FrontendRequest.GET_CONFIG) - before
        pauses = (time.monotonic() - began) // front_end_module._CHANNEL_PAUSE + 1
        assert 0 < asked <= front_end_module._CHANNEL_BURST * pauses
        assert not driver.needs_reset


def test_garbage_on_the_channel_fails_the_device() -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        source_of(driver).channel_send(b"\xff" * 64)
        driver.run_until(lambda: driver.needs_reset)


def test_error_of_a_ring_fails_the_device_once(caplog: pytest.LogCaptureFixture) -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        err = source_of(driver).fds[FrontendRequest.SET_VRING_ERR][0]
        for _ in range(1000):
            os.eventfd_write(err, 1)
        driver.run_until(lambda: driver.needs_reset)
        for _ in range(1000):
            os.eventfd_write(err, 1)
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
        driver.start()
        assert not driver.needs_reset


def test_guest_memory_cannot_be_taken_away() -> None:
    with driver_of(Liar()) as driver:
        driver.start()
        fd = source_of(driver).fds[FrontendRequest.SET_MEM_TABLE][0]
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_back_end_does_not_learn_our_addresses() -> None:
    tables = []

    def remember(liar: Liar, message: Message) -> bool:
        if message.request == FrontendRequest.SET_MEM_TABLE:
            tables.append(message.payload)
        return False

    with driver_of(Liar(remember)) as driver:
        driver.start()
        memory = driver.memory
        address = memory.host_address(memory.regions[0])
        assert struct.pack("=Q", address) not in tables[0]


# --- Any lie at any time

payloads = st.one_of(
    st.binary(max_size=64),
    st.integers(0, (1 << 64) - 1).map(pack_u64),
    st.builds(lambda i, n: VringState(i, n).pack(), st.integers(0, 300), st.integers(0, 1 << 17)),
)


@st.composite
def lies(draw: st.DrawFn) -> Callable[[Liar, Message], bool]:
    """One answer."""
    kind = draw(
        st.sampled_from(
            ["truth"] * 12
            + ["wrong"] * 3
            + ["payload"] * 4
            + ["header", "unasked", "channel", "event", "used", "twice"]
        )
    )
    wrong = draw(st.sampled_from([*WRONG, refuse, answer_with_descriptors]))
    payload, count = draw(payloads), draw(st.integers(0, 3))
    header = (draw(st.integers(0, 50)), draw(st.integers(0, 31)), draw(st.integers(0, 5000)))

    def lie(liar: Liar, message: Message) -> bool:
        fd = os.memfd_create("any")
        try:
            if kind == "wrong":
                wrong(liar, message)
                return True
            if kind == "payload":
                liar.answer(message, payload, (fd,) * count)
                return True
            if kind == "header":
                liar.send(struct.pack("=III", *header) + payload, (fd,) * count)
                return True
            if kind == "unasked":
                liar.send(struct.pack("=III", header[0], 1, len(payload)) + payload)
            elif kind == "channel":
                liar.channel_send(struct.pack("=III", header[0] % 6, header[1], len(payload)) + payload, (fd,) * count)
            elif kind == "event":
                for request in (
                    FrontendRequest.SET_VRING_ERR,
                    FrontendRequest.SET_VRING_CALL,
                    FrontendRequest.SET_VRING_KICK,
                ):
                    for event in liar.fds.get(request, ()):
                        os.eventfd_write(event, 1)
            elif kind == "used":
                for memory in liar.fds.get(FrontendRequest.SET_MEM_TABLE, ())[-1:]:
                    os.pwrite(memory, payload * 200, 0)
            elif kind == "twice":
                liar.answer(message, pack_u64(0))
            return False
        finally:
            os.close(fd)

    return lie


STEPS = st.sampled_from(["start", "start", "reset", "read", "write", "kick", "status", "wait", "hostile"])


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """What is logged of thousands of lies is not worth its time."""
    logger = logging.getLogger("pyvmm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    gc.collect()
    yield
    logger.setLevel(level)


@settings(
    max_examples=FUZZ_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    st.lists(lies(), max_size=40),
    st.lists(STEPS, min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from([PROTOCOL_FEATURES, 0, PROTOCOL_FEATURES & ~ProtocolFeature.REPLY_ACK.mask]),
)
@pytest.mark.usefixtures("quiet")
def test_no_lie_ends_more_than_the_device(
    answers: list[Lie], steps: list[str], restartable: bool, protocol_features: int
) -> None:
    queue = list(answers)

    def lie(liar: Liar, message: Message) -> bool:
        return queue.pop(0)(liar, message) if queue else False

    before = len(os.listdir("/proc/self/fd"))
    source = Liar(lie, features=FEATURES, protocol_features=protocol_features, restartable=restartable)
    try:
        device = front_end(source, config_size=16 if protocol_features else 0)
    except PyvmmError:
        device = None
    if device is not None:
        with VirtioDriver(device, size=2 << 20) as driver:
            for step in steps:
                take(driver, step)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def take(driver: VirtioDriver, step: str) -> None:
    """One step of a driver; none of it may raise but by what the driver itself finds wrong."""
    match step:
        case "start":
            try:
                driver.start()
            except AssertionError:
                pass
        case "reset":
            driver.reset()
        case "read":
            driver.read_config(0, 16)
        case "write":
            driver.write_config(3, b"\x55")
        case "kick":
            for ring in driver.rings:
                ring.kick()
        case "status":
            assert driver.interrupt_status < 4
            assert driver.status & ~NEEDS_RESET < 256
            driver.acknowledge(3)
        case "wait":
            time.sleep(0.005)
        case "hostile":
            driver.status = 0xFF
            driver.notify(0)
