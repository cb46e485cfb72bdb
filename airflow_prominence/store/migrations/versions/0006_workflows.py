"""Workflows, and what their jobs are in them

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.Float(precision=53)
_JOB = "prominence_job"
_OLD = "uq_prominence_job_dag_id_run_id_group_id"
_NEW = "uq_prominence_job_dag_id_run_id_group_id_slot"


def upgrade() -> None:
    op.create_table(
        "prominence_workflow",
        sa.Column("id", sa.BigInteger(), server_default=sa.text("nextval('prominence_id_seq')"), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("owner_groups", sa.JSON(), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("rerun_of", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("in_queue", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_workflow")),
        sa.UniqueConstraint("dag_id", "run_id", name=op.f("uq_prominence_workflow_dag_id_run_id")),
    )
    op.create_index("ix_prominence_workflow_owner_ended", "prominence_workflow", ["owner", "ended_at"])
    op.create_index("ix_prominence_workflow_ended", "prominence_workflow", ["ended_at"])
    op.create_table(
        "prominence_workflow_label",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        _of_workflow("prominence_workflow_label"),
        sa.PrimaryKeyConstraint("workflow_id", "key", name=op.f("pk_prominence_workflow_label")),
    )
    op.create_index("ix_prominence_workflow_label_key_value", "prominence_workflow_label", ["key", "value"])
    op.create_table(
        "prominence_workflow_secret",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        _of_workflow("prominence_workflow_secret"),
        sa.PrimaryKeyConstraint("workflow_id", "path", name=op.f("pk_prominence_workflow_secret")),
    )
    op.create_table(
        "prominence_unsettled",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        _of_workflow("prominence_unsettled"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prominence_unsettled")),
    )
    op.create_index(op.f("ix_prominence_unsettled_workflow_id"), "prominence_unsettled", ["workflow_id"])
    op.add_column(_JOB, sa.Column("slot", sa.Integer(), server_default="-1", nullable=False))
    op.alter_column(_JOB, "slot", server_default=None)
    op.add_column(_JOB, sa.Column("workflow_id", sa.BigInteger(), nullable=True))
    op.add_column(_JOB, sa.Column("member", sa.String(length=512), nullable=True))
    op.add_column(_JOB, sa.Column("instance", sa.Integer(), nullable=True))
    op.add_column(_JOB, sa.Column("parameters", sa.JSON(), nullable=True))
    op.add_column(_JOB, sa.Column("kept_from", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_prominence_job_workflow_id"), _JOB, "prominence_workflow", ["workflow_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_prominence_job_workflow", _JOB, ["workflow_id", "member", "instance"])
    op.drop_constraint(_OLD, _JOB, type_="unique")
    op.create_unique_constraint(_NEW, _JOB, ["dag_id", "run_id", "group_id", "slot"])


def downgrade() -> None:
    # A job of a workflow means nothing without it, and the older version could not tell two of one factory apart.
    op.execute(sa.text("DELETE FROM prominence_job WHERE workflow_id IS NOT NULL"))
    op.drop_constraint(_NEW, _JOB, type_="unique")
    op.create_unique_constraint(_OLD, _JOB, ["dag_id", "run_id", "group_id"])
    op.drop_index("ix_prominence_job_workflow", table_name=_JOB)
    op.drop_constraint(op.f("fk_prominence_job_workflow_id"), _JOB, type_="foreignkey")
    for column in ("kept_from", "parameters", "instance", "member", "workflow_id", "slot"):
        op.drop_column(_JOB, column)
    for table in ("unsettled", "workflow_secret", "workflow_label", "workflow"):
        op.drop_table(f"prominence_{table}")


def _of_workflow(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["workflow_id"], ["prominence_workflow.id"], name=op.f(f"fk_{table}_workflow_id"), ondelete="CASCADE"
    )
