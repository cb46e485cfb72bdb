"""A real WebDAV server with basic authentication, as a process of its own; and what mounting it takes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from airflow_prominence.agent.storage import fuse
from airflow_prominence.agent.storage.model import Unmountable

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
INSTALL = Path(__file__).parent / "runtimes" / "install.sh"
USER = "dav user"
PASSWORD = "pa'ss \"w$ord\\ ü"


def need_mounts() -> None:
    """End the test where nothing can be mounted; in CI what is missing is installed."""
    if IN_CI and os.geteuid() == 0:
        subprocess.run(["bash", str(INSTALL), "storage", "/nonexistent"], check=True)
    try:
        fuse.check()
        if fuse.find("rclone") is None:
            raise Unmountable("rclone is not installed")
    except Unmountable as error:
        (pytest.fail if IN_CI else pytest.skip)(str(error))


class WebDav:
    """wsgidav on a folder, below a path of its own as Nextcloud's; `port` stays the same when it is started again."""

    def __init__(self, folder: Path, path: str = "/dav", address: str = "127.0.0.1") -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://{address}:{self.port}{path}"
        self._log = folder / "webdav.log"
        self._config = folder / "webdav.json"
        self._config.write_text(
            json.dumps(
                {
                    "host": address,
                    "port": self.port,
                    "provider_mapping": {path: str(self.data)},
                    "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
                    "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
                    "property_manager": True,
                    "lock_storage": True,
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "wsgidav.server.server_cli", "--config", str(self._config), "--server", "cheroot"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 401
        except OSError:
            return False

    def send(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    def kill(self) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def empty(self) -> None:
        """Remove what is on it."""
        shutil.rmtree(self.data)
        self.data.mkdir()

    def storage(self, mountpoint: str = "/data", **changes: str) -> dict[str, object]:
        """The `storage` of an assignment."""
        account = {"url": self.url, "username": USER, "password": PASSWORD} | changes
        return {"type": "webdav", "mountpoint": mountpoint, "webdav": account}
