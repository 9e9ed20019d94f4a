"""Presets: named settings, append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table of presets."""
    op.create_table(
        "presets",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("terms", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.UniqueConstraint("name", "number"),
    )
