"""The tables. Times are epoch seconds (double precision, UTC); sizes are MB unless the name says otherwise."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: One counter for jobs and workflows, as the original service had (``prominence.md`` 0.5).
id_sequence = Sequence("prominence_id_seq", metadata=metadata)


#: Whether a job's owner has an address and asked for letters, as an index and those who want it to be used say it.
WANTS_LETTERS = "email IS NOT NULL AND coalesce(json_array_length(document -> 'notifications'), 0) > 0"


class Base(DeclarativeBase):
    """Base of our tables, on a metadata of our own."""

    metadata = metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[Any]: JSON,
        float: Float(53),
    }


class Job(Base):
    """One job of a user: the document, where its life stands, and the run in Airflow that drives it."""

    __tablename__ = "prominence_job"

    id: Mapped[int] = mapped_column(BigInteger, id_sequence, server_default=id_sequence.next_value(), primary_key=True)
    owner: Mapped[str] = mapped_column(String(250))
    owner_groups: Mapped[list[str]]
    email: Mapped[str | None] = mapped_column(String(320))
    name: Mapped[str] = mapped_column(String(512))
    document: Mapped[dict[str, Any]]
    tasks: Mapped[list[Any]]
    labels: Mapped[dict[str, Any]]
    policies: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(Integer)

    nodes: Mapped[int] = mapped_column(Integer)
    cpus: Mapped[int] = mapped_column(Integer)
    memory_mb: Mapped[int] = mapped_column(BigInteger)
    disk_mb: Mapped[int] = mapped_column(BigInteger)
    walltime_s: Mapped[int] = mapped_column(BigInteger)

    phase: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    node_success: Mapped[bool | None] = mapped_column(Boolean)
    execution: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(Integer)
    max_attempts: Mapped[int] = mapped_column(Integer)
    wants_capacity: Mapped[bool] = mapped_column(Boolean)
    #: Whether it is listed among the active ones when it is done, until its user removes it (``leaveInQueue``).
    in_queue: Mapped[bool] = mapped_column(Boolean)

    created_at: Mapped[float]
    queue_until: Mapped[float | None]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    released_at: Mapped[float | None]

    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    #: The job's group of tasks in the DAG, and its place among the jobs of a factory that share one (else -1).
    group_id: Mapped[str] = mapped_column(String(250))
    slot: Mapped[int] = mapped_column(Integer)

    #: The workflow that it is part of, its name there, and where a factory made it: which of them, of what parameters.
    workflow_id: Mapped[int | None] = mapped_column(ForeignKey("prominence_workflow.id", ondelete="CASCADE"))
    member: Mapped[str | None] = mapped_column(String(512))
    instance: Mapped[int | None] = mapped_column(Integer)
    parameters: Mapped[dict[str, Any] | None]
    #: In a rerun: the job of an earlier workflow that had ended well, whose output this one shows as its own.
    kept_from: Mapped[int | None] = mapped_column(BigInteger)

    version: Mapped[int] = mapped_column(BigInteger)
    holder: Mapped[str | None] = mapped_column(String(64))
    holder_until: Mapped[float | None]

    #: The instance of the run's task ``run`` that the present attempts belong to; clearing it in Airflow makes another.
    run_ti: Mapped[str | None] = mapped_column(String(36))
    #: The instance of its task ``stage_out`` that belongs to the job's own end; a later one stores outputs once more.
    stage_out_ti: Mapped[str | None] = mapped_column(String(36))

    #: To which phase it may go, of a job that holds at their borders (``None``: it never does); before which it holds
    #: now, and once it holds after its tasks, whether these ended well.
    allowed: Mapped[str | None] = mapped_column(String(16))
    holding: Mapped[str | None] = mapped_column(String(16))
    tasks_success: Mapped[bool | None] = mapped_column(Boolean)

    #: Names the job's objects in the object store, where a number that anybody can count up would be guessed.
    uid: Mapped[str] = mapped_column(String(32), unique=True)

    #: When what was kept of a finished job went, by the settings of retention; ``None`` while it is there.
    stdout_gone_at: Mapped[float | None]
    outputs_gone_at: Mapped[float | None]
    warned_at: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("dag_id", "run_id", "group_id", "slot"),
        Index("ix_prominence_job_workflow", "workflow_id", "member", "instance"),
        Index("ix_prominence_job_owner_ended", "owner", "ended_at"),
        Index("ix_prominence_job_active", "phase", postgresql_where=text("phase <> 'done'")),
        Index("ix_prominence_job_unreleased", "id", postgresql_where=text("released_at IS NULL")),
        # What retention looks for each minute must not cost more the more jobs there have been.
        Index("ix_prominence_job_stdout_kept", "ended_at", postgresql_where=text("stdout_gone_at IS NULL")),
        Index("ix_prominence_job_outputs_kept", "ended_at", postgresql_where=text("outputs_gone_at IS NULL")),
        Index("ix_prominence_job_ended", "ended_at"),
        Index(
            "ix_prominence_job_unwarned", "ended_at", postgresql_where=text(f"warned_at IS NULL AND {WANTS_LETTERS}")
        ),
    )


class Workflow(Base):
    """A workflow of a user: the document, its end, and the run in Airflow that is made of it.

    Until the end its status and progress are those of its jobs; ``document`` is normalised and holds no secret.
    """

    __tablename__ = "prominence_workflow"

    id: Mapped[int] = mapped_column(BigInteger, id_sequence, server_default=id_sequence.next_value(), primary_key=True)
    owner: Mapped[str] = mapped_column(String(250))
    owner_groups: Mapped[list[str]]
    email: Mapped[str | None] = mapped_column(String(320))
    name: Mapped[str] = mapped_column(String(512))
    document: Mapped[dict[str, Any]]
    #: The workflow of which this one runs what had failed or never run.
    rerun_of: Mapped[int | None] = mapped_column(BigInteger)

    #: The run of the shared DAG that has made it, if one has.
    launcher: Mapped[str | None] = mapped_column(String(250), unique=True)

    #: ``None`` while it is active.
    status: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    in_queue: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    #: Its jobs by what became of them, once it has ended: what retention takes away later changes it no more.
    progress: Mapped[dict[str, Any] | None]

    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))

    __table_args__ = (
        UniqueConstraint("dag_id", "run_id"),
        Index("ix_prominence_workflow_owner_ended", "owner", "ended_at"),
        Index("ix_prominence_workflow_ended", "ended_at"),
    )


class WorkflowLabel(Base):
    """A workflow's labels, as those of jobs."""

    __tablename__ = "prominence_workflow_label"

    workflow_id: Mapped[int] = mapped_column(ForeignKey("prominence_workflow.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))

    __table_args__ = (Index("ix_prominence_workflow_label_key_value", "key", "value"),)


class WorkflowSecret(Base):
    """A secret taken out of a workflow's document, encrypted, by its path there; its jobs' secrets are these."""

    __tablename__ = "prominence_workflow_secret"

    workflow_id: Mapped[int] = mapped_column(ForeignKey("prominence_workflow.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)


class Unsettled(Base):
    """Says that a job of a workflow has ended and what follows of it for the workflow is still to be seen to.

    A row of its own for each, so that jobs which end at the same moment don't wait for each other.
    """

    __tablename__ = "prominence_unsettled"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workflow_id: Mapped[int] = mapped_column(ForeignKey("prominence_workflow.id", ondelete="CASCADE"), index=True)


class Attempt(Base):
    """One attempt of a job, from its queueing to its end; the last one is the job's present."""

    __tablename__ = "prominence_attempt"

    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    site: Mapped[str | None] = mapped_column(String(250))
    queued_at: Mapped[float]
    ready_at: Mapped[float | None]
    staging_in_at: Mapped[float | None]
    running_at: Mapped[float | None]
    staging_out_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    status: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    execution: Mapped[dict[str, Any] | None]


class Label(Base):
    """A job's labels, for constraints: keys compare without case, values with it (``prominence.md`` 2.1)."""

    __tablename__ = "prominence_label"

    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))

    __table_args__ = (Index("ix_prominence_label_key_value", "key", "value"),)


class Site(Base):
    """A site; its row is what a claim locks, so that capacity is given by one transaction at a time."""

    __tablename__ = "prominence_site"

    name: Mapped[str] = mapped_column(String(250), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    updated_at: Mapped[float]


class Node(Base):
    """A node of a site: a VM, a fixed host or this machine, with an agent that serves it."""

    __tablename__ = "prominence_node"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    site: Mapped[str] = mapped_column(ForeignKey("prominence_site.name"))
    name: Mapped[str] = mapped_column(String(250))
    boot: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    cpus: Mapped[int] = mapped_column(Integer)
    memory_mb: Mapped[int] = mapped_column(BigInteger)
    disk_mb: Mapped[int] = mapped_column(BigInteger)
    runtimes: Mapped[dict[str, Any]]
    runtime_info: Mapped[dict[str, Any]]
    agent_version: Mapped[str] = mapped_column(String(64))
    registered_at: Mapped[float]
    last_seen: Mapped[float]

    __table_args__ = (UniqueConstraint("site", "name"),)


class Lease(Base):
    """A node's share given to one attempt of a job; ended with the job's own end, never by a DAG's task."""

    __tablename__ = "prominence_lease"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(Integer)
    node_num: Mapped[int] = mapped_column(Integer)
    node_id: Mapped[int] = mapped_column(ForeignKey("prominence_node.id"))
    cpus: Mapped[int] = mapped_column(Integer)
    memory_mb: Mapped[int] = mapped_column(BigInteger)
    disk_mb: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    stop_reason: Mapped[str | None] = mapped_column(String(64))
    seq: Mapped[int] = mapped_column(BigInteger)
    granted_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    #: Until when the node keeps the job's directory after its end, and when it turned out to be gone.
    kept_until: Mapped[float | None]
    kept_gone_at: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "node_num"),
        Index("ix_prominence_lease_open", "node_id", postgresql_where=text("state <> 'ended'")),
        Index(
            "ix_prominence_lease_kept",
            "node_id",
            postgresql_where=text("kept_until IS NOT NULL AND kept_gone_at IS NULL"),
        ),
    )


class Output(Base):
    """A piece of a task's standard output or error, at most 64 KiB, by its byte offset in the stream."""

    __tablename__ = "prominence_output"

    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    node_num: Mapped[int] = mapped_column(Integer, primary_key=True)
    stream: Mapped[str] = mapped_column(String(8), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Event(Base):
    """A line of a job's story, as the task logs and the describe view tell it."""

    __tablename__ = "prominence_event"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int] = mapped_column(Integer)
    time: Mapped[float]
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)


