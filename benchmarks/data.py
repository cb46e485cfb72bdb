"""What an upload and a download cost beside a copy of the same file, in turns, so that other load strikes both."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.meters import Row, timed
from tests.integration.stacks import Stack

SIZE = 256 << 20
RUNS = 5


def transfers(stack: Stack) -> list[Row]:
    """Upload and download of a file, by curl and by the real client: speeds beside `cp` and curl elsewhere."""
    with tempfile.TemporaryDirectory(prefix="prominence-bench-data-") as name, _plain_server(Path(name)) as plain:
        folder = Path(name)
        (folder / "file").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))

        def shell(command: str) -> None:
            subprocess.run(command, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        def client() -> None:
            done = stack.run_cli("upload", "--name", "bench", "--filename", "file", cwd=folder)
            assert done.stdout == "Success\n", done

        with stack.client() as session:
            to_put = session.post("/data/upload", json={"filename": "bench"}).json()["url"]
        works: dict[str, Callable[[], None]] = {
            "cp on disk": lambda: shell("cp file copy && sync copy"),
            "put": lambda: shell(f"curl -fsS -T file '{to_put}'"),
            "client": client,
            "cp": lambda: shell("cp file copy"),
            "curl": lambda: shell(f"curl -fsS -o copy '{plain}/file'"),
            "get": lambda: shell(f"curl -fsS -o copy '{_to_get(stack)}'"),
        }
        took: dict[str, list[float]] = {what: [] for what in works}
        for _ in range(RUNS):
            for what, work in works.items():
                took[what].append(timed(work))
        with stack.client() as session:
            session.delete("/data/bench")
    middle = {what: statistics.median(seconds) for what, seconds in took.items()}

    def row(what: str, ours: str, floor: str) -> Row:
        speed = (SIZE >> 20) / middle[ours]
        return Row(what, f"{middle[floor] / middle[ours]:.2f} of its speed ({speed:.0f} MB/s)", "-")

    return [
        row(f"upload of {SIZE >> 20} MB beside cp and sync", "put", "cp on disk"),
        row("  by the client, which counts the checksum first", "client", "cp on disk"),
        row(f"download of {SIZE >> 20} MB beside cp", "get", "cp"),
        row("  beside curl from a plain Python server", "get", "curl"),
    ]


def _to_get(stack: Stack) -> str:
    from airflow_prominence.objects import store_of
    from airflow_prominence.objects.settings import InFolder, StorageSettings

    place = InFolder(stack.places.objects)
    store = store_of(StorageSettings(place, "", stack.url, stack.url, stack.secrets.internal_secret))
    return store.url_to_get("uploads/demo/bench", 600)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def _plain_server(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
