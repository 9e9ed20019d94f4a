"""The tables, as typed models."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from prefreg.errors import RegistryError
from prefreg.json_values import parse_json


class Json(TypeDecorator[Any]):
    """A JSON document as text.

    SQLite gives columns declared JSON a numeric affinity, which turns 1.0 into 1 and rounds
    long integers.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Write the document."""
        return json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read the document."""
        if value is None:
            return None
        try:
            return parse_json(value)
        except ValueError as error:
            raise RegistryError(
                f"The registry holds a damaged JSON document ({error}). Restore it from a backup."
            ) from error


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite's own type forgets the time zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Drop the time zone after moving to UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The models' common base."""


class BaseRow(Base):
    """A base model as it was last seen."""

    __tablename__ = "bases"

    id: Mapped[int] = mapped_column(primary_key=True)
    weights: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(Text)
    path: Mapped[str | None] = mapped_column(Text)
    tokenizer: Mapped[str | None] = mapped_column(Text)
    template: Mapped[str | None] = mapped_column(Text)
    parameters: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    used: Mapped[int]
    """Counts registrations and additions, so that the last used base has the largest."""


class AxisRow(Base):
    """An axis; it outlives its versions, so that their numbers are never used again."""

    __tablename__ = "axes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    last_number: Mapped[int]


class BlobRow(Base):
    """The bytes of a vector: inline, or the state of their file when it was last hashed."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(Text, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int | None] = mapped_column(BigInteger)
    inode: Mapped[str | None] = mapped_column(Text)
    """As text: file systems use all 64 bits, SQLite's integers are signed."""
    data: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)

    # Sizes are read from the index alone: the rows lie among the bytes.
    __table_args__ = (Index("ix_blobs_size", "sha256", "size", "mtime_ns"),)


class VersionRow(Base):
    """A version; the columns `base_*` keep the base as it was."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("axis_id", "number"),
        # Moments are read from the index alone: in the row they lie behind the metadata.
        Index("ix_versions_created", "axis_id", "base_id", "number", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    axis_id: Mapped[int] = mapped_column(ForeignKey("axes.id"))
    number: Mapped[int]
    kind: Mapped[str] = mapped_column(Text)
    dtype: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("bases.id"), index=True)
    base_name: Mapped[str] = mapped_column(Text)
    base_revision: Mapped[str | None] = mapped_column(Text)
    base_tokenizer: Mapped[str | None] = mapped_column(Text)
    base_template: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    document: Mapped[Any] = mapped_column("metadata", Json)
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    axis: Mapped[AxisRow] = relationship()
    base: Mapped[BaseRow] = relationship()
    blob: Mapped[BlobRow] = relationship()
    axis_aliases: Mapped[list["AxisAliasRow"]] = relationship(
        order_by="AxisAliasRow.position", cascade="all, delete-orphan"
    )
    measurements: Mapped[list["MeasurementRow"]] = relationship(
        order_by="MeasurementRow.id", cascade="all, delete-orphan"
    )


class AxisAliasRow(Base):
    """An alias of the axis, as it was when the version was added."""

    __tablename__ = "axis_aliases"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, index=True)


class TagRow(Base):
    """A tag of a version."""

    __tablename__ = "tags"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(Text, primary_key=True, index=True)


class AliasEventRow(Base):
    """A change of a version alias; append-only, and the one truth about aliases."""

    __tablename__ = "alias_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    axis_id: Mapped[int] = mapped_column(ForeignKey("axes.id"), index=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("bases.id"))
    alias: Mapped[str] = mapped_column(Text)
    number: Mapped[int | None]
    """No foreign key: history outlives the version."""
    action: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    axis: Mapped[AxisRow] = relationship()
    base: Mapped[BaseRow] = relationship()


class MeasurementRow(Base):
    """Something learned about a version later; append-only."""

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str] = mapped_column(Text)
    value: Mapped[Any] = mapped_column(Json)
    protocol: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
