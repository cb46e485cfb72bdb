"""The task instance that a job's present attempts belong to

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("prominence_job", sa.Column("run_ti", sa.String(length=36), nullable=True))


def downgrade() -> None:
    op.drop_column("prominence_job", "run_ti")
