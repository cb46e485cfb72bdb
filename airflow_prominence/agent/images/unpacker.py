"""From layers or an image file to an image in the node's cache, whatever kind of file it is."""

import hashlib
import json
import os
from typing import IO, TYPE_CHECKING, Callable, Iterator, Optional

from . import sif
from .archive import Archive, ArchivedImage
from .model import SINGULARITY, Image, PullError
from .squashfs import Squashfs
from .tree import remove_tree
from .unpack import Budget, add_mountpoints, unpack_layer

if TYPE_CHECKING:
    from .cache import ImageCache


class Unpacker:
    """Stores the image called `name` (as messages may show it) in the cache, if it is not there yet."""

    def __init__(self, cache: "ImageCache", name: str, limit_bytes: int, log: Callable[[str], None]) -> None:
        self._cache = cache
        self._name = name
        self._limit = limit_bytes
        self._log = log

    def layers(self, config: bytes, layers: Iterator[IO[bytes]]) -> Image:
        """An image by its configuration and its layers in their order."""
        try:
            diff_ids = [str(item) for item in json.loads(config)["rootfs"]["diff_ids"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PullError(f"image: {self._name} has a configuration of an unsupported kind") from error

        def unpack(rootfs: str) -> int:
            budget = Budget(self._limit)
            count = 0
            for stream in layers:
                with stream:
                    if count == len(diff_ids):
                        raise PullError(f"image: {self._name} has more layers than its configuration names")
                    # Checked against the configuration, since that is the cache's key: no image can pose as another.
                    unpack_layer(stream, rootfs, budget, diff_ids[count])
                count += 1
            if count != len(diff_ids):
                raise PullError(f"image: {self._name} has fewer layers than its configuration names")
            add_mountpoints(rootfs)
            return budget.used

        document = json.loads(config).get("config") or {}
        # A name of ours that no image may take for itself: what has it is started by its own scripts.
        document.pop(SINGULARITY, None)
        return self._cache.store(hashlib.sha256(config).hexdigest(), self._name, document, unpack, self._log)

    def file(self, path: str, sha256: str) -> Image:
        """The one image in a file with this checksum: a Singularity image, or an archive."""
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            found = sif.find(file.fileno(), self._name)
            if found is None:
                return self.archive(path, None)
            system = Squashfs(file.fileno(), found.offset, found.size)

            def unpack(rootfs: str) -> int:
                budget = Budget(self._limit)
                system.unpack(rootfs, budget)
                add_mountpoints(rootfs)
                return budget.used

            return self._cache.store(sha256, self._name, {SINGULARITY: True}, unpack, self._log)

    def archive(self, path: str, tag: Optional[str]) -> Image:
        """The image tagged `tag` of an archive, or its only one."""
        work = self._cache.temporary()
        try:
            with Archive(path, work, self._name) as archive:
                found = archive.find(tag)
                if found is None:
                    raise PullError(f"image: {tag} is not in {path}")
                return self.layers(found.config, _archived(archive, found))
        finally:
            remove_tree(work)


def _archived(archive: Archive, image: ArchivedImage) -> Iterator[IO[bytes]]:
    for layer in image.layers:
        yield archive.open_layer(layer)
