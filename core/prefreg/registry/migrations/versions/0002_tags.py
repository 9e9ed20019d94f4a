"""Tags of versions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of tags."""
    of_version = sa.ForeignKey("versions.id", ondelete="CASCADE")
    op.create_table(
        "tags",
        sa.Column("version_id", sa.Integer, of_version, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True, index=True),
    )
