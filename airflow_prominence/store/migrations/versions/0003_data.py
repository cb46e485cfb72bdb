"""Data: uploads, staged outputs, the key-value store, commands to running jobs, letters, retention

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.Float(precision=53)


def upgrade() -> None:
    op.add_column("prominence_job", sa.Column("uid", sa.String(length=32), nullable=True))
    # Two random numbers' worth of hash for the jobs that are there; new ones bring their own.
    op.execute("UPDATE prominence_job SET uid = md5(random()::text || id::text || clock_timestamp()::text)")
    op.alter_column("prominence_job", "uid", nullable=False)
    op.create_unique_constraint(op.f("uq_prominence_job_uid"), "prominence_job", ["uid"])
    for name in ("stdout_gone_at", "outputs_gone_at", "warned_at"):
        op.add_column("prominence_job", sa.Column(name, _TIME, nullable=True))
    op.create_table(
        "prominence_staged_output",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=1400), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("stored_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_staged_output_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_prominence_staged_output")),
    )
    op.create_table(
        "prominence_upload",
        sa.Column("key", sa.String(length=1400), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("stored_at", _TIME, nullable=True),
        sa.Column("warned_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_prominence_upload")),
    )
    op.create_index(op.f("ix_prominence_upload_owner"), "prominence_upload", ["owner"])
    op.create_table(
        "prominence_kv",
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("key", sa.String(length=1024), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_prominence_kv")),
    )
    op.create_table(
        "prominence_command",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("order", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_command_job_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["prominence_lease.id"], name=op.f("fk_prominence_command_lease_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["node_id"], ["prominence_node.id"], name=op.f("fk_prominence_command_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_command")),
    )
    op.create_index(op.f("ix_prominence_command_job_id"), "prominence_command", ["job_id"])
    op.create_index(
        "ix_prominence_command_open",
        "prominence_command",
        ["node_id"],
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_table(
        "prominence_command_output",
        sa.Column("command_id", sa.String(length=32), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["command_id"],
            ["prominence_command.id"],
            name=op.f("fk_prominence_command_output_command_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("command_id", "offset", name=op.f("pk_prominence_command_output")),
    )
    op.create_table(
        "prominence_mail",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("recipient", sa.String(length=320), nullable=False),
        sa.Column("subject", sa.String(length=998), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("next_try_at", _TIME, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("sent_at", _TIME, nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_mail")),
    )
    op.create_index(
        "ix_prominence_mail_waiting", "prominence_mail", ["next_try_at"], postgresql_where=sa.text("sent_at IS NULL")
    )


def downgrade() -> None:
    for name in ("mail", "command_output", "command", "kv", "upload", "staged_output"):
        op.drop_table(f"prominence_{name}")
    for name in ("warned_at", "outputs_gone_at", "stdout_gone_at"):
        op.drop_column("prominence_job", name)
    op.drop_constraint(op.f("uq_prominence_job_uid"), "prominence_job", type_="unique")
    op.drop_column("prominence_job", "uid")
