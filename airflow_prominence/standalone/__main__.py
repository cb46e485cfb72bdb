"""``python -m airflow_prominence.standalone``: what ``make up``, ``make demo`` and ``make stop`` call."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from pathlib import Path

from airflow_prominence.standalone import control, demo, supervisor
from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.progress import Progress

DEFAULT_HOME = ".demo"
ACTIONS = {
    "run": "start the stack and stay until Ctrl-C, which ends it",
    "up": "start the stack in the background",
    "stop": "end it, with everything that it started",
    "status": "say whether it is up",
    "demo": "start it, run a job with the real client and show what happens",
}


def perform(action: str, home: Path, *, leave: bool = False, command: str = "") -> int:
    """Do what one command says; ``leave`` ends the stack after the demo; ``command`` is how the user calls this."""
    if action == "supervise":
        return supervisor.main(home)
    places = Places.of(home)
    to_stop = f"{command} stop --home {places.home}" if command else "make stop"
    progress = Progress()
    try:
        if action == "stop":
            progress.say("Stopped." if control.stop(places, progress) else "Nothing was running.")
            return 0
        if action == "status":
            return demo.status(places)
        progress.say(f"PROMINENCE on this machine, kept in {places.home}")
        control.up(places, progress)
        if action == "demo":
            try:
                code = demo.run_jobs(places, progress)
            finally:
                if leave:
                    control.stop(places, progress)
            if not leave:
                demo.say_where(places, to_stop)
            return code
        demo.say_where(places, to_stop)
        if action == "run":
            _wait_for_signal()
            control.stop(places, progress)
    except StackError as problem:
        progress.done()
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(StackError):
            control.stop(places, progress)
        return 130
    return 0


def _wait_for_signal() -> None:
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    print("Ctrl-C ends it.", flush=True)
    told.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m airflow_prominence.standalone", description=__doc__)
    parser.add_argument("action", choices=[*ACTIONS, "supervise"], nargs="?", default="run")
    parser.add_argument("--home", type=Path, default=Path(DEFAULT_HOME), help="folder of the stack (%(default)s)")
    parser.add_argument("--exit", action="store_true", help="with demo: end the stack after the job")
    arguments = parser.parse_args()
    return perform(arguments.action, arguments.home, leave=arguments.exit)


if __name__ == "__main__":
    sys.exit(main())
