"""Keeps jobs from the addresses at which a cloud gives a VM's own credentials to whoever asks from the VM.

Jobs share their node's network. As root, each has a user of the pool; small programs in the kernel refuse what a
socket of those users sends to such an address, whatever container made it. They hold while the service or any
runner lives, each of which keeps a descriptor of them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
from dataclasses import dataclass
from typing import Any, Iterable, Sequence, Union

from . import addresses, bpf, cgroup, forks, users

_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

NETWORKS: Sequence[_Network] = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    # the first, for who translates it or has a tunnel
    ipaddress.ip_network("64:ff9b::a9fe:0/112"),
    ipaddress.ip_network("2002:a9fe::/32"),
    *addresses.METADATA,
)

#: What is tried to tell whether a service answers at all.
_WELL_KNOWN = ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
_PROBE_S = 1.0
_DNS = 53
_RESOLVER = "/etc/resolv.conf"

# The kernel's numbers for the kinds of program and the hooks.
_SKB, _SOCK_ADDR = 8, 18
_EGRESS, _CONNECT4, _CONNECT6 = 1, 10, 11
_IPV4, _IPV6 = 0x0800, 0x86DD
_BLOCKED, _PASSED = 0, 1


@dataclass(frozen=True)
class Verdict:
    """What keeps this node's jobs from metadata addresses; `answers` is an address that answered where nothing does."""

    blocked: bool
    detail: str
    answers: str | None = None

    @property
    def info(self) -> dict[str, Any]:
        return {"blocked": self.blocked, "detail": self.detail, "answers": self.answers}


def block() -> Verdict:
    """Block what can be blocked for as long as this process, or one that is forked from it, lives; and look at it."""
    try:
        _install(nameservers(_RESOLVER))
    except bpf.Refused as error:
        found = answering()
        text = f"nothing that the agent did keeps jobs from metadata addresses: {error}"
        return Verdict(False, text + (f"; a service answers at {found}" if found else "; none answers here"), found)
    return Verdict(True, "jobs are kept from metadata addresses, " + ", ".join(map(str, NETWORKS)))


def nameservers(path: str) -> list[_Address]:
    """Resolvers of this machine that are at blocked addresses: some clouds' are, and jobs need names."""
    found: list[_Address] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return found
    for words in lines:
        if len(words) > 1 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            if any(address in network for network in NETWORKS):
                found.append(address)
    return found


def answering() -> str | None:
    """The first of the well known addresses that takes a connection from here."""
    with selectors.DefaultSelector() as selector:
        for address in _WELL_KNOWN:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                tried = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:
                continue  # a machine without this family
            if tried.connect_ex((address, 80)) in (0, errno.EINPROGRESS):
                selector.register(tried, selectors.EVENT_WRITE, address)
            else:
                tried.close()
        found: str | None = None
        while selector.get_map() and found is None:
            ready = selector.select(_PROBE_S)
            if not ready:
                break
            for key, _ in ready:
                connection: Any = key.fileobj
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found = str(key.data)
                selector.unregister(connection)
                connection.close()
        for key in list(selector.get_map().values()):
            left: Any = key.fileobj
            left.close()
        return found


def _install(exempt: Iterable[_Address]) -> None:
    if os.geteuid() != 0:
        raise bpf.Refused("only an agent that root starts can block them")
    group = cgroup.unified()
    if group is None:
        raise bpf.Refused("there are no control groups of version 2 here")
    allowed = list(exempt)
    links: list[int] = []
    try:
        for kind, hook, code in (
            (_SKB, _EGRESS, _of_packets(allowed)),
            # these two only so that a connection is refused at once, instead of sending into nothing for two minutes
            (_SOCK_ADDR, _CONNECT4, _of_connections(allowed, 4)),
            (_SOCK_ADDR, _CONNECT6, _of_connections(allowed, 6)),
        ):
            program = bpf.load(code, kind, hook, "prominence_meta")
            try:
                links.append(bpf.attach(program, group, hook))
            finally:
                os.close(program)
        _see()
    except bpf.Refused:
        for link in links:
            os.close(link)
        raise
    finally:
        os.close(group)
    for link in links:
        forks.share(link)


def _see() -> None:
    """Do as a job would, as a user of the pool; nothing is sent unless it is not blocked."""
    low = users.RANGES[0][0]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(low, low, low)
            os.setresuid(low, low, low)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
                if tried.connect_ex(("169.254.169.254", 80)) == errno.EPERM:
                    code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise bpf.Refused("the kernel took the programs, but they do not hold for the agent's own processes")


# -- the programs


def _begin(helper: int) -> bpf.Assembler:
    """On to what follows only for a user of the pool; register 6 holds the context from here on."""
    code = bpf.Assembler()
    code.copy(bpf.R6, bpf.R1)
    code.call(helper)
    code.keep_32(bpf.R0)
    for low, high in users.RANGES:
        code.jump_if(bpf.R0, "<", low, f"not from {low}")
        code.jump_if(bpf.R0, "<", high, "a job's")
        code.label(f"not from {low}")
    code.jump("pass")
    code.label("a job's")
    return code


