"""What an object store can do, and the words for it. Sizes are bytes, times epoch seconds, lifetimes seconds."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the store knows it; ``sha256`` (hex) is ``None`` where the store was never told nor counted it."""

    key: str
    size: int
    modified: float
    sha256: str | None = None


@dataclass(frozen=True)
class PutTarget:
    """Where to send an object: PUT its bytes to ``url``, or POST ``fields`` and a part ``file`` if there are fields."""

    url: str
    fields: Mapping[str, str] | None = None


class ObjectStoreError(Exception):
    """Something about objects that did not work; the text is one sentence that users may see."""


class BadKey(ObjectStoreError, ValueError):
    """The key is none that an object could have; the text goes on from its name, as in "is empty"."""


class NoSuchObject(ObjectStoreError):
    """There is no object of this key."""


class KeyTaken(ObjectStoreError):
    """The key is a folder of other objects, or lies below another object."""


class ChecksumMismatch(ObjectStoreError):
    """What arrived is not what was announced; nothing was kept."""


class NoRoom(ObjectStoreError):
    """The store has no room for this."""


class StoreUnavailable(ObjectStoreError):
    """The store does not answer, or refuses us; trying again later may help."""


Infos = list[ObjectInfo]


class ObjectStore(abc.ABC):
    """Objects by key: text whose parts are parted by ``/`` (``keys`` says which there are).

    A prefix means a folder: ``list("uploads/ab")`` is what is below ``uploads/ab/``, never ``uploads/abc/x``.
    Every method may raise :class:`BadKey`, and :class:`StoreUnavailable` if it has to ask.
    """

    @abc.abstractmethod
    def url_to_get(self, key: str, lifetime_s: float, *, to_node: bool = False) -> str:
        """Return a URL that gives the object without a token for so long; ``to_node``: a node asks, no user."""

    @abc.abstractmethod
    def url_to_put(self, key: str, lifetime_s: float, sha256: str | None = None, *, to_node: bool = False) -> PutTarget:
        """Return where to send the object within so long; with ``sha256`` (hex) nothing else is taken."""

    @abc.abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, ``None`` if there is none."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Infos:
        """Return all objects below a folder, by key; without their checksums."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; it is no error if there is none."""

    @abc.abstractmethod
    def delete_below(self, prefix: str) -> None:
        """Delete all objects below a folder."""

    @abc.abstractmethod
    def open_read(self, key: str) -> BinaryIO:
        """Open an object for reading, seekable; raise :class:`NoSuchObject`."""

    @abc.abstractmethod
    def write(self, key: str, data: bytes | BinaryIO, sha256: str | None = None) -> ObjectInfo:
        """Store an object whole or not at all, in place of what was there; a file is read from where it stands.

        Raises :class:`ChecksumMismatch`, :class:`KeyTaken` and :class:`NoRoom`.
        """

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on, all without; empty past the end."""
        with self.open_read(key) as source:
            source.seek(offset)
            return source.read(-1 if length is None else length)
