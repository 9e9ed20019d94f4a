"""Registries of vectors of two numbers, on a base that is nowhere: to be read, carried, shown."""

import functools
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prefreg.registry import BaseIdentity, NewVersion, Store, VersionRecord
from prefreg.vectors.stored import metadata_of

BEGAN = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def base(name: str = "org/small", **changes: Any) -> BaseIdentity:
    """Make the identity of a base; its weights follow from its name."""
    values: dict[str, Any] = {
        "revision": None, "path": None, "weights": hashlib.sha256(name.encode()).hexdigest(),
        "tokenizer": "t0", "template": "c0", "parameters": 2, "dtype": "F32",
    }  # fmt: skip
    return BaseIdentity(name=name, **(values | changes))


@functools.cache
def _empty() -> bytes:
    """Make a registry without a version once: that takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        Store.open(path, write=True).close()
        return path.read_bytes()


def open_store(path: Path, **options: Any) -> Store:
    """Open a registry whose clock goes on by an hour with every reading."""
    if not path.exists():
        path.write_bytes(_empty())
    hours = iter(range(10_000))
    return Store.open(
        path, write=True, clock=lambda: BEGAN + timedelta(hours=next(hours)), **options
    )


def add(
    store: Store,
    axis: str = "helpful",
    values: Sequence[float] = (1.0, 0.0),
    *,
    on: BaseIdentity | None = None,
    metadata: Mapping[str, Any] | None = None,
    aliases: tuple[str, ...] = (),
    **others: Any,
) -> VersionRecord:
    """Add a dense vector of these numbers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vector.safetensors")
        save_file({"w": np.array(values, np.float32)}, file, metadata=metadata_of("dense"))
        new = NewVersion(
            axis, aliases, "dense", "F32", on or base(), dict(metadata or {}), **others
        )
        return store.add(new, file)
