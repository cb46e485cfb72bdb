"""Which run of the shared DAG has made a workflow

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLE = "prominence_workflow"
_UNIQUE = "uq_prominence_workflow_launcher"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("launcher", sa.String(length=250), nullable=True))
    op.create_unique_constraint(_UNIQUE, _TABLE, ["launcher"])


def downgrade() -> None:
    op.drop_constraint(_UNIQUE, _TABLE, type_="unique")
    op.drop_column(_TABLE, "launcher")