class Secret(Base):
    """A secret taken out of a document at submission, Fernet-encrypted, by its path in the document."""

    __tablename__ = "prominence_secret"

    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)


class UserToken(Base):
    """An issued user token, by its ``jti``; the bearer itself is never stored."""

    __tablename__ = "prominence_token"

    jti: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(250), index=True)
    issued_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]


class TokenCutoff(Base):
    """All tokens of a user were revoked: jobs with ids up to this one may only store their outputs with theirs."""

    __tablename__ = "prominence_token_cutoff"

    owner: Mapped[str] = mapped_column(String(250), primary_key=True)
    last_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[float]


class Idempotency(Base):
    """A submission's ``Idempotency-Key``: the same key and body give the same id again."""

    __tablename__ = "prominence_idempotency"

    owner: Mapped[str] = mapped_column(String(250), primary_key=True)
    key: Mapped[str] = mapped_column(String(250), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float]


class Uptime(Base):
    """When an API server last beat, and since when one has without a gap: a node's silence counts only then."""

    __tablename__ = "prominence_uptime"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    up_since: Mapped[float]
    last_beat: Mapped[float]


class StagedOutput(Base):
    """An output of a job that lies in the object store.

    ``asked`` is what the document wrote, ``name`` the path that it meant, ``file`` its name in the job's folder there.
    """

    __tablename__ = "prominence_staged_output"

    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str] = mapped_column(String(4096), primary_key=True)
    asked: Mapped[str] = mapped_column(String(1024))
    attempt: Mapped[int] = mapped_column(Integer)
    file: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    stored_at: Mapped[float]


