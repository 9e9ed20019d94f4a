"""Indexes that answer a listing without reading metadata or bytes."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("ix_versions_created", "versions", ["axis_id", "base_id", "number", "created"])
    op.create_index("ix_blobs_size", "blobs", ["sha256", "size", "mtime_ns"])
