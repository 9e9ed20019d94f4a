"""Changes to valid files: bits, words, numbers, depth and names, by the form of each file."""

import io
import json
import os
import re
import sqlite3
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

Files = dict[str, bytes]

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 7, 255, 65_537, 2**31 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63),
    10**9, 10**30, 10**400, 1e-320, 1e308, -1e308, 0.5, float("nan"), float("inf"),
)  # fmt: skip
WORDS = (
    "", " ", ".", "..", "../canary", "../../canary", "canary/..", "/", "/dev/zero", "~", "\0",
    "a\0b", "\n", "\r\n", "\x1b[31m", "\u202e", "\u2028", "\ud800", "\ufeff", "é", "%s", "{0}",
    "{{ 1 }}", "__class__", "a" * 300, "a" * 70_000, "9" * 5_000, "1e999", "nan", "-", "null",
    "true", "*", "(a+)+$", "!!python/name:os.system", "&a [*a]", "<<: 1", "file:///etc/passwd",
)  # fmt: skip
DEPTHS = (50, 2_000, 100_000)
_NUMBER = re.compile(rb"\d+(?:\.\d+)?")


def mutate(files: Files, dice: Random) -> Files:
    """Change one to three things in the files of a sample; at times nothing, and it stays valid."""
    changed = dict(files)
    for _ in range(dice.choice((0, *[1] * 12, 2, 2, 3))):
        name = dice.choice(sorted(changed))
        change = BY_ENDING.get(Path(name).suffix, mutate_bytes)
        if dice.random() < 0.25:
            change = mutate_bytes
        changed[name] = change(changed[name], dice)
    return changed


def place(files: Files, folder: Path, dice: Random) -> None:
    """Write files into a folder; at times something else lies where one of them is looked for."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if dice.random() < 0.03:
        path = folder / dice.choice(sorted(files))
        path.unlink()
        instead: Callable[[], Any] = dice.choice(
            (
                path.mkdir,
                lambda: os.mkfifo(path),
                lambda: path.symlink_to(folder.parent / "canary"),
                lambda: path.symlink_to(path.name),
                lambda: path.symlink_to("/dev/zero"),
                lambda: None,
            )
        )
        instead()


def mutate_bytes(data: bytes, dice: Random) -> bytes:
    """Flip, cut, insert, repeat, nest, and write extreme numbers, whatever the bytes mean."""
    at, other = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    match dice.randrange(9):
        case 0:
            flipped = bytearray(data or b"\0")
            for _ in range(dice.choice((1, 1, 8))):
                flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
            return bytes(flipped)
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[other:]
        case 3:
            return data[:other] + data[at:other] * dice.choice((1, 1, 50)) + data[other:]
        case 4:
            return data[:at] + dice.randbytes(dice.choice((1, 4, 64))) + data[at:]
        case 5:
            word = dice.choice(WORDS).encode("utf-8", "surrogatepass")
            return data[:at] + word + data[other if dice.random() < 0.5 else at :]
        case 6:
            size = dice.choice((1, 2, 4, 8))
            number = dice.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1))
            return data[:at] + number.to_bytes(8, "little")[:size] + data[at + size :]
        case 7 if numbers := list(_NUMBER.finditer(data)):
            found = dice.choice(numbers)
            return data[: found.start()] + repr_of(dice).encode() + data[found.end() :]
        case _:
            opened, closed = dice.choice((b"[]", b"{}", b"()", b'"\n', b"{%")), dice.choice(DEPTHS)
            return data[:at] + opened[:1] * closed + data[at:] + opened[1:] * closed


def repr_of(dice: Random) -> str:
    """Write an extreme number as JSON does."""
    return json.dumps(dice.choice(NUMBERS)) if dice.random() < 0.9 else "1" * 5_000


def mutate_json(data: bytes, dice: Random) -> bytes:
    """Change a value, a name or the depth somewhere in a JSON document."""
    try:
        document = [json.loads(data)]
    except (ValueError, RecursionError):
        return mutate_bytes(data, dice)
    holder, key = dice.choice(list(_places(document)))
    mark = '"\x00deep"'
    match dice.randrange(8):
        case 0 | 1:
            holder[key] = dice.choice(NUMBERS)
        case 2:
            holder[key] = dice.choice(WORDS)
        case 3:
            holder[key] = dice.choice((None, True, False, [], {}, [[]], {"": {}}, [None] * 1_000))
        case 4 if holder is not document:
            del holder[key]
        case 5 if isinstance(holder, dict):
            holder[dice.choice(WORDS)] = holder.pop(key)
        case 6:
            found, other = dice.choice(list(_places(document)))
            if found is not document:
                holder[key] = json.loads(json.dumps(found[other]))
        case _:
            holder[key] = json.loads(json.dumps(mark[1:-1]))
    # In halves of surrogate pairs only escapes can be written.
    text = json.dumps(document[0], ensure_ascii=dice.random() < 0.5 or "\ud800" in str(document))
    opened, closed = dice.choice((("[", "]"), ('{"a":', "}")))
    depth = dice.choice(DEPTHS)
    deep = opened * depth + "1" + closed * depth
    for written in (json.dumps(mark[1:-1]), json.dumps(mark[1:-1], ensure_ascii=False)):
        text = text.replace(written, deep)
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutate_safetensors(data: bytes, dice: Random) -> bytes:
    """Change what a header says, with its length put right or left wrong."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], dice)
    said = len(header) if dice.random() < 0.9 else dice.choice((0, length, 2**40, 2**64 - 1))
    return said.to_bytes(8, "little") + header + data[8 + length :]


