"""Letters to users: written in the transaction of what they tell of, sent later by whoever claims them.

A letter is claimed by pushing its next try into the future, in a transaction of its own: nobody holds a row, or a
session, while a mail server takes its time. A sender that dies leaves it to the next one, after ``CLAIM_S``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Job, Mail, Workflow

EVENT = "jobFinished"
WORKFLOW_EVENT = "workflowFinished"

#: A claimed letter is nobody else's for so long; a sender must be done with it well before (seconds).
CLAIM_S = 300.0

#: As browsers understand an address; what could end a line or name a second recipient is not in it.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\Z")
_LONGEST_ADDRESS = 254

_LONGEST_NAME = 60
_LONGEST_REASON = 500
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Letter:
    """A claimed letter; ``tries`` counts this one too, times are epoch seconds."""

    id: int
    recipient: str
    subject: str
    body: str
    created_at: float
    tries: int


def is_address(text: str | None) -> bool:
    """Tell whether a letter could be sent there; what a token says of its owner need be no address."""
    return text is not None and len(text) <= _LONGEST_ADDRESS and _ADDRESS.match(text) is not None


def wanted(job: Job) -> bool:
    """Tell whether the job's owner has an address and asked for letters about it."""
    asked = job.document.get("notifications") or ()
    return job.email is not None and any(item.get("event") == EVENT for item in asked)


def job_finished(session: Session, job: Job, only_copy_until: float | None = None) -> None:
    """Write the letter about a job's end, if its owner wants one; the job's row holds its end already.

    ``only_copy_until`` is until when its node keeps what could not be stored of its output (epoch seconds).
    """
    if not wanted(job):
        return
    name = one_line(job.name, _LONGEST_NAME)
    subject = f"PROMINENCE: job {job.id}{f' {name}' if name else ''} {job.status}"
    write(session, str(job.email), subject, _finished(job, name, only_copy_until), job.id)


def workflow_finished(session: Session, workflow: Workflow) -> None:
    """Write the letter about a workflow's end, if its owner wants one; its row holds its end already."""
    asked = workflow.document.get("notifications") or ()
    if workflow.email is None or not any(item.get("event") == WORKFLOW_EVENT for item in asked):
        return
    name = one_line(workflow.name, _LONGEST_NAME)
    subject = f"PROMINENCE: workflow {workflow.id}{f' {name}' if name else ''} {workflow.status}"
    write(session, workflow.email, subject, _finished_workflow(workflow, name))


def write(session: Session, recipient: str, subject: str, body: str, job_id: int | None = None) -> None:
    """Put a letter into the box; nothing is committed here."""
    now = time.time()
    session.add(
        Mail(
            job_id=job_id,
            recipient=recipient,
            subject=one_line(subject, 200),
            body=body,
            created_at=now,
            next_try_at=now,
            tries=0,
            sent_at=None,
            given_up_at=None,
            error="",
        )
    )


def one_line(text: str, longest: int) -> str:
    """Return a user's text so that it ends no line, neither of a header nor of the letter, and is not too long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def day(at: float) -> str:
    """Return a day as a user reads it, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def moment(at: float) -> str:
    """Return a moment as a user reads it, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _finished(job: Job, name: str, only_copy_until: float | None) -> str:
    titled = f'{job.id} "{name}"' if name else str(job.id)
    facts = [("Status", job.status)]
    if job.reason:
        facts.append(("Reason", one_line(job.reason, _LONGEST_REASON)))
    codes = exit_codes(job.execution)
    if codes:
        facts.append(("Exit code" if len(codes) == 1 else "Exit codes", ", ".join(map(str, codes))))
    if job.attempt > 1:
        facts.append(("Attempts", str(job.attempt)))
    moments = (("Submitted", job.created_at), ("Started", job.started_at), ("Ended", job.ended_at))
    facts += [(title, moment(at)) for title, at in moments if at is not None]
    if only_copy_until is not None:
        facts.append(("Output that is not stored", f"kept on the job's node until {moment(only_copy_until)}"))
    ways = []
    if only_copy_until is not None:
        ways.append(("Store it until then", "clear the task stage_out of the job's run in Airflow"))
    if job.started_at is not None:
        ways += [("Standard output", f"prominence stdout {job.id}"), ("Standard error", f"prominence stderr {job.id}")]
    if job.document.get("outputFiles") or job.document.get("outputDirs"):
        ways.append(("Output files", f"prominence download {job.id}"))
    ways.append(("All about it", f"prominence describe {job.id}"))
    return f"Your job {titled} has ended.\n\n{_table(facts)}\n\n{_table(ways)}\n"


def _finished_workflow(workflow: Workflow, name: str) -> str:
    titled = f'{workflow.id} "{name}"' if name else str(workflow.id)
    facts = [("Status", str(workflow.status))]
    if workflow.reason:
        facts.append(("Reason", one_line(workflow.reason, _LONGEST_REASON)))
    progress = workflow.progress or {}
    facts.append(("Jobs", f"{progress.get('done', 0)} of {progress.get('total', 0)} ended well"))
    moments = (("Submitted", workflow.created_at), ("Started", workflow.started_at), ("Ended", workflow.ended_at))
    facts += [(title, moment(at)) for title, at in moments if at is not None]
    ways = [("Its jobs", f"prominence list jobs {workflow.id} --all")]
    if workflow.status == "failed":
        ways.append(("What failed, again", f"prominence rerun {workflow.id}"))
    ways.append(("All about it", f"prominence describe workflow {workflow.id}"))
    return f"Your workflow {titled} has ended.\n\n{_table(facts)}\n\n{_table(ways)}\n"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(title) for title, _ in rows) + 2
    return "\n".join(f"  {f'{title}:':{width}} {text}" for title, text in rows)


def exit_codes(execution: Mapping[str, Any] | None) -> list[int]:
    """Return the exit codes of the tasks that have one."""
    tasks = (execution or {}).get("tasks") or ()
    return [task["exitCode"] for task in tasks if isinstance(task.get("exitCode"), int)]


def claim_next(session: Session, now: float) -> Letter | None:
    """Claim the letter that has waited longest; what another sender is just claiming is passed over."""
    mail = session.scalars(
        select(Mail)
        .where(Mail.sent_at.is_(None), Mail.given_up_at.is_(None), Mail.next_try_at <= now)
        .order_by(Mail.next_try_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if mail is None:
        return None
    mail.next_try_at = now + CLAIM_S
    mail.tries += 1
    return Letter(mail.id, mail.recipient, mail.subject, mail.body, mail.created_at, mail.tries)


def sent(session: Session, letter: Letter, now: float) -> None:
    """Note that the mail server has taken a letter."""
    mail = session.get(Mail, letter.id, with_for_update=True)
    if mail is not None:
        mail.sent_at, mail.error = now, ""


def failed(session: Session, letter: Letter, error: str, now: float, again_at: float | None) -> None:
    """Note why a try failed, and when the next one is due; ``None``: there will be none.

    A sender that was so slow that another has claimed the letter meanwhile changes nothing.
    """
    mail = session.get(Mail, letter.id, with_for_update=True)
    if mail is None or mail.tries != letter.tries or mail.sent_at is not None:
        return
    mail.error = one_line(error, _LONGEST_ERROR)
    if again_at is None:
        mail.given_up_at = now
    else:
        mail.next_try_at = again_at


def forget(session: Session, before: float) -> None:
    """Drop the letters that were sent or given up before then (epoch seconds)."""
    session.execute(delete(Mail).where(or_(Mail.sent_at < before, Mail.given_up_at < before)))
