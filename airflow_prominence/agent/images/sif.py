"""The file format of Singularity images: where in the file the image's file system lies."""

import os
import struct
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from .model import PullError
from .platforms import architecture
from .squashfs import MAGIC

_SIF_MAGIC = b"SIF_MAGIC\0"
_GLOBAL = struct.Struct("<32s10s3s3s16sqqqqqqqq")
_DESCRIPTOR = struct.Struct("<iBIIIqqqqqqq128sii3s373x")
_PARTITION = 0x4004
_OCI = (0x400A, 0x400B)
_MOST_DESCRIPTORS = 4096
_SQUASHFS, _ENCRYPTED = 1, 5
_PRIMARY = 2
_ARCHITECTURES = {
    "01": "386",
    "02": "amd64",
    "03": "arm",
    "04": "arm64",
    "05": "ppc64",
    "06": "ppc64le",
    "07": "mips",
    "08": "mipsle",
    "09": "mips64",
    "10": "mips64le",
    "11": "s390x",
    "12": "riscv64",
}


@dataclass(frozen=True)
class FileSystem:
    """Where in the file the image's squashfs lies; bytes."""

    offset: int
    size: int


def find(fd: int, name: str) -> Optional[FileSystem]:
    """The file system of a Singularity image; None if the file is no such image. PullError if it can't be run here."""
    size = os.fstat(fd).st_size
    head = os.pread(fd, _GLOBAL.size, 0)
    if head[32:42] == _SIF_MAGIC and len(head) == _GLOBAL.size:
        return _primary(fd, name, _GLOBAL.unpack(head))
    if head.startswith(MAGIC):
        return FileSystem(0, size)
    if head.startswith(b"#!") and b"\n" in head[:64]:
        # Singularity 2 put a line before the file system that lets a shell start the image.
        offset = head.index(b"\n") + 1
        if head[offset : offset + 4] == MAGIC:
            return FileSystem(offset, size - offset)
    return None


def _primary(fd: int, name: str, header: Sequence[Any]) -> FileSystem:
    count, start = header[8], header[9]
    if not 0 < count <= _MOST_DESCRIPTORS:
        raise PullError(f"image: {name} is damaged (it has {count} descriptors)")
    table = os.pread(fd, count * _DESCRIPTOR.size, start) if start > 0 else b""
    kinds = set()
    for index in range(len(table) // _DESCRIPTOR.size):
        fields = _DESCRIPTOR.unpack_from(table, index * _DESCRIPTOR.size)
        kind, used, offset, size, system, part, machine = *fields[:2], *fields[5:7], *fields[13:16]
        if not used:
            continue
        kinds.add(kind)
        if kind != _PARTITION or part != _PRIMARY:
            continue
        if system == _ENCRYPTED:
            raise PullError(f"image: {name} is encrypted, which is not supported")
        if system != _SQUASHFS or offset <= 0 or size <= 0:
            raise PullError(f"image: {name} has a file system other than squashfs, which is not supported")
        built_for = _ARCHITECTURES.get(machine.rstrip(b"\0").decode("latin-1"))
        if built_for not in (None, architecture()):
            raise PullError(f"image: {name} is built for {built_for}, this node is {architecture()}")
        return FileSystem(offset, size)
    if kinds & set(_OCI):
        raise PullError(f"image: {name} is an OCI-SIF, which is not supported; build it without --oci")
    raise PullError(f"image: {name} is damaged (it has no file system)")
