"""No job reaches the addresses at which a cloud gives away the machine's own credentials; the machine still does."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.agent import bpf, metadata
from airflow_prominence.agent.images.demo import DEMO_NAME, build_demo_image

from .apiserver import L1, L2, Api
from .conftest import ROOT, Agent, eventually
from .test_jobs import sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")

CLONE_NEWNET = 0x40000000
MPTCP = 262
LINK_GET_FD_BY_ID = 30
METADATA = ("169.254.169.254", "169.254.3.4", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
OTHERS = ("127.0.0.1", "10.9.8.7", "169.253.0.1", "100.100.100.201", "::1", "fd00:ec2::253")
PORT, MPTCP_PORT = 80, 81

# In a job or outside of it, with nothing but Python: each way to say something to each address given.
ASK = f"""
import socket, sys
def by(address, kind, protocol=0, how="connect", port={PORT}):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    name, _, zone = address.partition("%")
    to = (name, port, 0, socket.if_nametoindex(zone)) if zone else (name, port)
    with socket.socket(family, kind, protocol) as made:
        made.settimeout(5)
        try:
            made.connect(to) if how == "connect" else made.sendto(b"x", *([0x20000000] if how == "fast" else []), to)
        except BlockingIOError:
            pass  # a fast open that is on its way
        except OSError as error:
            return error.errno
    return 0
for address in sys.argv[1:]:
    ways = {{
        "tcp": by(address, socket.SOCK_STREAM),
        "udp": by(address, socket.SOCK_DGRAM),
        "sendto": by(address, socket.SOCK_DGRAM, how="send"),
        "fast": by(address, socket.SOCK_STREAM, how="fast"),
        "dns": by(address, socket.SOCK_DGRAM, how="send", port=53),
    }}
    if ":" not in address:
        ways["mapped"] = by("::ffff:" + address, socket.SOCK_STREAM)
        ways["mapped sendto"] = by("::ffff:" + address, socket.SOCK_DGRAM, how="send")
    print(address, *(way + "=" + str(code) for way, code in ways.items()), sep="; ")