def _end(code: bpf.Assembler) -> bytes:
    code.label("pass")
    code.end(_PASSED)
    code.label("block")
    code.end(_BLOCKED)
    return code.code()


def _compare(code: bpf.Assembler, network: _Network, base: int, offset: int, to: str, port: bool = False) -> None:
    """Jump if the address in memory at `base + offset` is in the network; with `port` only if register 7 is DNS's."""
    other = f"after {network} to {to} at {offset}"
    if port:
        code.jump_if(bpf.R7, "!=", bpf.order(_DNS.to_bytes(2, "big")), other)
    address, mask = network.network_address.packed, network.netmask.packed
    for start in range(0, len(address), 4):
        bits = bpf.order(mask[start : start + 4])
        if bits:
            code.load(bpf.R1, base, offset + start)
            code.keep_32(bpf.R1, bits)
            code.jump_if(bpf.R1, "!=", bpf.order(address[start : start + 4]), other)
    code.jump(to)
    code.label(other)


def _judge(code: bpf.Assembler, allowed: list[_Address], version: int, base: int, offset: int) -> None:
    """Block or pass an address of that version in memory; register 7 holds the port, as it is in a packet."""
    for address in allowed:
        if address.version == version:
            _compare(code, ipaddress.ip_network(address), base, offset, "pass", port=True)
    for network in NETWORKS:
        if network.version == version:
            _compare(code, network, base, offset, "block")


def _of_connections(allowed: list[_Address], version: int) -> bytes:
    """For `connect`: the context has the address at byte 4 or 8, and the port at 24."""
    code = _begin(bpf.GET_CURRENT_UID_GID)
    code.load(bpf.R7, bpf.R6, 24)
    if version == 4:
        _judge(code, allowed, 4, bpf.R6, 4)
    else:
        _judge(code, allowed, 6, bpf.R6, 8)
        # an IPv4 address in IPv6's clothes
        for start, word in ((0, b"\0\0\0\0"), (4, b"\0\0\0\0"), (8, b"\0\0\xff\xff")):
            code.load(bpf.R1, bpf.R6, 8 + start)
            code.jump_if(bpf.R1, "!=", bpf.order(word), "pass")
        _judge(code, allowed, 4, bpf.R6, 20)
    return _end(code)


def _of_packets(allowed: list[_Address]) -> bytes:
    """For each packet that leaves a socket, whatever the protocol: it begins with the header of IP."""
    code = _begin(bpf.GET_SOCKET_UID)
    code.load(bpf.R1, bpf.R6, 16)
    code.jump_if(bpf.R1, "==", bpf.order(_IPV4.to_bytes(2, "big")), "IPv4")
    code.jump_if(bpf.R1, "!=", bpf.order(_IPV6.to_bytes(2, "big")), "pass")
    _read_port(code, "IPv6", 6, 40, None)
    _read(code, 24, 16, "block")
    _judge(code, allowed, 6, bpf.FRAME, -16)
    code.jump("pass")
    code.label("IPv4")
    _read_port(code, "IPv4", 9, 20, 0x45)
    _read(code, 16, 4, "block")
    _judge(code, allowed, 4, bpf.FRAME, -16)
    return _end(code)


def _read(code: bpf.Assembler, offset: int, size: int, otherwise: str) -> None:
    """Bytes of the packet to the frame at -16."""
    code.copy(bpf.R1, bpf.R6)
    code.set(bpf.R2, offset)
    code.copy(bpf.R3, bpf.FRAME)
    code.add(bpf.R3, -16)
    code.set(bpf.R4, size)
    code.call(bpf.SKB_LOAD_BYTES)
    code.jump_if(bpf.R0, "!=", 0, otherwise)


def _read_port(code: bpf.Assembler, name: str, protocol: int, header: int, first: int | None) -> None:
    """The port to register 7, if what follows a header without options is TCP's or UDP's; else 0."""
    code.set(bpf.R7, 0)
    if first is not None:
        _read(code, 0, 1, f"{name} without a port")
        code.load(bpf.R1, bpf.FRAME, -16, 1)
        code.jump_if(bpf.R1, "!=", first, f"{name} without a port")
    _read(code, protocol, 1, f"{name} without a port")
    code.load(bpf.R1, bpf.FRAME, -16, 1)
    code.jump_if(bpf.R1, "==", socket.IPPROTO_UDP, f"{name} with a port")
    code.jump_if(bpf.R1, "!=", socket.IPPROTO_TCP, f"{name} without a port")
    code.label(f"{name} with a port")
    _read(code, header + 2, 2, f"{name} without a port")
    code.load(bpf.R7, bpf.FRAME, -16, 2)
    code.label(f"{name} without a port")
