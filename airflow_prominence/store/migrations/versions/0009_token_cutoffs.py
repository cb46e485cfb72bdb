"""Token cutoffs: which jobs of a user may do nothing any more with their tokens, since all of the user's were revoked

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLE = "prominence_token_cutoff"


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_prominence_token_cutoff")),
    )


def downgrade() -> None:
    op.drop_table(_TABLE)
