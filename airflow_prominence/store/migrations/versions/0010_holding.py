"""Holding: jobs that wait at the borders of their phases until a task in Airflow lets them go on

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLE = "prominence_job"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("allowed", sa.String(length=16), nullable=True))
    op.add_column(_TABLE, sa.Column("holding", sa.String(length=16), nullable=True))
    op.add_column(_TABLE, sa.Column("tasks_success", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column(_TABLE, "tasks_success")
    op.drop_column(_TABLE, "holding")
    op.drop_column(_TABLE, "allowed")
