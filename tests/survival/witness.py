"""Side effects of jobs, counted outside our tables: jobs connect to this witness, which writes down what they say."""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from airflow_prominence.agent.images.build import ImageConfig, layer, write_archive
from airflow_prominence.agent.images.demo import REQUIRED, base_entries, host_entries

#: An image with this machine's bash, whose /dev/tcp lets a job speak to the witness.
WITNESS_IMAGE = "prominence/witness:latest"


def build_witness_image(path: Path) -> None:
    """Write the image's archive."""
    config = ImageConfig(cmd=["bash"], env={"PATH": "/usr/bin:/bin"})
    write_archive(str(path), [WITNESS_IMAGE], config, [layer(base_entries() + host_entries([*REQUIRED, "bash"]))])


class Witness:
    """A TCP server on loopback; every line it gets is appended to a file before it is answered."""

    def __init__(self, book: Path) -> None:
        self.book = book
        book.touch()
        lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    with lock, book.open("ab") as file:
                        file.write(line)
                    self.wfile.write(b"noted\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heard(self) -> Counter[str]:
        """Return how often each line was said."""
        return Counter(self.book.read_text().splitlines())

    def says(self, word: str) -> str:
        """Shell text by which a job tells the witness ``<word> <its name> <its id>`` and waits for the answer."""
        return f"exec 3<>/dev/tcp/127.0.0.1/{self.port}; echo {word} $PROMINENCE_JOB_ID >&3; read -r a <&3; exec 3>&-"

    def job(self, seconds: float, name: str = "witnessed", **changes: Any) -> dict[str, Any]:
        """Return a job that says start, writes a line a second for so long, and says end."""
        lines = f"for i in $(seq {max(1, int(seconds))}); do echo line $i; sleep 1; done"
        script = f"{self.says('start')}; {lines}; {self.says('end')}"
        document: dict[str, Any] = {
            "name": name,
            "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
            "tasks": [{"image": WITNESS_IMAGE, "runtime": "singularity", "cmd": f"bash -c '{script}'"}],
        }
        document.update(changes)
        return document
