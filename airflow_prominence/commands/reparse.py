"""``airflow prominence reparse``: the dag-processor looks at the DAGs folder's files now, not at its next round."""

from __future__ import annotations

import argparse
import sys

from airflow.models.dag import DagModel
from airflow.models.dagbag import DagPriorityParsingRequest
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

# DAGs that the API makes have no file that a dag-processor could read.
_NOT_PARSED = "prominence"


def reparse(args: argparse.Namespace) -> None:
    asked = 0
    with create_session() as session:
        files = select(DagModel.bundle_name, DagModel.relative_fileloc).where(DagModel.bundle_name != _NOT_PARSED)
        if args.bundle:
            files = files.where(DagModel.bundle_name == args.bundle)
        found = sorted({(bundle, file) for bundle, file in session.execute(files) if bundle and file})
        for bundle, file in found:
            try:
                with session.begin_nested():
                    session.add(DagPriorityParsingRequest(bundle_name=bundle, relative_fileloc=file))
            except IntegrityError:
                continue  # asked for already, and not yet done
            asked += 1
    if not found:
        sys.exit("No DAG file is known yet: the dag-processor finds new files by [dag_processor] refresh_interval.")
    print(f"Asked for {asked} of {len(found)} files; the others were asked for already.")
