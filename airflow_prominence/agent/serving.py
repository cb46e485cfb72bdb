"""From the command line of `serve` to a running service: what the machine has, and which runtimes it may use."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import metadata, serve
from .node import Node


def _runtimes(options: argparse.Namespace, state: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Which command serves which word, and what is known of each."""
    from . import selftest

    return selftest.choose(state, options.engine_dir, options.runtimes, options.trusted_users_only)


def main(options: argparse.Namespace, state: str) -> int:
    try:
        serve.prepare(state)
        runtimes, info = _runtimes(options, state)
        images = None if options.images_dir is None else os.path.abspath(options.images_dir)
        engine = None if options.engine_dir is None else os.path.abspath(options.engine_dir)
        insecure = tuple(host.strip() for host in options.insecure_registries.split(",") if host.strip())
        ca_file = None if options.registry_ca is None else os.path.abspath(options.registry_ca)
        room = serve.detected(state, options.cpus, options.memory_mb, options.disk_mb)
        config = serve.Config(
            url=options.url,
            token_file=os.path.abspath(options.token_file),
            name=options.name,
            site=options.site,
            state=state,
            node=Node(state, runtimes, info, images, engine, insecure, ca_file),
            metadata=metadata.block(),
            **room,
        )
        return serve.serve(config)
    except (serve.Unusable, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