"""


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network of the test's own in which all those addresses are this machine's, and a service listens."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        assert libc.unshare(CLONE_NEWNET) == 0
        try:
            _ip("link set lo up")
            for address in (*METADATA, *OTHERS):
                if address not in ("127.0.0.1", "::1"):
                    _ip(f"addr add {address} dev lo" + (" nodad" if ":" in address else ""))
            _ip("link add cloud type veth peer name vm")
            for name in ("cloud", "vm"):
                _ip(f"link set {name} up")
            _ip("addr add fe80::a9fe:a9fe/64 dev cloud nodad")
            with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128):
                yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _codes(text: str) -> dict[str, dict[str, int]]:
    """Address to way to error number, 0 for none."""
    found = {}
    for line in text.splitlines():
        address, *ways = line.split("; ")
        found[address] = {way: int(code) for way, _, code in (each.partition("=") for each in ways)}
    return found


def _ask(*addresses: str, script: str = ASK, user: int = 0) -> dict[str, dict[str, int]]:
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    argv = [*become, "/usr/bin/python3", "-c", script, *addresses]
    return _codes(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _all(found: dict[str, dict[str, int]]) -> set[int]:
    return {code for ways in found.values() for code in ways.values()}


def _links(pid: int) -> set[int]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        words = Path(f"/proc/{pid}/fdinfo/{name}").read_text().split()
        if "link_id:" in words:
            found.add(int(words[words.index("link_id:") + 1]))
    return found


def _exists(link: int) -> bool:
    try:
        os.close(bpf._bpf(LINK_GET_FD_BY_ID, link.to_bytes(4, sys.byteorder) + bytes(12)))
    except FileNotFoundError:
        return False
    return True


def test_a_job_is_refused_at_once_and_the_machine_is_not(api: Api, agent: Agent) -> None:
    metadata_too = (*METADATA, "fe80::a9fe:a9fe%cloud")
    lease = api.assign(L1, [{"argv": ["/usr/bin/python3", "-c", ASK, *metadata_too, *OTHERS]}])
    api.wait(lambda: lease.end)
    said = _codes(bytes(lease.streams["stdout"]).decode())
    assert set(said) == {*metadata_too, *OTHERS}, bytes(lease.streams["stderr"]).decode()
    assert _all({address: said[address] for address in metadata_too}) == {errno.EPERM}
    assert _all({address: said[address] for address in OTHERS}) == {0}
    # the same by root, and by a user of this machine who runs no job
    assert _all(_ask(*metadata_too)) == {0}
    assert _all(_ask(*metadata_too, user=60999)) == {0}
    (registration,) = api.registrations
    assert registration["runtime_info"]["metadata"]["blocked"] is True
    assert "jobs are kept from metadata addresses, 169.254.0.0/16, " in agent.log.read_text()
    agent.forget(L1)


def test_a_protocol_that_the_kernel_connects_by_itself_is_refused_too(api: Api, agent: Agent) -> None:
    script = ASK.replace("SOCK_STREAM)", f"SOCK_STREAM, {MPTCP}, port={MPTCP_PORT})")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as service:
        service.bind(("0.0.0.0", MPTCP_PORT))
        service.listen(20)
        assert _ask("169.254.169.254", script=script)["169.254.169.254"]["tcp"] == 0
        lease = api.assign(L1, [{"argv": ["/usr/bin/python3", "-c", script, "169.254.169.254", "10.9.8.7"]}])
        api.wait(lambda: lease.end)
    said = _codes(bytes(lease.streams["stdout"]).decode())
    assert (said["169.254.169.254"]["tcp"], said["10.9.8.7"]["tcp"]) == (errno.EPERM, 0)
    agent.forget(L1)


@pytest.mark.parametrize("runtime", ["singularity", "udocker"])
def test_in_a_container(api: Api, folder: Path, runtime: str) -> None:
    (folder / "images").mkdir()
    build_demo_image(str(folder / "images" / "demo.tar"))
    extra = ["--runtimes", "singularity=bubblewrap,udocker=bubblewrap", "--images-dir", str(folder / "images")]
    node = Agent(api, folder, [sys.executable, "-m", "airflow_prominence.agent"], extra)
    node.start()
    try:
        ask = "for to in 169.254.169.254 10.9.8.7; do timeout 1 nc $to 80; echo $to $?; done 2>&1"
        lease = api.assign(L1, [sh(ask, image=DEMO_NAME, runtime=runtime)])
        api.wait(lambda: lease.end, 60)
        said = bytes(lease.streams["stdout"]).decode()
        assert "169.254.169.254 1\n" in said
        assert "Operation not permitted" in said
        assert "10.9.8.7 143\n" in said  # it was connected until its time was over
        node.forget(L1)
    finally:
        assert not node.close()


def test_it_holds_until_the_last_runner_has_gone_and_nothing_stays(api: Api, agent: Agent) -> None:
    script = f"read x < $HOME_DIR/go; exec /usr/bin/python3 -c '{ASK}' 169.254.169.254"
    lease = api.assign(L1, [sh("mkfifo $HOME_DIR/go; echo up; " + script)])
    api.wait(lambda: lease.streams["stdout"])
    assert agent.process is not None
    links = _links(agent.process.pid)
    assert len(links) == 3
    runner = agent.pid(L1, "runner")
    assert _links(runner) == _links(agent.pid(L1, "guard")) == links
    task = next(pid for pid in agent.processes() if b"read x" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert not _links(task)
    agent.kill(signal.SIGKILL)
    (agent.state / "jobs" / L1 / "home" / "go").write_text("\n")
    api.wait(lambda: lease.end)
    assert _all(_codes(bytes(lease.streams["stdout"]).decode().partition("\n")[2])) == {errno.EPERM}
    eventually(lambda: not any(map(_exists, links)), what="the kernel drops the programs with the last descriptor")


def test_two_agents_do_not_undo_each_other(api: Api, agent: Agent, folder: Path) -> None:
    eventually(lambda: api.registrations)
    assert agent.process is not None
    first = _links(agent.process.pid)
    code = "from airflow_prominence.agent import metadata; print(metadata.block().blocked)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert all(map(_exists, first))
    lease = api.assign(L2, [{"argv": ["/usr/bin/python3", "-c", ASK, "169.254.169.254"]}])
    api.wait(lambda: lease.end)
    assert _all(_codes(bytes(lease.streams["stdout"]).decode())) == {errno.EPERM}
    agent.forget(L2)


def test_names_are_resolved_even_where_the_resolver_is_a_metadata_address(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search x\nnameserver 169.254.169.254\nnameserver fd00:ec2::254\nnameserver 9.9.9.9\noptions")
    allowed = metadata.nameservers(str(resolver))
    assert allowed == [ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("fd00:ec2::254")]
    assert metadata.nameservers(str(tmp_path / "none")) == []
    code = (
        "import sys, ipaddress, subprocess\n"
        "from airflow_prominence.agent import metadata\n"
        "metadata._install([ipaddress.ip_address(each) for each in ('169.254.169.254', 'fd00:ec2::254')])\n"
        "become = ['setpriv', '--reuid=70001', '--regid=70001', '--clear-groups']\n"
        "subprocess.run([*become, '/usr/bin/python3', '-c', *sys.argv[1:]], check=True)\n"
    )
    script = ASK.replace(f"port={PORT}", "port=53")
    with socket.create_server(("::", 53), family=socket.AF_INET6, dualstack_ipv6=True):
        argv = [sys.executable, "-c", code]
        ask = [*argv, script, *METADATA]
        at_dns = _codes(subprocess.run(ask, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        ask = [*argv, ASK, *METADATA]
        at_http = _codes(subprocess.run(ask, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    for address, ways in at_dns.items():
        assert set(ways.values()) == {0 if ipaddress.ip_address(address) in allowed else errno.EPERM}, address
    for address, ways in at_http.items():
        dns = ways.pop("dns")
        assert set(ways.values()) == {errno.EPERM}
        assert dns == (0 if ipaddress.ip_address(address) in allowed else errno.EPERM)


def test_who_cannot_block_says_so_and_whether_a_service_answers() -> None:
    code = (
        "import os; from airflow_prominence.agent import metadata; os.setuid(65001)\n"
        "found = metadata.block(); print(found.blocked, found.answers, found.detail)"
    )
    argv = [sys.executable, "-c", code]

    def said() -> str:
        return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    for address in ("100.100.100.200", "fd00:ec2::254"):
        _ip(f"addr del {address} dev lo")
    assert said() == (
        "False 169.254.169.254 nothing that the agent did keeps jobs from metadata addresses: only an agent that root "
        "starts can block them; a service answers at 169.254.169.254\n"
    )
    _ip("addr del 169.254.169.254 dev lo")
    assert said().startswith("False None ")
    assert said().endswith("; none answers here\n")


def test_a_kernel_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bpf.Refused, match="the kernel does not take a BPF program"):
        bpf.load(bpf.Assembler().code(), metadata._SKB, metadata._EGRESS, "empty")
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(bpf.Refused, match="not known for vax"):
        bpf._bpf(5, b"")
