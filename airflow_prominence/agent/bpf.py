"""Small programs for the kernel's own machine (BPF), assembled here and loaded by the bare system call.

A program is attached to a control group of version 2 by a link, which the kernel drops with the last descriptor of it:
whatever dies, and however, nothing is left behind and nobody else's programs are touched.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_PROG_LOAD, _LINK_CREATE = 5, 28
_LOG_BYTES = 16384

# Registers: the result and helpers' answers, arguments of helpers, the frame; 6 to 9 outlive a helper's call.
R0, R1, R2, R3, R4, R6, R7, FRAME = 0, 1, 2, 3, 4, 6, 7, 10

# Helpers of the kernel.
GET_CURRENT_UID_GID, SKB_LOAD_BYTES, GET_SOCKET_UID = 15, 26, 47

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The kernel does not take the program; one sentence."""


def order(data: bytes) -> int:
    """Bytes as they lie in memory or in a packet, as the number that a load of them gives."""
    return int.from_bytes(data, sys.byteorder)


class Assembler:
    """Instructions one after the other; jumps go forward to labels."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int | str, int]] = []
        self._labels: dict[str, int] = {}

    def _add(self, code: int, into: int = 0, other: int = 0, offset: int | str = 0, number: int = 0) -> None:
        self._code.append((code, into, other, offset, number))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def copy(self, into: int, other: int) -> None:
        self._add(0xBF, into, other)

    def set(self, into: int, number: int) -> None:
        self._add(0xB7, into, number=number)

    def add(self, into: int, number: int) -> None:
        self._add(0x07, into, number=number)

    def keep_32(self, into: int, mask: int = 0xFFFFFFFF) -> None:
        """`into &= mask`, and nothing above its 32 bits."""
        self._add(0x54, into, number=mask)

    def load(self, into: int, base: int, offset: int, size: int = 4) -> None:
        self._add({1: 0x71, 2: 0x69, 4: 0x61}[size], into, base, offset)

    def call(self, helper: int) -> None:
        self._add(0x85, number=helper)

    def jump(self, to: str) -> None:
        self._add(0x05, offset=to)

    def jump_if(self, register: int, relation: str, number: int, to: str) -> None:
        """Compare 32 bits: `==`, `!=`, `<` or `>=`, without a sign."""
        self._add({"==": 0x16, "!=": 0x56, "<": 0xA6, ">=": 0x36}[relation], register, offset=to, number=number)

    def end(self, answer: int) -> None:
        self.set(R0, answer)
        self._add(0x95)

    def code(self) -> bytes:
        found = b""
        for place, (code, into, other, offset, number) in enumerate(self._code):
            distance = self._labels[offset] - place - 1 if isinstance(offset, str) else offset
            registers = into | other << 4 if sys.byteorder == "little" else into << 4 | other
            found += struct.pack("=BBhI", code, registers, distance, number & 0xFFFFFFFF)
        return found


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise Refused(f"BPF's system call is not known for {platform.machine()}")
    answer = int(_libc.syscall(number, command, ctypes.c_char_p(attributes), len(attributes)))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def load(code: bytes, kind: int, hook: int, name: str) -> int:
    """A descriptor of the program, which ends with it unless it is attached."""
    program, text = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    places = (ctypes.addressof(program), ctypes.addressof(text))
    head = struct.pack("=IIQQIIQ", kind, len(code) // 8, *places, 1, _LOG_BYTES, ctypes.addressof(log))
    try:
        return _bpf(_PROG_LOAD, head + struct.pack("=II16sII", 0, 0, name.encode()[:15], 0, hook))
    except OSError as error:
        said = log.value.decode("ascii", "replace").strip().splitlines()
        why = f"{error.strerror}: {said[-1]}" if said else error.strerror
        raise Refused(f"the kernel does not take a BPF program ({why})") from error


def attach(program: int, group: int, hook: int) -> int:
    """A link of the program to all processes below a control group; it holds while a descriptor of it is open."""
    try:
        return _bpf(_LINK_CREATE, struct.pack("=IIII", program, group, hook, 0))
    except OSError as error:
        raise Refused(f"the kernel does not link a BPF program to a control group ({error.strerror})") from error
