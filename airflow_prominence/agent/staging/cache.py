"""A node's artifacts, each fetched and unpacked once: for whoever asks, and however many at once.

Nobody but the agent can enter these folders. What belongs to a user's own uploads has that user in its key; anything
else is given out only after its server has said to this asker's very URL that it is still the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Callable, Iterator

from .. import linux
from ..images.tree import remove_tree
from ..paths import read_json, write_atomic
from .download import Version
from .tree import FOLDER

_RECORD = "artifact.json"
_DATA = "data"


@dataclass(frozen=True)
class Facts:
    """What is known of a kept artifact: its name for messages, the bytes that were fetched and what they became."""

    name: str
    version: Version
    sha256: str | None
    fetched: int
    size: int
    files: int
    left_out: list[str]
    boot: str  # what a machine that stopped had not yet written to its disk is no artifact

    def to_json(self) -> dict[str, Any]:
        found = dict(self.__dict__)
        found["version"] = dict(self.version.__dict__)
        return found

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Facts:
        return cls(**dict(raw, version=Version(**raw["version"])))


class Kept:
    """An artifact that is here, safe from eviction until closed."""

    def __init__(self, folder: str, lock: IO[bytes], facts: Facts) -> None:
        self._folder = folder
        self._lock = lock
        self.facts = facts

    def open(self) -> int:
        """A descriptor of the folder that holds what the job gets."""
        return os.open(os.path.join(self._folder, _DATA), FOLDER)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Kept:  # noqa: PYI034 - Self is younger than Python 3.8
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class ArtifactCache:
    """Folders below `root`: `entries/<key>`, `locks/`, `tmp/`."""

    def __init__(self, root: str, keep_bytes: int) -> None:
        self.root = root
        self.keep_bytes = keep_bytes
        for folder in ("", "entries", "locks", "tmp"):
            path = os.path.join(root, folder)
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o700)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only one who looks for this artifact; `waiting` is called if another one is at it."""
        with open(os.path.join(self.root, "locks", key), "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def find(self, key: str) -> Kept | None:
        folder = self._entry(key)
        record = os.path.join(folder, _RECORD)
        try:
            lock = open(record, "rb")
        except FileNotFoundError:
            return None
        fcntl.flock(lock, fcntl.LOCK_SH)
        raw = read_json(record) if os.fstat(lock.fileno()).st_nlink else None
        facts = None if raw is None else Facts.from_json(raw)
        if facts is None or facts.boot != linux.boot_id():
            lock.close()
            return None
        os.utime(record)
        return Kept(folder, lock, facts)

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Workplace]:
        """A folder to make an artifact in; whatever of it was not kept goes, at the latest with `sweep`."""
        path = tempfile.mkdtemp(dir=os.path.join(self.root, "tmp"))
        held = os.open(path, FOLDER)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Workplace(path)
        finally:
            remove_tree(path)
            os.close(held)

    def keep(self, key: str, made: Workplace, facts: Facts) -> Kept:
        """Put what a workplace holds in the place of what was there; the caller holds the key's lock."""
        write_atomic(os.path.join(made.path, _RECORD), json.dumps(facts.to_json()), sync=False)
        self._remove(key, wait=True)
        self._discard(self._entry(key))
        os.rename(made.path, self._entry(key))
        os.mkdir(made.path, 0o700)  # which its owner removes
        kept = self.find(key)
        if kept is None:
            raise FileNotFoundError(f"artifact {facts.name} vanished from the node's cache")
        return kept

    def trim(self, keep_bytes: int | None = None) -> list[str]:
        """Sweep, and remove the artifacts used longest ago until the rest fits; the names of those that went."""
        with open(os.path.join(self.root, "locks", "trim"), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return []  # somebody on this node is at it already
            self._sweep()
            return self._evict(self.keep_bytes if keep_bytes is None else keep_bytes)

    def make_room(self, size: int) -> None:
        """Remove artifacts until the file system has so much free, or none is left."""
        space = os.statvfs(self.root)
        lacking = size - space.f_bavail * space.f_frsize
        if lacking > 0:
            self.trim(max(0, self._size() - lacking))

    def _entries(self) -> list[tuple[float, str, int, str]]:
        found = []
        for key in os.listdir(os.path.join(self.root, "entries")):
            record = os.path.join(self._entry(key), _RECORD)
            try:
                raw = read_json(record)
                if raw is not None:
                    found.append((os.stat(record).st_mtime, key, int(raw["size"]), str(raw["name"])))
            except (OSError, ValueError, KeyError):
                continue
        return sorted(found)

    def _size(self) -> int:
        return sum(size for _, _, size, _ in self._entries())

    def _evict(self, keep_bytes: int) -> list[str]:
        entries = self._entries()
        total = sum(size for _, _, size, _ in entries)
        gone = []
        for _, key, size, name in entries:
            if total <= keep_bytes:
                break
            if self._remove(key, wait=False):
                total -= size
                gone.append(name)
        return gone

    def _remove(self, key: str, wait: bool) -> bool:
        folder = self._entry(key)
        try:
            lock = open(os.path.join(folder, _RECORD), "rb")
        except FileNotFoundError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                return False  # in use
            if os.fstat(lock.fileno()).st_nlink == 0:
                return False
            # The record goes first: without it nobody takes the rest for an artifact.
            os.unlink(os.path.join(folder, _RECORD))
            self._discard(folder)
        return True

    def _discard(self, folder: str) -> None:
        """Remove an entry's folder, at once as all others see it."""
        with contextlib.suppress(FileNotFoundError), self.workplace() as doomed:
            os.rename(folder, os.path.join(doomed.path, "old"))

    def _sweep(self) -> None:
        """Remove what killed fetches left behind, which nobody holds, and what an earlier boot did."""
        boot = linux.boot_id()
        for key in os.listdir(os.path.join(self.root, "entries")):
            raw = read_json(os.path.join(self._entry(key), _RECORD))
            if raw is None:
                self._discard(self._entry(key))
            elif raw.get("boot") != boot:
                self._remove(key, wait=False)
        folder = os.path.join(self.root, "tmp")
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            try:
                fd = os.open(path, FOLDER)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # one that is being made is not held yet
                if time.time() - os.fstat(fd).st_mtime > 60:
                    remove_tree(path)
            except OSError:
                continue
            finally:
                os.close(fd)

    def _entry(self, key: str) -> str:
        return os.path.join(self.root, "entries", key)


@dataclass(frozen=True)
class Workplace:
    """Where one artifact is made: `data` becomes what jobs get, `packed` is what came over the network."""

    path: str

    @property
    def data(self) -> str:
        return os.path.join(self.path, _DATA)

    @property
    def packed(self) -> str:
        return os.path.join(self.path, "packed")