def mutate_zip(data: bytes, dice: Random) -> bytes:
    """Change members, their names and kinds, with the hashes of the manifest made right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # what an earlier change has damaged
        return mutate_bytes(data, dice)
    chosen = dice.randrange(len(members))
    name, content = members[chosen]
    attributes, packed = 0o100644, zipfile.ZIP_STORED
    match dice.randrange(6):
        case 0:
            name = dice.choice((*WORDS, "/tmp/x", "base/../../x", "C:\\x", "records/x.json"))
        case 1:
            members.insert(chosen, (name, content[::-1]))
            chosen += 1
        case 2:
            attributes, content = 0o120777, b"../canary"
        case 3:
            packed = zipfile.ZIP_DEFLATED
        case _:
            content = BY_ENDING.get(Path(name).suffix, mutate_bytes)(content, dice)
    members[chosen] = name, content
    if dice.random() < 0.7:
        members = _described(members)
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as archive:
        warnings.simplefilter("ignore")  # two members of one name are meant
        for index, (name, content) in enumerate(members):
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode()[:60_000] or "x")
            info.filename = info.filename if name != "a\0b" else name
            info.external_attr = (attributes if index == chosen else 0o100644) << 16
            archive.writestr(info, content, packed if index == chosen else zipfile.ZIP_STORED)
    return written.getvalue()


def _described(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Name every member in the manifest with its right hash, as a forger would."""
    described = []
    for name, content in members:
        if name == "bundle.json":
            with suppress(ValueError, TypeError, RecursionError):
                manifest = json.loads(content)
                manifest["files"] = {
                    other: {"sha256": sha256(data).hexdigest(), "size": len(data)}
                    for other, data in members
                    if not other.startswith("bundle.")
                }
                content = json.dumps(manifest).encode("utf-8", "surrogatepass")
        described.append((name, content))
    return described


def mutate_database(data: bytes, dice: Random) -> bytes:
    """Change a cell of a table, which needs a writer who knows the schema and nothing of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.db")
        path.write_bytes(data)
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            table = dice.choice([name for (name,) in connection.execute(query)])
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')")]
            column = dice.choice(columns)
            rows = connection.execute(f"SELECT rowid, \"{column}\" FROM '{table}'").fetchall()
            row, cell = dice.choice(rows) if rows else (1, None)
            value: Any = dice.choice((None, -1, 2**62, 1e308, b"\xff\0", *map(_storable, WORDS)))
            if isinstance(cell, str) and cell[:1] in ("{", "[") and dice.random() < 0.8:
                value = _storable(mutate_json(cell.encode(), dice).decode("utf-8", "replace"))
            if isinstance(cell, bytes) and dice.random() < 0.8:
                value = BY_ENDING[".safetensors"](cell, dice)
            connection.execute("PRAGMA ignore_check_constraints = 1")
            connection.execute("PRAGMA foreign_keys = 0")
            connection.execute(
                f"UPDATE '{table}' SET \"{column}\" = ? WHERE rowid = ?", (value, row)
            )
            connection.commit()
        return path.read_bytes()


def _storable(text: str) -> str | bytes:
    return text.encode("utf-8", "surrogatepass") if "\ud800" in text else text


BY_ENDING: dict[str, Callable[[bytes, Random], bytes]] = {
    ".db": mutate_database,
    ".json": mutate_json,
    ".safetensors": mutate_safetensors,
    ".zip": mutate_zip,
}
