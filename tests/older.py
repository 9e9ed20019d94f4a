"""Registries as earlier revisions wrote them: made by their own migrations and by plain SQL."""

import hashlib
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

import prefreg.registry.database

INLINE, BESIDE = b"inline bytes", b"bytes beside the database" * 10
MOMENT = "2026-03-01 12:30:15.250000"

_ROWS = """
INSERT INTO bases (id, weights, name, revision, path, tokenizer, template, parameters, dtype,
                   created, used)
VALUES (1, 'w1', 'org/a', 'r1', '/models/a', 't', 'c', 870000, 'F32', :moment, 2),
       (2, 'w2', 'pocket', NULL, NULL, NULL, NULL, 5000000000, 'BF16', :moment, 1);
INSERT INTO axes (id, name, last_number) VALUES (1, 'helpful', 3), (2, 'verbosity', 1);
INSERT INTO blobs (sha256, size, mtime_ns, inode, data)
VALUES (:inline_hash, :inline_size, NULL, NULL, :inline),
       (:beside_hash, :beside_size, :mtime, :inode, :beside);
INSERT INTO versions (id, axis_id, number, kind, dtype, sha256, base_id, base_name, base_revision,
                      base_tokenizer, base_template, note, metadata, created)
VALUES (1, 1, 1, 'dense', 'F32', :inline_hash, 1, 'org/a', 'r0', 't', 'c', 'φ, first', :document,
        :moment),
       (2, 1, 3, 'low-rank', 'F32', :beside_hash, 2, 'pocket', NULL, NULL, NULL, NULL, '{}',
        :moment),
       (3, 2, 1, 'dense', 'BF16', :beside_hash, 1, 'org/a', 'r1', 't', 'c', NULL, '{}', :moment);
INSERT INTO axis_aliases (version_id, position, name)
VALUES (1, 0, 'help'), (1, 1, 'kind'), (3, 0, 'verbose');
INSERT INTO alias_events (id, axis_id, base_id, alias, number, action, created)
VALUES (1, 1, 1, 'stable', 2, 'set', :moment), (2, 1, 1, 'stable', 1, 'moved', :moment),
       (3, 1, 2, 'best', 3, 'set', :moment), (4, 1, 2, 'best', NULL, 'deleted', :moment);
INSERT INTO measurements (id, version_id, kind, value, protocol, created)
VALUES (1, 1, 'score', '{"m": 1.0}', 'p', :moment), (2, 1, 'score', '2', 'q', :moment);
"""
_TAGS = "INSERT INTO tags (version_id, name) VALUES (1, 'good'), (1, 'paper'), (3, 'good');"
DOCUMENT = '{"seed": 7, "loss": [0.5, 1.0], "exact": 1.0}'


def write_older(place: str | Path, revision: str) -> None:
    """Write a registry of an earlier revision, with something in each of its tables.

    On a server, which is named by its URL, all vectors are in rows.
    """
    beside_hash = hashlib.sha256(BESIDE).hexdigest()
    values: dict[str, Any] = {
        "moment": MOMENT,
        "document": DOCUMENT,
        "inline": INLINE,
        "inline_hash": hashlib.sha256(INLINE).hexdigest(),
        "inline_size": len(INLINE),
        "beside": BESIDE,
        "beside_hash": beside_hash,
        "beside_size": len(BESIDE),
        "mtime": None,
        "inode": None,
    }
    if isinstance(place, Path):
        file = place.with_suffix(".vectors") / f"{beside_hash}.safetensors"
        file.parent.mkdir()
        file.write_bytes(BESIDE)
        found = file.stat()
        values |= {"beside": None, "mtime": found.st_mtime_ns, "inode": str(found.st_ino)}
    config = Config()
    folder = Path(prefreg.registry.database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    engine = create_engine(f"sqlite:///{place}" if isinstance(place, Path) else place)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in (_ROWS + (_TAGS if revision >= "0002" else "")).split(";\n"):
            if statement.strip():
                connection.execute(text(statement), values)
    engine.dispose()
