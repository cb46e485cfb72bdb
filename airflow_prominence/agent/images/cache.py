"""A node's images: each unpacked once as an immutable root file system, whoever asks and however many at once."""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Tuple

from .fetch import Fetch, identity, shown
from .model import Image, PullError, Wanted
from .sources import PUBLIC, Sources
from .tree import change_owner, copy_tree, remove_tree

_DONE = "image.json"
Log = Callable[[str], None]


class ImageCache:
    """Folders below `root`: `images/<sha256 of the configuration>`, `names/` (what a name was found to be), `locks/`.

    An image is in use, and safe from `evict`, for as long as the ImageCache that gave it lives: a shared lock is held.
    With `owner` (root only) files belong to that uid and gid, so that a job with this uid may write in an overlay.
    """

    def __init__(
        self,
        root: str,
        images_dir: Optional[str] = None,
        sources: Sources = PUBLIC,
        owner: Optional[Tuple[int, int]] = None,
        limit_bytes: int = 200 * 10**9,
    ) -> None:
        self.root = os.path.abspath(root)
        self.images_dir = images_dir
        self._sources = sources
        self._owner = owner
        self._limit_bytes = limit_bytes
        self._held: Dict[str, IO[bytes]] = {}
        for folder in ("images", "names", "locks", "tmp"):
            os.makedirs(os.path.join(self.root, folder), exist_ok=True)
            os.chmod(os.path.join(self.root, folder), 0o755)
        os.chmod(self.root, 0o755)

    def get(self, wanted: Wanted, log: Log) -> Tuple[Image, str]:
        """The image and `completed` (fetched now) or `cached`. Raises PullError."""
        try:
            try:
                return self._fetch(wanted, log)
            except OSError as error:
                gone = self.evict(0) if error.errno == errno.ENOSPC else []
                if not gone:
                    raise
                log(f"the node's disk is full: {len(gone)} images that nobody uses were removed")
                return self._fetch(wanted, log)
        except OSError as error:
            raise PullError(f"image: {shown(wanted)} could not be stored on the node ({error})") from error

    def _fetch(self, wanted: Wanted, log: Log) -> Tuple[Image, str]:
        name = "name-" + _key(identity(wanted))
        with self._lock(name, log, f"{shown(wanted)} is being pulled by another job, waiting"):
            return Fetch(self, wanted, self._sources, self.images_dir, self._limit_bytes, log).run()

    def held(self, sha256: str, name: str) -> Optional[Image]:
        """The image if it is here, from now on safe from eviction."""
        folder = self._folder(sha256)
        if sha256 not in self._held:
            try:
                lock = open(os.path.join(folder, _DONE), "rb")
            except FileNotFoundError:
                return None
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock.fileno()).st_nlink == 0 or not os.path.exists(os.path.join(folder, _DONE)):
                lock.close()
                return None
            self._held[sha256] = lock
        done = os.path.join(folder, _DONE)
        os.utime(done)
        with open(done, encoding="utf-8") as file:
            config: Dict[str, Any] = json.load(file)["config"]
        return Image(name, os.path.join(folder, "rootfs"), sha256, config)

    def close(self) -> None:
        """Say that no image is in use any more."""
        for lock in self._held.values():
            lock.close()
        self._held.clear()

    def store(self, sha256: str, name: str, config: Dict[str, Any], unpack: Callable[[str], int], log: Log) -> Image:
        """Make the image with `unpack(rootfs)`, which returns its size, unless it is here already."""
        with self._lock("image-" + sha256, log, f"{name} is being unpacked by another job, waiting"):
            have = self.held(sha256, name)
            if have is not None:
                return have
            work = self.temporary()
            try:
                rootfs = os.path.join(work, "rootfs")
                os.mkdir(rootfs)
                size = unpack(rootfs)
                if self._owner is not None and os.geteuid() == 0:
                    change_owner(rootfs, self._owner)
                write_json(os.path.join(work, _DONE), {"config": config, "size": size, "name": name})
                os.chmod(work, 0o755)
                folder = self._folder(sha256)
                remove_tree(folder)
                os.rename(work, folder)
            finally:
                remove_tree(work)
            made = self.held(sha256, name)
        if made is None:
            raise PullError(f"image: {name} vanished from the node's cache")
        return made

    def temporary(self) -> str:
        return tempfile.mkdtemp(dir=os.path.join(self.root, "tmp"))

    def named(self, name: str) -> Dict[str, Any]:
        """What is known of a name: sha256, when it was checked, and what the source said of its version."""
        try:
            with open(os.path.join(self.root, "names", _key(name)), encoding="utf-8") as file:
                found = json.load(file)
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, name: str, facts: Dict[str, Any]) -> None:
        write_json(os.path.join(self.root, "names", _key(name)), dict(facts, time=time.time()))

    def trim(self, keep_bytes: int) -> List[str]:
        """Sweep and evict, unless somebody on this node is at it already; the names of the images that went."""
        with open(os.path.join(self.root, "locks", "trim"), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return []
            self.sweep()
            return self.evict(keep_bytes)

    def evict(self, keep_bytes: int) -> List[str]:
        """Remove the images used longest ago until the rest fits `keep_bytes`; those in use stay. Their names."""
        entries = []
        for sha256 in os.listdir(os.path.join(self.root, "images")):
            done = os.path.join(self._folder(sha256), _DONE)
            try:
                with open(done, encoding="utf-8") as file:
                    document = json.load(file)
                # a copy made for a uid (owned_copy) is as large again
                trees = sum(1 for entry in os.scandir(self._folder(sha256)) if entry.is_dir(follow_symlinks=False))
                size = int(document["size"]) * trees
                entries.append((os.stat(done).st_mtime, sha256, size, str(document["name"])))
            except (OSError, ValueError, KeyError):
                continue
        total = sum(entry[2] for entry in entries)
        gone = []
        for _, sha256, size, name in sorted(entries):
            if total <= keep_bytes:
                break
            if self._remove(sha256):
                total -= size
                gone.append(name)
        return gone

    def sweep(self, older_than_s: float = 86400.0) -> None:
        """Remove what killed pulls left behind."""
        folder = os.path.join(self.root, "tmp")
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            try:
                made_at = os.lstat(path).st_mtime
            except FileNotFoundError:
                continue  # its pull has just ended
            if time.time() - made_at > older_than_s:
                remove_tree(path)

    def _remove(self, sha256: str) -> bool:
        folder = self._folder(sha256)
        try:
            lock = open(os.path.join(folder, _DONE), "rb")
        except FileNotFoundError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            # The record goes first: without it nobody takes the rest for an image.
            os.unlink(os.path.join(folder, _DONE))
        doomed = self.temporary()
        os.rename(folder, os.path.join(doomed, "image"))
        remove_tree(doomed)
        return True

    def _folder(self, sha256: str) -> str:
        return os.path.join(self.root, "images", sha256)

    @contextmanager
    def _lock(self, name: str, log: Log, waiting: str) -> Iterator[None]:
        with open(os.path.join(self.root, "locks", name), "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                log(waiting)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def owned_copy(image: Image, uid: int, gid: int) -> str:
    """A root file system of this image whose files belong to `uid`: the image's own, or a copy made once beside it."""
    if os.geteuid() != 0 or os.lstat(image.path).st_uid == uid:
        return image.path
    path = f"{image.path}.{uid}"
    with open(path + ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(path):
            partial = path + ".tmp"
            remove_tree(partial)
            copy_tree(image.path, partial, (uid, gid))
            os.rename(partial, path)
    return path


def write_json(path: str, document: Dict[str, Any]) -> None:
    write_text(path, json.dumps(document))


def write_text(path: str, text: str) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    partial = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
