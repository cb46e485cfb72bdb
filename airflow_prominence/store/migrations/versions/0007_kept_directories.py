"""Kept directories: until when a node keeps one, and which task instance stores its outputs for the first time

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.Float(precision=53)


def upgrade() -> None:
    op.add_column("prominence_job", sa.Column("stage_out_ti", sa.String(length=36), nullable=True))
    op.add_column("prominence_lease", sa.Column("kept_until", _TIME, nullable=True))
    op.add_column("prominence_lease", sa.Column("kept_gone_at", _TIME, nullable=True))
    op.create_index(
        "ix_prominence_lease_kept",
        "prominence_lease",
        ["node_id"],
        postgresql_where=sa.text("kept_until IS NOT NULL AND kept_gone_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_prominence_lease_kept", table_name="prominence_lease")
    op.drop_column("prominence_lease", "kept_gone_at")
    op.drop_column("prominence_lease", "kept_until")
    op.drop_column("prominence_job", "stage_out_ti")
