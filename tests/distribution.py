"""A real image registry with a password: the CNCF's distribution, as Debian's docker-registry has it."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from airflow_prominence.agent.images.build import ImageConfig, image_config
from tests.runtimes.registry import OCI, digest
from tests.webdav import IN_CI, INSTALL


def need_distribution() -> None:
    """End the test where there is no such registry; in CI it is installed."""
    if IN_CI and os.geteuid() == 0:
        subprocess.run(["bash", str(INSTALL), "registry", "/nonexistent"], check=True)
    if shutil.which("docker-registry") is None:
        (pytest.fail if IN_CI else pytest.skip)("docker-registry is not installed")


class Distribution:
    """One registry on the loopback, over plain HTTP, in which one user may push and pull."""

    def __init__(self, folder: Path, user: str, password: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self._auth = (user, password)
        self._log = folder / "registry.log"
        (folder / "htpasswd").write_text(f"{user}:{_bcrypt(password)}\n")
        config = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}},
        }
        self._config = folder / "config.yml"
        self._config.write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(self._config)], stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}/v2/", trust_env=False).status_code == 401
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def push(self, name: str, config: ImageConfig, layers: list[bytes]) -> str:
        """Add an image as `repository:tag`; returns its full name."""
        repository, _, tag = name.partition(":")
        document = image_config(config, layers)
        packed = [gzip.compress(data, mtime=0) for data in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": {"mediaType": OCI + "config.v1+json", "digest": digest(document), "size": len(document)},
            "layers": [
                {"mediaType": OCI + "layer.v1.tar+gzip", "digest": digest(blob), "size": len(blob)} for blob in packed
            ],
        }
        with httpx.Client(base_url=f"http://{self.host}", auth=self._auth, trust_env=False) as client:
            for blob in [document, *packed]:
                begun = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
                url = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest(blob)})
                client.put(url, content=blob).raise_for_status()
            kind = {"Content-Type": OCI + "manifest.v1+json"}
            client.put(f"/v2/{repository}/manifests/{tag}", json=manifest, headers=kind).raise_for_status()
        return f"{self.host}/{name}"

    def pulls(self, repository: str) -> int:
        """How often its manifests have been given to somebody."""
        needles = (f"/v2/{repository}/manifests/", "GET", " 200 ")
        return sum(all(needle in line for needle in needles) for line in self._log.read_text().splitlines())


def _bcrypt(password: str) -> str:
    """As the registry wants it; Python has no function for it any more, the system's C library has."""
    salt = "$2b$05$" + secrets.token_hex(11)
    script = "chomp(my $word = <STDIN>); print crypt($word, $ARGV[0])"
    done = subprocess.run(["perl", "-e", script, salt], input=password, capture_output=True, text=True, check=True)
    return done.stdout
