"""The agent's command line: serve, run and selftest."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prominence-agent", description="Runs PROMINENCE jobs on this node.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True

    serve = commands.add_parser("serve", help="be this node's service until SIGTERM; running jobs outlive it")
    serve.add_argument("--url", required=True, help="base address of the API's internal routes")
    serve.add_argument("--token-file", required=True, help="file with the node's token")
    serve.add_argument("--name", required=True, help="this node's name")
    serve.add_argument("--site", required=True, help="the site that this node belongs to")
    serve.add_argument("--state", required=True, help="folder for jobs, images and records")
    serve.add_argument("--cpus", type=int, help="cores to give to jobs (default: all)")
    serve.add_argument("--memory-mb", type=int, help="memory to give to jobs (default: all but a reserve)")
    serve.add_argument("--disk-mb", type=int, help="disk to give to jobs (default: nine tenths of what is free)")
    serve.add_argument(
        "--runtimes", default="auto", help="singularity=COMMAND,udocker=COMMAND, or auto: the first that passes"
    )
    serve.add_argument(
        "--trusted-users-only",
        action="store_true",
        help="all users of this node trust each other: a runtime that isolates nothing (udocker) may serve them",
    )
    serve.add_argument("--images-dir", help="folder of local image archives (default: STATE/images)")
    serve.add_argument(
        "--insecure-registries", default="", help="HOST:PORT,... that images may be taken from over plain HTTP"
    )
    serve.add_argument("--registry-ca", help="file of certificates to trust for images beside the system's")
    serve.add_argument("--engine-dir", help="folder for what the runtimes keep for themselves")

    run = commands.add_parser("run", help="run the one job whose assignment is recorded in the state folder")
    run.add_argument("--state", required=True)
    run.add_argument("--lease", required=True)
    run.add_argument("--deliver-only", action="store_true", help="clear up after a dead runner and deliver its reports")

    selftest = commands.add_parser("selftest", help="show which container runtimes this machine can be trusted with")
    selftest.add_argument("--state", required=True)
    selftest.add_argument("--engine-dir")
    selftest.add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    state = os.path.abspath(options.state)
    if options.command == "run":
        from .run import main as run_main

        return run_main(state, options.lease, options.deliver_only)
    if options.command == "selftest":
        from .selftest import main as selftest_main

        return selftest_main(state, options.engine_dir, as_json=options.json)
    from . import serving

    return serving.main(options, state)


def command() -> None:
    """The way in of the `.pyz`."""
    sys.exit(main())


if __name__ == "__main__":
    command()
