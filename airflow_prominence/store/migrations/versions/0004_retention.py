"""Retention: letters that are given up, what is looked for each minute, the books of forgotten jobs

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.Float(precision=53)


def upgrade() -> None:
    op.add_column("prominence_mail", sa.Column("given_up_at", _TIME, nullable=True))
    _index_waiting_mail("sent_at IS NULL AND given_up_at IS NULL")
    op.add_column("prominence_upload", sa.Column("used_at", _TIME, nullable=True))
    op.create_index(
        "ix_prominence_job_stdout_kept",
        "prominence_job",
        ["ended_at"],
        postgresql_where=sa.text("stdout_gone_at IS NULL"),
    )
    op.create_index(
        "ix_prominence_job_outputs_kept",
        "prominence_job",
        ["ended_at"],
        postgresql_where=sa.text("outputs_gone_at IS NULL"),
    )
    op.create_index("ix_prominence_job_ended", "prominence_job", ["ended_at"])
    op.create_index(
        "ix_prominence_job_unwarned",
        "prominence_job",
        ["ended_at"],
        postgresql_where=sa.text(
            "warned_at IS NULL AND email IS NOT NULL "
            "AND coalesce(json_array_length(document -> 'notifications'), 0) > 0"
        ),
    )
    op.create_table(
        "prominence_usage",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("owner_groups", sa.JSON(), nullable=False),
        sa.Column("ended_at", _TIME, nullable=False),
        sa.Column("cpu_s", _TIME, nullable=False),
        sa.Column("wall_s", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_prominence_usage")),
    )
    op.create_index("ix_prominence_usage_ended", "prominence_usage", ["ended_at"])


def downgrade() -> None:
    op.drop_table("prominence_usage")
    for name in ("unwarned", "ended", "outputs_kept", "stdout_kept"):
        op.drop_index(f"ix_prominence_job_{name}", table_name="prominence_job")
    op.drop_column("prominence_upload", "used_at")
    op.drop_column("prominence_mail", "given_up_at")
    _index_waiting_mail("sent_at IS NULL")


def _index_waiting_mail(where: str) -> None:
    op.execute("DROP INDEX IF EXISTS ix_prominence_mail_waiting")
    op.create_index("ix_prominence_mail_waiting", "prominence_mail", ["next_try_at"], postgresql_where=sa.text(where))
