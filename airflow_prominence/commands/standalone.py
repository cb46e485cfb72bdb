"""``airflow prominence standalone``."""

from __future__ import annotations

import argparse
import sys

from airflow_prominence.standalone.__main__ import perform


def standalone(args: argparse.Namespace) -> None:
    sys.exit(perform(args.action, args.home, leave=args.exit, command="airflow prominence standalone"))
