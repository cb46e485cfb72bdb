"""Staged outputs: files and folders of one name are two, and a pattern may mean several

No row was ever written to the table before, so it is made anew.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.Float(precision=53)
_TABLE = "prominence_staged_output"


def upgrade() -> None:
    op.drop_table(_TABLE)
    _create(
        ["job_id", "kind", "name"],
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("name", sa.String(length=4096), nullable=False),
        sa.Column("asked", sa.String(length=1024), nullable=False),
        sa.Column("file", sa.String(length=255), nullable=False),
    )


def downgrade() -> None:
    op.drop_table(_TABLE)
    _create(
        ["job_id", "name"],
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("key", sa.String(length=1400), nullable=False),
    )


def _create(primary_key: list[str], *columns: sa.Column[str]) -> None:
    op.create_table(
        _TABLE,
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        *columns,
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("stored_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prominence_job.id"], name=op.f("fk_prominence_staged_output_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(*primary_key, name=op.f("pk_prominence_staged_output")),
    )
