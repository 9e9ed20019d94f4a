"""Axes, versions with their bytes, bases, version aliases and measurements."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _create_roots()
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("axis_id", sa.Integer, sa.ForeignKey("axes.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("dtype", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, sa.ForeignKey("blobs.sha256"), nullable=False, index=True),
        sa.Column("base_id", sa.Integer, sa.ForeignKey("bases.id"), nullable=False, index=True),
        sa.Column("base_name", sa.Text, nullable=False),
        sa.Column("base_revision", sa.Text),
        sa.Column("base_tokenizer", sa.Text),
        sa.Column("base_template", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.UniqueConstraint("axis_id", "number"),
    )
    _create_what_hangs_on_versions()


def _create_roots() -> None:
    op.create_table(
        "bases",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("weights", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.Text),
        sa.Column("path", sa.Text),
        sa.Column("tokenizer", sa.Text),
        sa.Column("template", sa.Text),
        sa.Column("parameters", sa.BigInteger, nullable=False),
        sa.Column("dtype", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
    )
    op.create_table(
        "axes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("last_number", sa.Integer, nullable=False),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger),
        sa.Column("inode", sa.Text),
        sa.Column("data", sa.LargeBinary),
    )


def _create_what_hangs_on_versions() -> None:
    of_version = sa.ForeignKey("versions.id", ondelete="CASCADE")
    op.create_table(
        "axis_aliases",
        sa.Column("version_id", sa.Integer, of_version, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, index=True),
    )
    op.create_table(
        "alias_events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("axis_id", sa.Integer, sa.ForeignKey("axes.id"), nullable=False, index=True),
        sa.Column("base_id", sa.Integer, sa.ForeignKey("bases.id"), nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
    )
    op.create_table(
        "measurements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "version_id",
            sa.Integer,
            sa.ForeignKey("versions.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
    )
