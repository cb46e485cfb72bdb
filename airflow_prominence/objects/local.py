"""Objects in a folder that the API servers share: the embedded default. The API serves them at ``/objects``."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

from airflow_prominence.objects.folder import Folder, NotAFile
from airflow_prominence.objects.incoming import Incoming, checksum_of
from airflow_prominence.objects.keys import check_key
from airflow_prominence.objects.model import Infos, NoRoom, NoSuchObject, ObjectInfo, ObjectStore, PutTarget
from airflow_prominence.objects.signing import Signer

_PIECE = 1 << 20
#: Left free on the disk, which may be that of the database or of the jobs.
_RESERVE = 256 << 20


class LocalStore(ObjectStore):
    """Files below ``<root>/objects``, named like their keys; what is on its way in is in ``<root>/incoming``."""

    def __init__(self, root: Path, signer: Signer, public_url: str, node_url: str) -> None:
        self.root = root
        self.signer = signer
        self._base = {False: f"{public_url}/objects/", True: f"{node_url}/objects/"}
        self._objects, self._waiting = Folder(root / "objects"), Folder(root / "incoming")
        self._objects.make()
        self._waiting.make()

    def url_to_get(self, key: str, lifetime_s: float, *, to_node: bool = False) -> str:
        """Return a signed URL of the API; it is good for HEAD, too."""
        return self._base[to_node] + self.signer.path("GET", key, lifetime_s)

    def url_to_put(self, key: str, lifetime_s: float, sha256: str | None = None, *, to_node: bool = False) -> PutTarget:
        """Return a signed URL of the API for a PUT of the raw bytes."""
        return PutTarget(self._base[to_node] + self.signer.path("PUT", key, lifetime_s, sha256))

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, its checksum included where the file system keeps it."""
        try:
            with self.open_read(key) as file:
                return self.info_of(key, file)
        except NoSuchObject:
            return None

    def list(self, prefix: str) -> Infos:
        """Return all objects below a folder."""
        found = self._objects.files(check_key(prefix.rstrip("/")))
        return [ObjectInfo("/".join(parts), facts.st_size, facts.st_mtime) for parts, facts in found]

    def delete(self, key: str) -> None:
        """Delete an object; who reads it at the moment reads it to its end."""
        self._objects.remove(check_key(key))

    def delete_below(self, prefix: str) -> None:
        """Delete all objects below a folder, one by one."""
        for info in self.list(prefix):
            self._objects.remove(tuple(info.key.split("/")))

    def open_read(self, key: str) -> BinaryIO:
        """Open an object; raise :class:`NoSuchObject`."""
        parts = check_key(key)
        try:
            return os.fdopen(self._objects.open(parts), "rb")
        except (FileNotFoundError, NotAFile):
            raise NoSuchObject("There is no such object") from None

    @staticmethod
    def info_of(key: str, file: BinaryIO) -> ObjectInfo:
        """Return what is known of an open object."""
        facts = os.fstat(file.fileno())
        return ObjectInfo(key, facts.st_size, facts.st_mtime, checksum_of(file.fileno()))

    def write(self, key: str, data: bytes | BinaryIO, sha256: str | None = None) -> ObjectInfo:
        """Store an object."""
        with self.receive(key) as incoming:
            if isinstance(data, bytes):
                incoming.write(data)
            else:
                while piece := data.read(_PIECE):
                    incoming.write(piece)
            return incoming.keep(sha256)

    def receive(self, key: str, size: int = 0) -> Incoming:
        """Begin to store an object of about so many bytes; raise :class:`NoRoom` if they will not fit."""
        parts = check_key(key)
        if shutil.disk_usage(self._waiting.root).free < size + _RESERVE:
            raise NoRoom(f"The object storage has no room for {size} bytes")
        return Incoming(self._waiting, self._objects, key, parts)

    def sweep(self, age_s: float) -> int:
        """Remove what has been on its way in without a byte for so long: a server was killed. Return how many."""
        old = [parts for parts, facts in self._waiting.files(()) if facts.st_mtime < time.time() - age_s]
        for parts in old:
            self._waiting.remove(parts)
        return len(old)
