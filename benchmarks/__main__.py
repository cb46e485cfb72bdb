"""``python -m benchmarks [CASE…]``: bring up a stack of its own, measure, print the table, take it down."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import cases, data, flows
from benchmarks.meters import Row, print_table
from tests.integration.stacks import Stack

CASES = {
    "floor": cases.floor,
    "post": cases.posts,
    "first-line": cases.first_line,
    "burst": cases.burst,
    "list": cases.long_list,
    "waiting": cases.waiting,
    "data": data.transfers,
    "staging": data.staging,
    "sweep": flows.accepted,
    "engine": flows.finished,
    "chain": flows.chain,
}


def main() -> None:
    """Run the asked cases, all by default."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("case", nargs="*", choices=[[], *CASES], help="which to run; all by default")
    chosen = parser.parse_args().case or list(CASES)
    home = Path(tempfile.mkdtemp(prefix="prominence-bench-"))
    home.chmod(0o755)
    stack = Stack(home)
    rows: list[Row] = []
    try:
        stack.up()
        warm = stack.submit(cases.document(stack, "true"))
        cases.wait_all(stack, [warm])
        time.sleep(15)
        for name in chosen:
            print(f"  {name} ...", flush=True)
            measured = CASES[name](stack)
            for row in measured:
                print(f"    {row.what}: {row.measured}", flush=True)
            rows += measured
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
    load = os.getloadavg()[1]
    print(f"\n{os.cpu_count()} cores, load average {load:.1f} (5 min)\n")
    print_table(rows)


if __name__ == "__main__":
    main()
