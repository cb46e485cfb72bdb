"""Image archives: what `docker save`, podman, skopeo and OCI tools write."""

import json
import os
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from typing import IO, Any, Dict, List, Optional, Tuple

from .compression import decompressed
from .model import PullError
from .platforms import choose
from .reference import parse

_SMALL = 8 << 20


@dataclass(frozen=True)
class ArchivedImage:
    tags: Tuple[str, ...]
    config: bytes
    layers: Tuple[str, ...]


class Archive:
    """An opened archive. Compressed ones are unpacked to a temporary file, as layers are read out of order."""

    def __init__(self, path: str, scratch: str, name: str) -> None:
        self._name = name  # for messages: the path may be a temporary one
        self._file: Optional[IO[bytes]] = None
        self._spool: Optional[IO[bytes]] = None
        try:
            # Opened and looked at in this order: a path that a user named must not become a device or pipe meanwhile.
            self._file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise PullError(f"image: {name} is not a file")
            source = decompressed(self._file)
            if source is not self._file:
                self._spool = tempfile.TemporaryFile(dir=scratch)
                while True:
                    data = source.read(1 << 20)
                    if not data:
                        break
                    self._spool.write(data)
                self._spool.seek(0)
            else:
                self._file.seek(0)
            self._tar = tarfile.open(fileobj=self._spool or self._file, mode="r:")
            self._members = {_plain(member.name): member for member in self._tar.getmembers()}
        except (OSError, EOFError, tarfile.TarError, PullError) as error:
            self._close_files()
            if isinstance(error, PullError):
                raise
            raise PullError(f"image: {name} is not an image archive ({error})") from error

    def close(self) -> None:
        self._tar.close()
        self._close_files()

    def _close_files(self) -> None:
        for file in (self._file, self._spool):
            if file is not None:
                file.close()

    def __enter__(self) -> "Archive":  # noqa: PYI034 - Self is younger than Python 3.8
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def images(self) -> List[ArchivedImage]:
        try:
            if "manifest.json" in self._members:
                return [self._docker(entry) for entry in json.loads(self._small("manifest.json"))]
            if "index.json" in self._members:
                return self._oci(json.loads(self._small("index.json")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PullError(f"image: the list of images in {self._name} is damaged ({error})") from error
        raise PullError(f"image: {self._name} is not an image archive (no manifest.json)")

    def find(self, name: Optional[str]) -> Optional[ArchivedImage]:
        """The image tagged `name` (as any user may write it), or the only one if `name` is None."""
        images = self.images()
        if name is None:
            if len(images) != 1:
                raise PullError(f"image: {self._name} holds {len(images)} images, one is needed")
            return images[0]
        wanted = canonical(name)
        return next((image for image in images if wanted in map(canonical, image.tags)), None)

    def open_layer(self, layer: str) -> IO[bytes]:
        return self._open(layer)

    def _docker(self, entry: Dict[str, Any]) -> ArchivedImage:
        return ArchivedImage(
            tuple(str(tag) for tag in entry.get("RepoTags") or ()),
            self._small(str(entry["Config"])),
            tuple(str(layer) for layer in entry["Layers"]),
        )

    def _oci(self, index: Dict[str, Any]) -> List[ArchivedImage]:
        found = []
        for entry in index["manifests"]:
            notes = entry.get("annotations") or {}
            tags = (notes.get("io.containerd.image.name"), notes.get("org.opencontainers.image.ref.name"))
            manifest = json.loads(self._small(_blob(entry["digest"])))
            if "manifests" in manifest:
                manifest = json.loads(self._small(_blob(choose(manifest["manifests"])["digest"])))
            found.append(
                ArchivedImage(
                    tuple(tag for tag in tags if tag),
                    self._small(_blob(manifest["config"]["digest"])),
                    tuple(_blob(layer["digest"]) for layer in manifest["layers"]),
                )
            )
        return found

    def _small(self, name: str) -> bytes:
        with self._open(name) as stream:
            data = stream.read(_SMALL + 1)
        if len(data) > _SMALL:
            raise PullError(f"image: {name} in {self._name} is too large")
        return data

    def _open(self, name: str) -> IO[bytes]:
        """A member's bytes; links among members (both tools write some) stay inside the archive by their nature."""
        here = _plain(name)
        for _ in range(8):
            member = self._members.get(here)
            if member is None:
                break
            if member.isreg():
                stream = self._tar.extractfile(member)
                if stream is not None:
                    return stream
                break
            if not (member.issym() or member.islnk()):
                break
            base = os.path.dirname(here) if member.issym() else ""
            here = _plain(os.path.normpath(os.path.join(base, member.linkname)))
        raise PullError(f"image: {self._name} lacks {name}")


def canonical(name: str) -> str:
    """One spelling a name; a tag that is no image name (OCI archives have such) stays as it is."""
    try:
        return str(parse(name))
    except PullError:
        return name


def _plain(name: str) -> str:
    return name[2:] if name.startswith("./") else name


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)
