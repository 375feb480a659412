"""A guest that breaks the balloon's rings does not end the host's control of it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm_virtio_balloon import BalloonOptions
from pyvmm_virtio_balloon.device import Balloon


def test_the_control_socket_works_while_the_device_has_failed_and_after_the_reset(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with VirtioDriver(Balloon(BalloonOptions(socket=path))) as driver, socket.socket(socket.AF_UNIX) as old:
        driver.start()
        old.connect(str(path))
        assert _ask(driver, old) == {"target": 4 << 20, "actual": 0}
        driver.rings[0].make_available(0xFFFF)
        driver.rings[0].force_kick()
        driver.run_until(lambda: driver.needs_reset)
        for reset in (lambda: None, driver.reset, driver.start):
            reset()
            with socket.socket(socket.AF_UNIX) as new:
                new.connect(str(path))
                for client in (old, new):
                    assert _ask(driver, client) == {"target": 4 << 20, "actual": 0}


def _ask(driver: VirtioDriver, client: socket.socket) -> object:
    client.setblocking(False)
    client.send(b"size 4M\n")
    answer = b""

    def answered() -> bool:
        nonlocal answer
        try:
            answer += client.recv(4096)
        except BlockingIOError:
            pass
        return answer.endswith(b"\n")

    driver.run_until(answered)
    return json.loads(answer)
