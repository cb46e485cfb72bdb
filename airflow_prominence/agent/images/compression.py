"""Compression as images have it. What Python lacks comes from the C library that every Linux has anyway."""

import bz2
import ctypes
import gzip
import io
import lzma
import zlib
from typing import IO, Any, Callable, Optional

from .model import PullError

Decompress = Callable[[bytes, int], bytes]
"""A whole block's bytes, at most so many; PullError if it is damaged or holds more."""

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_XZ_MEMORY = 256 << 20


def decompressed(stream: IO[bytes]) -> IO[bytes]:
    """The bytes behind whatever compression a layer or archive has, told by its first bytes."""
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream, 1 << 16)
    head = buffered.peek(8)[:8]
    kind = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    if kind == "gzip":
        unpacked: IO[bytes] = gzip.open(buffered, "rb")
        return unpacked
    if kind == "bzip2":
        return bz2.BZ2File(buffered)
    if kind == "xz":
        return lzma.LZMAFile(buffered)
    if kind == "zstd":
        return io.BufferedReader(_Zstd(buffered), 1 << 18)
    plain: IO[bytes] = buffered
    return plain


def block_decompressor(kind: str) -> Decompress:
    """For file systems, whose blocks are compressed one by one."""
    if kind == "gzip":
        return _zlib
    if kind in ("xz", "lzma"):
        return _xz
    if kind == "zstd":
        return _one_frame
    if kind == "lz4":
        return _lz4
    raise PullError(f"image: its file system is compressed with {kind}, which is not supported; build it with gzip")


def _zlib(data: bytes, limit: int) -> bytes:
    worker = zlib.decompressobj()
    try:
        found = worker.decompress(data, limit)
    except zlib.error as error:
        raise PullError(f"image: its file system is damaged ({error})") from error
    return _whole(found, worker.eof)


def _xz(data: bytes, limit: int) -> bytes:
    worker = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)
    try:
        found = worker.decompress(data, limit)
        if not worker.eof:  # the old format has no end mark: is there more?
            found += worker.decompress(b"", 1)
    except (lzma.LZMAError, EOFError) as error:
        raise PullError(f"image: its file system is damaged ({error})") from error
    return _whole(found, len(found) <= limit)


def _one_frame(data: bytes, limit: int) -> bytes:
    with io.BufferedReader(_Zstd(io.BytesIO(data)), 1 << 16) as stream:
        found = stream.read(limit + 1)
    return _whole(found, len(found) <= limit)


def _lz4(data: bytes, limit: int) -> bytes:
    library = _library("liblz4.so.1", "lz4", "liblz4-1")
    out = ctypes.create_string_buffer(limit)
    size = library.LZ4_decompress_safe(data, out, len(data), limit)
    return _whole(out.raw[: max(size, 0)], size >= 0)


def _whole(data: bytes, complete: bool) -> bytes:
    if not complete:
        raise PullError("image: its file system is damaged (a block that does not end)")
    return data


def _library(name: str, kind: str, package: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise PullError(
            f"image: is compressed with {kind}, which needs {name} on the node (Debian, Ubuntu: apt install {package})"
        ) from None


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer alike."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


class _Zstd(io.RawIOBase):
    """A stream of zstd frames; Python itself can do this from 3.14 on."""

    def __init__(self, source: IO[bytes]) -> None:
        self._library = _library("libzstd.so.1", "zstd", "libzstd1")
        self._library.ZSTD_createDStream.restype = ctypes.c_void_p
        self._library.ZSTD_decompressStream.restype = ctypes.c_size_t
        self._source = source
        self._state: Optional[ctypes.c_void_p] = ctypes.c_void_p(self._library.ZSTD_createDStream())
        self._bytes = b""
        self._in = _Buffer(None, 0, 0)
        self._left = 0  # what the library still wants for the frame it is in; 0 between frames

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        size = len(target)
        space = (ctypes.c_char * size).from_buffer(target)
        out = _Buffer(ctypes.cast(space, ctypes.c_void_p), size, 0)
        while out.pos == 0:
            if self._in.pos == self._in.size and not self._more() and self._left == 0:
                return 0
            before = self._in.pos
            self._left = self._library.ZSTD_decompressStream(self._state, ctypes.byref(out), ctypes.byref(self._in))
            if self._library.ZSTD_isError(ctypes.c_size_t(self._left)):
                raise EOFError("damaged zstd data")
            if out.pos == 0 and self._in.pos == before == self._in.size:
                raise EOFError("zstd data are cut off")
        return int(out.pos)

    def _more(self) -> bool:
        self._bytes = self._source.read(1 << 17)
        self._in = _Buffer(ctypes.cast(ctypes.c_char_p(self._bytes), ctypes.c_void_p), len(self._bytes), 0)
        return bool(self._bytes)

    def close(self) -> None:
        if self._state is not None and not self.closed:
            self._library.ZSTD_freeDStream(self._state)
            self._state = None
        super().close()
