"""A real S3 server for tests: SeaweedFS, with a key that may do everything and one that may only read."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

KEY, SECRET = "testkey", "testsecret"
READ_KEY, READ_SECRET = "readkey", "readsecret"
_PARTS = ("master", "volume", "filer", "s3")
_IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READ_KEY, "secretKey": READ_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
}


class S3Server:
    """One server, on the loopback or another address of this machine, with a folder of its own."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._address = address
        self._folder = Path(tempfile.mkdtemp(prefix="prominence-s3-"))
        base = random.randrange(31000, 32700, 20)
        # All of them below those that the kernel gives to whoever asks for any.
        self._ports = {name: base + offset for offset, name in enumerate(_PARTS)}
        self._grpc = {name: base + 10 + offset for offset, name in enumerate(_PARTS)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self._address}:{self._ports['s3']}"

    def start(self) -> None:
        """Start it and wait until it stores something."""
        config = self._folder / "s3.json"
        config.write_text(json.dumps(_IDENTITIES), encoding="utf-8")
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        ports = self._ports
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("weed")),
                    *("server", f"-dir={data}", f"-ip={self._address}", f"-ip.bind={self._address}"),
                    *(f"-master.port={ports['master']}", f"-volume.port={ports['volume']}"),
                    *("-filer", f"-filer.port={ports['filer']}", "-s3", f"-s3.port={ports['s3']}"),
                    *(f"-{name}.port.grpc={port}" for name, port in self._grpc.items()),
                    *(
                        f"-s3.config={config}",
                        "-s3.port.iceberg=0",
                        "-s3.port.lance=0",
                        # The only one elects itself; by default it waits 10 to 20 s for others when it starts again.
                        "-master.electionTimeout=1s",
                        "-master.volumeSizeLimitMB=256",
                        "-volume.max=20",
                    ),
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._serves():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the S3 server did not become ready"
            time.sleep(0.3)

    def _serves(self) -> bool:
        try:
            refused = httpx.get(self.endpoint, trust_env=False, timeout=5).status_code == 403
            master = f"http://{self._address}:{self._ports['master']}"
            assigned = httpx.get(f"{master}/dir/assign", trust_env=False, timeout=5)
        except httpx.HTTPError:
            return False
        return refused and "fid" in assigned.text

    def stop(self) -> None:
        """End it; what it has stored stays until :meth:`remove`."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def connection(self, key: str = KEY, secret: str = SECRET) -> dict[str, Any]:
        """What an Airflow connection of type ``aws`` to it consists of."""
        extra = {
            "endpoint_url": self.endpoint,
            "region_name": "us-east-1",
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }
        return {"conn_type": "aws", "login": key, "password": secret, "extra": extra}

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self._client().create_bucket(Bucket=name)

    def read(self, bucket: str, key: str) -> bytes:
        """What the server itself keeps under a key."""
        found: bytes = self._client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
