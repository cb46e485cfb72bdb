"""The tables of jobs, nodes and leases

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("prominence_id_seq")))
    op.create_table(
        "prominence_idempotency",
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("key", sa.String(length=250), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_prominence_idempotency")),
    )
    op.create_table(
        "prominence_job",
        sa.Column("id", sa.BigInteger(), server_default=sa.text("nextval('prominence_id_seq')"), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("owner_groups", sa.JSON(), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("tasks", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("policies", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.Column("disk_mb", sa.BigInteger(), nullable=False),
        sa.Column("walltime_s", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("node_success", sa.Boolean(), nullable=True),
        sa.Column("execution", sa.JSON(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("wants_capacity", sa.Boolean(), nullable=False),
        sa.Column("in_queue", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("queue_until", sa.Float(precision=53), nullable=True),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("released_at", sa.Float(precision=53), nullable=True),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("group_id", sa.String(length=250), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("holder_until", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_job")),
        sa.UniqueConstraint("dag_id", "run_id", "group_id", name=op.f("uq_prominence_job_dag_id_run_id_group_id")),
    )
    op.create_index(
        "ix_prominence_job_active",
        "prominence_job",
        ["phase"],
        unique=False,
        postgresql_where=sa.text("phase <> 'done'"),
    )
    op.create_index("ix_prominence_job_owner_ended", "prominence_job", ["owner", "ended_at"], unique=False)
    op.create_index(
        "ix_prominence_job_unreleased",
        "prominence_job",
        ["id"],
        unique=False,
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "prominence_site",
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_prominence_site")),
    )
    op.create_table(
        "prominence_token",
        sa.Column("jti", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("issued_at", sa.Float(precision=53), nullable=False),
        sa.Column("expires_at", sa.Float(precision=53), nullable=False),
        sa.Column("revoked_at", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("jti", name=op.f("pk_prominence_token")),
    )
    op.create_index(op.f("ix_prominence_token_owner"), "prominence_token", ["owner"], unique=False)
    op.create_table(
        "prominence_uptime",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("up_since", sa.Float(precision=53), nullable=False),
        sa.Column("last_beat", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_uptime")),
    )
    op.create_table(
        "prominence_attempt",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(length=250), nullable=True),
        sa.Column("queued_at", sa.Float(precision=53), nullable=False),
        sa.Column("ready_at", sa.Float(precision=53), nullable=True),
        sa.Column("staging_in_at", sa.Float(precision=53), nullable=True),
        sa.Column("running_at", sa.Float(precision=53), nullable=True),
        sa.Column("staging_out_at", sa.Float(precision=53), nullable=True),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("execution", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_attempt_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_prominence_attempt")),
    )
    op.create_table(
        "prominence_event",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("time", sa.Float(precision=53), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_event_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_event")),
    )
    op.create_index(op.f("ix_prominence_event_job_id"), "prominence_event", ["job_id"], unique=False)
    op.create_table(
        "prominence_label",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_label_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_prominence_label")),
    )
    op.create_index("ix_prominence_label_key_value", "prominence_label", ["key", "value"], unique=False)
    op.create_table(
        "prominence_node",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(length=250), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.Column("disk_mb", sa.BigInteger(), nullable=False),
        sa.Column("runtimes", sa.JSON(), nullable=False),
        sa.Column("runtime_info", sa.JSON(), nullable=False),
        sa.Column("agent_version", sa.String(length=64), nullable=False),
        sa.Column("registered_at", sa.Float(precision=53), nullable=False),
        sa.Column("last_seen", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["prominence_site.name"], name=op.f("fk_prominence_node_site")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_node")),
        sa.UniqueConstraint("site", "name", name=op.f("uq_prominence_node_site_name")),
    )
    op.create_table(
        "prominence_output",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("node_num", sa.Integer(), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_output_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "attempt", "node_num", "stream", "offset", name=op.f("pk_prominence_output")),
    )
    op.create_table(
        "prominence_secret",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_secret_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "path", name=op.f("pk_prominence_secret")),
    )
    op.create_table(
        "prominence_lease",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("node_num", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.Column("disk_mb", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stop_reason", sa.String(length=64), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("granted_at", sa.Float(precision=53), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_lease_job_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["node_id"], ["prominence_node.id"], name=op.f("fk_prominence_lease_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_lease")),
        sa.UniqueConstraint("job_id", "attempt", "node_num", name=op.f("uq_prominence_lease_job_id_attempt_node_num")),
    )
    op.create_index(
        "ix_prominence_lease_open",
        "prominence_lease",
        ["node_id"],
        unique=False,
        postgresql_where=sa.text("state <> 'ended'"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_prominence_lease_open", table_name="prominence_lease", postgresql_where=sa.text("state <> 'ended'")
    )
    op.drop_table("prominence_lease")
    op.drop_table("prominence_secret")
    op.drop_table("prominence_output")
    op.drop_table("prominence_node")
    op.drop_index("ix_prominence_label_key_value", table_name="prominence_label")
    op.drop_table("prominence_label")
    op.drop_index(op.f("ix_prominence_event_job_id"), table_name="prominence_event")
    op.drop_table("prominence_event")
    op.drop_table("prominence_attempt")
    op.drop_table("prominence_uptime")
    op.drop_index(op.f("ix_prominence_token_owner"), table_name="prominence_token")
    op.drop_table("prominence_token")
    op.drop_table("prominence_site")
    op.drop_index(
        "ix_prominence_job_unreleased", table_name="prominence_job", postgresql_where=sa.text("released_at IS NULL")
    )
    op.drop_index("ix_prominence_job_owner_ended", table_name="prominence_job")
    op.drop_index("ix_prominence_job_active", table_name="prominence_job", postgresql_where=sa.text("phase <> 'done'"))
    op.drop_table("prominence_job")
    op.drop_table("prominence_idempotency")
    op.execute(sa.schema.DropSequence(sa.Sequence("prominence_id_seq")))
