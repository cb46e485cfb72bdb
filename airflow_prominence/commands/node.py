"""``airflow prominence node``: this machine's node service, kept running."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

from airflow.configuration import conf

from airflow_prominence.standalone.node import Node, environment, host_name

_FIRST_DELAY = 1.0
_LONGEST_DELAY = 30.0
_STEADY = 60.0


def node(args: argparse.Namespace) -> None:
    secret = conf.get("prominence", "internal_secret", fallback="") or conf.get("api_auth", "jwt_secret", fallback="")
    if not secret:
        sys.exit("Set [prominence] internal_secret to that of the API servers: the node's token is made with it.")
    service = _service(args)
    environ = environment(os.environ)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    delay = _FIRST_DELAY
    while not stop.is_set():
        try:
            service.prepare(secret)
        except PermissionError as refused:
            sys.exit(f"{refused.filename}: can't write there; give --state a folder of yours.")
        began = time.monotonic()
        child = subprocess.Popen(service.argv, env=environ, stdin=subprocess.DEVNULL)
        while child.poll() is None and not stop.wait(0.2):
            pass
        if stop.is_set():
            child.terminate()
            child.wait()
            return
        delay = _FIRST_DELAY if time.monotonic() - began > _STEADY else min(delay * 2, _LONGEST_DELAY)
        print(f"The agent ended with {child.returncode}; starting it again in {delay:g} s.", file=sys.stderr)
        stop.wait(delay)


def _service(args: argparse.Namespace) -> Node:
    name = args.name or host_name()
    base = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    url = args.url or conf.get("prominence", "internal_url", fallback="")
    limits = {
        "--cpus": args.cpus,
        "--memory-mb": args.memory_mb,
        "--disk-mb": args.disk_mb,
        "--runtimes": args.runtimes,
    }
    state = args.state.resolve()
    return Node(
        name=name,
        site=args.site or name,
        url=url or base.rstrip("/") + "/prominence/internal/v1",
        state=state,
        images=args.images_dir or state / "images",
        engines=state / "engines",
        extra=(
            *(part for option, value in limits.items() if value is not None for part in (option, str(value))),
            *(["--trusted-users-only"] if args.trusted_users_only else []),
        ),
    )
