"""The API's side of the agent protocol, whole and in memory, with faults to switch on and counters to look at."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from typing_extensions import Self

from airflow_prominence import documents


def lease_name(number: int) -> str:
    """A lease's name: this run's alone, since processes are told apart by it on the whole machine."""
    return f"l{number}-{os.getpid()}"


L0, L1, L2, L3 = map(lease_name, range(4))


@dataclass
class Lease:
    """What the API knows of one lease."""

    assignment: dict[str, Any]
    reports: list[dict[str, Any]] = field(default_factory=list)
    streams: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    arrived: dict[str, float] = field(default_factory=dict)
    stop: dict[str, Any] | None = None
    go: str | None = None  # to which phase a job may go that holds
    told_to_stop: str | None = None  # by the answer to its reports
    lost: list[str] = field(default_factory=list)
    listed: bool = False
    forget: bool = False
    stale: bool = False
    rolled_back: bool = False
    limit: int = 1 << 40
    starts_given: int = 0
    posts: int = 0

    def roll_back(self, keep: int) -> None:
        """Lose what came after the first reports, as a database does that was killed before it wrote them."""
        self.rolled_back = True
        del self.reports[keep:]
        for stream in self.streams.values():
            stream.clear()

    def kinds(self) -> list[str]:
        return [report["kind"] for report in self.reports]

    @property
    def end(self) -> dict[str, Any] | None:
        ends = [report["data"] for report in self.reports if report["kind"] == "end"]
        assert len(ends) <= 1
        return ends[0] if ends else None


@dataclass
class Order:
    """What the API knows of one command or snapshot; `stop` is what its process hears when it next speaks."""

    given: dict[str, Any]
    output: bytearray = field(default_factory=bytearray)
    stop: str | None = None
    end: dict[str, Any] | None = None
    arrived: bool = False
    times_given: int = 0
    beats: int = 0
    written: list[float] = field(default_factory=list)


class Api:
    """Start it with `with Api() as api:`; `api.url` is what agents get."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.leases: dict[str, Lease] = {}
        self.orders: dict[str, Order] = {}
        self.uploads: dict[str, bytes] = {}
        self.registrations: list[dict[str, Any]] = []
        self.polls = 0
        self.last_poll: dict[str, str] = {}
        self.down = False
        self.drop_after_body = 0  # so many requests are done, and then not answered
        self.down_after_end = False  # the first end that arrives is the last that is heard, and is not answered
        self.conflicts = 0  # so many polls get a 409
        self.repeat_starts = False
        self.store = ""  # where outputs are to be sent
        self.outputs_asked: list[str] = []
        self._closing = False
        self._server = _server(self)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self._closing = True
            self.lock.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/internal"

    def assign(self, lease: str, tasks: list[dict[str, Any]], **changes: Any) -> Lease:
        full = [
            {"image": "host", "runtime": "singularity", "env": {}, "workdir": None, "type": "basic", "credential": None}
            | task
            for task in tasks
        ]
        resources = {"cpus": 1, "memory_mb": 1024, "disk_mb": 1024, "walltime_s": 60} | changes.pop("resources", {})
        assignment = {
            "lease": lease,
            "job": 12,
            "workflow": None,
            "attempt": 1,
            "owner": "alice",
            "name": "calc",
            "nodes": 1,
            "node_num": 0,
            "token": "token-" + lease,
            "job_token": "job-token-" + lease,
            "outputs_folder": "scratch/" + lease,
            "output_url": f"{self.url}/data/output",
            "report_url": f"{self.url}/leases/{lease}",
            "public_url": "http://127.0.0.1/api/v1",
            "resources": resources,
            "inputs": [],
            "tasks": full,
            "task_retries": 0,
            "ignore_task_failures": False,
            "env": {"PROMINENCE_JOB_ID": "12"},
        } | changes
        made = Lease(assignment)
        with self.lock:
            self.leases[lease] = made
            self.lock.notify_all()
        return made

    def command(self, lease: str, *argv: str, **changes: Any) -> Order:
        return self._order(lease, {"kind": "exec", "argv": list(argv), "limit": 1 << 20} | changes)

    def snapshot(self, lease: str, path: str, **changes: Any) -> Order:
        given = {"kind": "snapshot", "path": path, "name": path.strip("/") or ".", "limit": 1 << 20}
        return self._order(lease, given | changes)

    def stage_out(self, lease: str, **changes: Any) -> Order:
        """Have outputs stored again, those of the lease's assignment."""
        wanted = self.leases[lease].assignment
        given = {"kind": "stage_out", "limit": 1 << 20, "outputs": wanted["outputs"]}
        return self._order(lease, given | {"outputs_folder": wanted["outputs_folder"]} | changes)

    def _order(self, lease: str, given: dict[str, Any]) -> Order:
        with self.lock:
            name = f"c{len(self.orders)}-{os.getpid()}"
            where = {
                "snapshot": {"url": f"{self.url}/objects/{name}"},
                "stage_out": {"output_url": f"{self.url}/commands/{name}/place"},
            }.get(given["kind"], {})
            made = Order({"id": name, "lease": lease, "timeout_s": 30} | where | given)
            self.orders[name] = made
            self.lock.notify_all()
        return made

    def set(self, **values: Any) -> None:
        with self.lock:
            for name, value in values.items():
                setattr(self, name, value)
            self.lock.notify_all()

    def wait(self, until: Any, timeout: float = 20.0) -> None:
        """Until `until()` is true, looked at whenever a request has changed something."""
        end = time.monotonic() + timeout
        with self.lock:
            while not until():
                left = end - time.monotonic()
                assert left > 0, f"waited in vain: {[(name, one.kinds()) for name, one in self.leases.items()]}"
                self.lock.wait(min(left, 0.2))

    # -- routes; each is called with the lock held and returns status and body

    def route(self, method: str, path: str, query: dict[str, list[str]], token: str, body: bytes) -> tuple[int, Any]:
        if method == "POST" and path == "/nodes":
            return self._register(token, json.loads(body))
        if found := re.fullmatch(r"/nodes/7/(poll|lost)", path):
            if token != "node-token":
                return 401, {"error": "not a node"}
            return (self._poll if found[1] == "poll" else self._lost)(json.loads(body))
        if found := re.fullmatch(r"/objects/([^/]+)", path):
            assert token == "", "a token was sent to the object store"
            self.uploads[found[1]] = body
            return 200, {}
        if found := re.fullmatch(r"/commands/([^/]+)/(output|end|place)", path):
            if token != "node-token":
                return 401, {"error": "not a node"}
            order = self.orders[found[1]]
            order.arrived = True
            if found[2] == "place":
                assert order.end is None, "a place for an order that is over"
                return 201, self._place(json.loads(body)["name"])
            if found[2] == "output":
                return self._output(order, int(query["offset"][0]), body)
            order.end = order.end or json.loads(body)
            return 200, {}
        if found := re.fullmatch(r"/leases/([^/]+)/(reports|streams/(stdout|stderr))", path):
            lease = self.leases[found[1]]
            if token != "token-" + found[1]:
                return 401, {"error": "not this job"}
            if lease.stale:
                return 409, {"error": "stale attempt"}
            lease.posts += 1
            if found[3]:
                return self._stream(lease, found[3], int(query["offset"][0]), body)
            try:
                given = documents.loads(body)  # as strict as the real one
            except documents.DocumentError as error:
                return 400, {"error": str(error)}
            assert isinstance(given, dict)
            return self._reports(lease, given["reports"])
        if method == "POST" and path == "/data/output":
            return self._place_for_output(token, json.loads(body)["name"])
        return 404, {"error": "no such route"}

    def _place_for_output(self, token: str, key: str) -> tuple[int, Any]:
        lease = token.removeprefix("job-token-")
        if self.leases[lease].end is not None or not key.startswith(f"scratch/{lease}/"):
            return 401, {"error": "not of this job"}
        return 201, self._place(key)

    def _place(self, key: str) -> dict[str, str]:
        self.outputs_asked.append(key)
        return {"url": f"{self.store}/{key}?signature={len(self.outputs_asked)}"}

    def _register(self, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        if token != "node-token":
            return 401, {"error": "not a node"}
        self.registrations.append(body)
        return 200, {"node": 7, "poll_s": 20, "heartbeat_s": 10}

    def _poll(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.polls += 1
        if self.conflicts:
            self.conflicts -= 1
            return 409, {"error": "register again"}
        assert body["boot"] == self.registrations[-1]["boot"]
        self.last_poll = body["leases"]
        for name in body["leases"]:
            if name in self.leases:
                self.leases[name].listed = True
        for name in body["commands"]:
            self.orders[name].arrived = True
        end = time.monotonic() + min(body["timeout"], 20)
        while True:
            answer = self._work(body["leases"])
            left = end - time.monotonic()
            if any(answer.values()) or left <= 0 or self._closing or self.down:
                for assignment in answer["start"]:
                    self.leases[assignment["lease"]].starts_given += 1
                for given in answer["commands"]:
                    self.orders[given["id"]].times_given += 1
                return 200, answer
            self.lock.wait(min(left, 0.5))

    def _work(self, listed: dict[str, str]) -> dict[str, Any]:
        start = [
            one.assignment
            for name, one in self.leases.items()
            if (name not in listed and not one.listed) or (self.repeat_starts and one.starts_given < 3)
        ]
        stop = [dict(one.stop, lease=name) for name, one in self.leases.items() if one.stop and name in listed]
        for order in stop:
            self.leases[order["lease"]].stop = None
        forget = [name for name, one in self.leases.items() if one.forget and name in listed]
        forget += [name for name in listed if name not in self.leases]
        commands = [
            one.given
            for one in self.orders.values()
            if (not one.arrived and one.end is None) or (self.repeat_starts and one.times_given < 3)
        ]
        return {"start": start, "stop": stop, "forget": forget, "commands": commands}

    def _lost(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.leases[body["lease"]].lost.append(body["reason"])
        return 200, {}

    def _reports(self, lease: Lease, reports: list[dict[str, Any]]) -> tuple[int, Any]:
        for report in reports:
            have = len(lease.reports)
            if lease.rolled_back and report["seq"] > have + 1:
                continue
            assert report["seq"] <= have + 1, "a report is missing"
            if report["seq"] == have + 1:
                assert lease.end is None, "a report after the end"
                lease.reports.append(report)
                lease.arrived.setdefault(report["kind"], time.time())
        return 200, {"seq": len(lease.reports), "stop": lease.told_to_stop, "go": lease.go}

    def _stream(self, lease: Lease, name: str, offset: int, body: bytes) -> tuple[int, Any]:
        assert len(body) <= 65536
        have = lease.streams[name]
        if len(have) >= lease.limit:
            return 200, {"offset": len(have), "full": True}
        if offset == len(have):
            have.extend(body[: lease.limit - len(have)])
            lease.arrived.setdefault(name, time.time())
        return 200, {"offset": len(have)}

    def _output(self, order: Order, offset: int, body: bytes) -> tuple[int, Any]:
        assert len(body) <= 65536
        order.beats += not body
        if body and offset == len(order.output):
            order.output.extend(body)
            order.written.append(time.time())
        return 200, {"offset": len(order.output), "stop": order.stop}


def _server(api: Api) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            with api.lock:
                if api.down:
                    self.close_connection = True
                    return
                status, answer = api.route(
                    self.command, parts.path.removeprefix("/internal"), parse_qs(parts.query), token, body
                )
                if api.down_after_end and any(lease.end for lease in api.leases.values()):
                    api.down, api.down_after_end = True, False
                    self.close_connection = True
                    api.lock.notify_all()
                    return
                api.lock.notify_all()
                if api.drop_after_body and not parts.path.endswith("/poll"):
                    api.drop_after_body -= 1
                    self.close_connection = True
                    return
            raw = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_POST = do_PUT = _handle  # noqa: N815 - the names that BaseHTTPRequestHandler looks for

        def log_message(self, *_: object) -> None:
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Agents that die in the middle of a request are what these tests are about."""

    return Server(("127.0.0.1", 0), Handler)
