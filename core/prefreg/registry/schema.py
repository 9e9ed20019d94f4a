"""The tables, as typed models."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, NoReturn

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from prefreg.errors import RegistryError
from prefreg.json_values import parse_json


class Words(TypeDecorator[str]):
    """Text, and nothing else that SQLite keeps in a column of text."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Check what was stored."""
        return value if value is None or isinstance(value, str) else _refuse("text", value)


class Whole(TypeDecorator[int]):
    """A whole number, and nothing else that SQLite keeps in a column of numbers."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Check what was stored."""
        return value if value is None or isinstance(value, int) else _refuse("number", value)


class LongWhole(Whole):
    """A whole number of 64 bits."""

    impl = BigInteger
    cache_ok = True


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

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Read the document."""
        if value is None:
            return None
        try:
            return parse_json(value)
        except (ValueError, TypeError) as error:
            _refuse("JSON document", value, error)


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

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read a moment, which SQLite keeps as text."""
        read: Any = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError) as error:
                _refuse("moment", value, error)

        return process


def _refuse(what: str, value: object, error: Exception | None = None) -> NoReturn:
    said = f"{value!a:.80}" if error is None else str(error)
    raise RegistryError(
        f"The registry holds a damaged {what} ({said}). Restore it from a backup."
    ) from error


class Base(DeclarativeBase):
    """The models' common base."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {int: Whole, str: Words}


@event.listens_for(Base, "load", propagate=True)
def _require_values(row: Base, _: object) -> None:
    """Refuse a row without a value that all have: a file that was tampered with may hold one."""
    for name in _required(type(row)):
        if row.__dict__.get(name, name) is None:
            _refuse(f"row of {row.__tablename__}", f"without {name}")


@cache
def _required(kind: type[Base]) -> tuple[str, ...]:
    columns = inspect(kind).column_attrs
    return tuple(each.key for each in columns if not each.columns[0].nullable)


class BaseRow(Base):
    """A base model as it was last seen."""

    __tablename__ = "bases"

    id: Mapped[int] = mapped_column(primary_key=True)
    weights: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    revision: Mapped[str | None]
    path: Mapped[str | None]
    tokenizer: Mapped[str | None]
    template: Mapped[str | None]
    parameters: Mapped[int] = mapped_column(LongWhole)
    dtype: Mapped[str]
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    used: Mapped[int]
    """Counts registrations and additions, so that the last used base has the largest."""


class AxisRow(Base):
    """An axis; it outlives its versions, so that their numbers are never used again."""

    __tablename__ = "axes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    last_number: Mapped[int]


class BlobRow(Base):
    """The bytes of a vector: inline, or their state elsewhere when they were last hashed."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(LongWhole)
    mtime_ns: Mapped[int | None] = mapped_column(LongWhole)
    inode: Mapped[str | None]
    """As text: file systems use all 64 bits, SQLite's integers are signed; in a store the e-tag."""
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
    kind: Mapped[str]
    dtype: Mapped[str]
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("bases.id"), index=True)
    base_name: Mapped[str]
    base_revision: Mapped[str | None]
    base_tokenizer: Mapped[str | None]
    base_template: Mapped[str | None]
    note: Mapped[str | None]
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
    name: Mapped[str] = mapped_column(index=True)


class TagRow(Base):
    """A tag of a version."""

    __tablename__ = "tags"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True, index=True)


class AliasEventRow(Base):
    """A change of a version alias; append-only, and the one truth about aliases."""

    __tablename__ = "alias_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    axis_id: Mapped[int] = mapped_column(ForeignKey("axes.id"), index=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("bases.id"))
    alias: Mapped[str]
    number: Mapped[int | None]
    """No foreign key: history outlives the version."""
    action: Mapped[str]
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
    kind: Mapped[str]
    value: Mapped[Any] = mapped_column(Json)
    protocol: Mapped[str]
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class PresetRow(Base):
    """A version of a preset, or its removal; append-only, so that numbers are not used again."""

    __tablename__ = "presets"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    """Of a removal, that of the version before it, and one more."""
    terms: Mapped[str | None]
    """As text, with spaces between; none where the preset was removed."""
    note: Mapped[str | None]
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class SettingRow(Base):
    """Something that the registry remembers of itself."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
