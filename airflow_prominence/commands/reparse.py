"""``airflow prominence reparse``: the dag-processor looks at the DAG files now, new ones too, not at its next round."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dag import DagModel
from airflow.models.dagbag import DagPriorityParsingRequest
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from airflow_prominence._compat import dag_files
from airflow_prominence.dags.bundles import DropInBundle
from airflow_prominence.dags.names import API_BUNDLE


def reparse(args: argparse.Namespace) -> None:
    asked = 0
    with create_session() as session:
        known = session.execute(select(DagModel.bundle_name, DagModel.relative_fileloc))
        files = {(str(bundle), str(file)) for bundle, file in known if bundle and file}
        files |= {*dag_files(), *_stubs()}
        found = sorted(
            (bundle, file) for bundle, file in files if bundle != API_BUNDLE and args.bundle in (None, bundle)
        )
        for bundle, file in found:
            try:
                with session.begin_nested():
                    session.add(DagPriorityParsingRequest(bundle_name=bundle, relative_fileloc=file))
            except IntegrityError:
                continue  # asked for already, and not yet done
            asked += 1
    if not found:
        print("There is no DAG file to parse.")
        return
    print(f"Asked for {asked} of {len(found)} files; the others were asked for already.")


def _stubs() -> Iterator[tuple[str, str]]:
    """Bundle and stub of each document: a request for one has the processor look for new documents first."""
    for bundle in DagBundlesManager().get_all_dag_bundles():
        if isinstance(bundle, DropInBundle) and bundle.documents.is_dir():
            yield from ((bundle.name, stub) for stub in bundle.stub_files())