class Upload(Base):
    """An object that a user put, or was given a URL to put, into the object store; ``key`` is below ``uploads/``."""

    __tablename__ = "prominence_upload"

    key: Mapped[str] = mapped_column(String(1400), primary_key=True)
    owner: Mapped[str] = mapped_column(String(250), index=True)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float]
    stored_at: Mapped[float | None]
    #: When a job that names it was last submitted: what is in use stays.
    used_at: Mapped[float | None]
    warned_at: Mapped[float | None]


class KeyValue(Base):
    """A value of a user's key-value store (``prominence.md`` 1.4); keys hold no leading slash."""

    __tablename__ = "prominence_kv"

    owner: Mapped[str] = mapped_column(String(250), primary_key=True)
    key: Mapped[str] = mapped_column(String(1024), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)
    updated_at: Mapped[float]


class Command(Base):
    """An order to a job's node, carried by the node's poll and answered in pieces.

    ``exec`` and ``snapshot`` are for running jobs, ``stage_out`` for one that has ended and whose directory is kept.
    """

    __tablename__ = "prominence_command"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("prominence_job.id", ondelete="CASCADE"), index=True)
    lease_id: Mapped[str] = mapped_column(ForeignKey("prominence_lease.id", ondelete="CASCADE"))
    node_id: Mapped[int] = mapped_column(ForeignKey("prominence_node.id"))
    kind: Mapped[str] = mapped_column(String(16))
    order: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    deadline: Mapped[float]
    ended_at: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]

    __table_args__ = (Index("ix_prominence_command_open", "node_id", postgresql_where=text("state <> 'ended'")),)


class CommandOutput(Base):
    """A piece of what a command wrote, by its byte offset."""

    __tablename__ = "prominence_command_output"

    command_id: Mapped[str] = mapped_column(ForeignKey("prominence_command.id", ondelete="CASCADE"), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Mail(Base):
    """A letter to a user that waits for the mail server; written in the transaction of what it tells of."""

    __tablename__ = "prominence_mail"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    recipient: Mapped[str] = mapped_column(String(320))
    subject: Mapped[str] = mapped_column(String(998))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]
    next_try_at: Mapped[float]
    tries: Mapped[int] = mapped_column(Integer)
    sent_at: Mapped[float | None]
    #: When no further try was worth it; ``error`` says what the last one failed of.
    given_up_at: Mapped[float | None]
    error: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        Index(
            "ix_prominence_mail_waiting",
            "next_try_at",
            postgresql_where=text("sent_at IS NULL AND given_up_at IS NULL"),
        ),
    )


class KeptUsage(Base):
    """What an attempt of a job used whose description is gone: the books outlive what they are about."""

    __tablename__ = "prominence_usage"

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    owner: Mapped[str] = mapped_column(String(250))
    owner_groups: Mapped[list[str]]
    ended_at: Mapped[float]
    #: Seconds of CPU, and of wall time once for each core that was held.
    cpu_s: Mapped[float]
    wall_s: Mapped[float]

    __table_args__ = (Index("ix_prominence_usage_ended", "ended_at"),)
