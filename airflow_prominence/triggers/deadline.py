"""What Airflow calls in the triggerer when a run has missed its deadline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


async def run_is_late(context: Mapping[str, Any]) -> str:
    """Say in the log that a run is late; returns the sentence, which Airflow keeps as the callback's output."""
    run, deadline = context["dag_run"], context["deadline"]
    sentence = (
        f"Run {run['dag_run_id']} of DAG {run['dag_id']} is late: "
        f"it was due at {deadline['deadline_time']} and is {run['state']}"
    )
    log.warning(sentence)
    return sentence
