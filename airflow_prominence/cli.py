"""``airflow prominence …``: the commands for admins.

Airflow calls this for every ``airflow`` command, so it imports nothing but what describes commands.
"""

from __future__ import annotations

from pathlib import Path

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

__all__ = ["get_commands"]

_COMMANDS = "airflow_prominence.commands"


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


_STANDALONE = ActionCommand(
    name="standalone",
    help="Run PostgreSQL, Airflow and this machine's node service, all on this machine",
    description=(
        "run (the default) stays until Ctrl-C and then ends everything; up leaves the stack in the background; "
        "demo also runs a job with the prominence client; stop ends a stack; status says whether it is up."
    ),
    func=lazy_load_command(f"{_COMMANDS}.standalone.standalone"),
    args=(
        Arg(
            ("action",),
            help="run, up, demo, stop or status",
            choices=("run", "up", "demo", "stop", "status"),
            nargs="?",
            default="run",
        ),
        Arg(("--home",), help="Folder that keeps the stack's data (.demo)", type=Path, default=Path(".demo")),
        Arg(("--exit",), help="With demo: end the stack after the job", action="store_true"),
    ),
)

_NODE = ActionCommand(
    name="node",
    help="Serve this machine's jobs: mint a node token, run the agent, start it again when it dies",
    func=lazy_load_command(f"{_COMMANDS}.node.node"),
    args=(
        Arg(("--name",), help="Name of the node (this host's name)"),
        Arg(("--site",), help="Site that the node belongs to (the node's name)"),
        Arg(("--url",), help="Address of the internal routes ([prominence] internal_url)"),
        Arg(
            ("--state",),
            help="Folder of its jobs, images and records; the users that jobs run as must be able to reach it",
            type=Path,
            default=Path("/var/lib/prominence/node"),
        ),
        Arg(("--images-dir",), help="Folder of local image archives (images in the state folder)", type=Path),
        Arg(("--cpus",), help="CPU cores for jobs (all)", type=int),
        Arg(("--memory-mb",), help="Megabytes of memory for jobs (all)", type=int),
        Arg(("--disk-mb",), help="Megabytes of disk for jobs (what is free)", type=int),
        Arg(("--runtimes",), help="Which command serves which runtime, or auto", metavar="RUNTIME=COMMAND,…"),
        Arg(
            ("--trusted-users-only",),
            help="All users of this node trust each other: a runtime that isolates nothing may serve them",
            action="store_true",
        ),
    ),
)

_TOKEN = ActionCommand(
    name="token",
    help="Print a token with which a user's prominence client is let in; or list or revoke tokens",
    description="Only the token is on standard output; when it expires is on standard error.",
    func=lazy_load_command(f"{_COMMANDS}.token.token"),
    args=(
        Arg(("user",), help="Name of the user", nargs="?"),
        Arg(("--days",), help="Days that the token is good for ([prominence] user_token_days)", type=float),
        Arg(("--groups",), help="Groups of the user, separated by commas", type=_names, default=[]),
        Arg(("--email",), help="Address of the user"),
        Arg(("--list",), help="List the issued tokens, of one user or of all", action="store_true"),
        Arg(("--revoke",), help="Revoke the token with this id; the user's jobs are not touched", metavar="JTI"),
        Arg(
            ("--revoke-all",),
            help="Revoke all tokens of the user; those of the user's jobs can only store outputs from then on",
            action="store_true",
        ),
    ),
)

_REPARSE = ActionCommand(
    name="reparse",
    help="Have the dag-processor read the files of the DAGs folder at once",
    func=lazy_load_command(f"{_COMMANDS}.reparse.reparse"),
    args=(Arg(("--bundle",), help="Only the files of this bundle"),),
)

_CHECK_CONFIG = ActionCommand(
    name="check-config",
    help="Say what in Airflow's configuration does not suit PROMINENCE, and how to mend it",
    func=lazy_load_command(f"{_COMMANDS}.check_config.check_config"),
    args=(),
)


def get_commands() -> list[CLICommand]:
    """The command group, for the provider's entry in Airflow's command line."""
    return [
        GroupCommand(
            name="prominence",
            help="PROMINENCE batch system",
            subcommands=(_STANDALONE, _NODE, _TOKEN, _REPARSE, _CHECK_CONFIG),
        )
    ]
