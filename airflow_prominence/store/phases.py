"""The states of a job's life and what users see of them."""

from __future__ import annotations

QUEUED = "queued"
PROVISIONING = "provisioning"
READY = "ready"
STAGING_IN = "staging_in"
RUNNING = "running"
STAGING_OUT = "staging_out"
DONE = "done"

#: In the order of a job's life; an attempt never goes back within itself.
PHASES = (QUEUED, PROVISIONING, READY, STAGING_IN, RUNNING, STAGING_OUT, DONE)

COMPLETED = "completed"
FAILED = "failed"
KILLED = "killed"
DELETED = "deleted"

#: The states a job can end in (``prominence.md`` 3.1).
OUTCOMES = (COMPLETED, FAILED, KILLED, DELETED)

GRANTED = "granted"
STARTED = "started"
ENDED = "ended"

NODE_UP = "up"
NODE_DRAINING = "draining"
NODE_LOST = "lost"


def reached(phase: str, wanted: str) -> bool:
    """Tell whether a life that stands at ``phase`` has come to ``wanted`` or past it."""
    return PHASES.index(phase) >= PHASES.index(wanted)


def status_of(phase: str) -> str:
    """Return the status users see while a job is not done: ``pending`` or ``running``."""
    return "running" if phase in (RUNNING, STAGING_OUT) else "pending"
