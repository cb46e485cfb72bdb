"""The reports of one lease on disk: appended and synced by the runner, read by whoever delivers them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

STREAMS = ("stdout", "stderr")


def stream_path(spool: str, stream: str) -> str:
    return os.path.join(spool, stream)


def reports_path(spool: str) -> str:
    return os.path.join(spool, "reports.jsonl")


def swept_path(spool: str) -> str:
    return os.path.join(spool, "swept")


def mark_swept(spool: str) -> None:
    """Nothing of the job but its spool is left on the node, so its end may be told."""
    os.close(os.open(swept_path(spool), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def read(spool: str) -> list[dict[str, Any]]:
    """All whole reports; the last line may be one that a crash has cut short."""
    try:
        with open(reports_path(spool), "rb") as handle:
            lines = handle.read().split(b"\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1] if line]


def ended(spool: str) -> bool:
    """Whether the job's end has been written, from when on nothing but delivery is left to do."""
    reports = read(spool)
    return bool(reports) and reports[-1]["kind"] == "end"


class Writer:
    """Appends reports; there is one writer a lease, so the sequence numbers are its own count."""

    def __init__(self, spool: str) -> None:
        os.makedirs(spool, mode=0o700, exist_ok=True)
        for stream in STREAMS:
            os.close(os.open(stream_path(spool, stream), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        self._seq = len(read(spool))
        self._fd = os.open(reports_path(spool), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, kind: str, data: dict[str, Any] | None = None) -> None:
        """Append and sync; once this returns the report will reach the API."""
        self._seq += 1
        report = {"seq": self._seq, "time": time.time(), "kind": kind, "data": _storable(data or {})}
        os.write(self._fd, json.dumps(report, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._fd)


def _storable(value: Any) -> Any:
    """A report that a database can't hold would be refused for ever, and job's words may be in it: NUL, half a pair."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def tail(spool: str, size: int = 2048) -> str:
    """The last lines of the output: those of stderr and, where room is left, of stdout before them."""
    found = b""
    for stream in reversed(STREAMS):
        room = size - len(found)
        if room <= 0:
            break
        try:
            with open(stream_path(spool, stream), "rb") as handle:
                length = handle.seek(0, os.SEEK_END)
                handle.seek(max(0, length - room))
                found = handle.read() + found
        except FileNotFoundError:
            continue
    return found.decode("utf-8", "replace")[-size:]
