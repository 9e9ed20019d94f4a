import sqlite3

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import Store


def test_a_copy_keeps_everything_and_is_made_once(store, add, tmp_path) -> None:
    record = add(store, data=b"x" * 500, tags=("good",), metadata={"a": 1.0})
    store.measure("helpful", 1, "score", {"m": 0.7}, "p")
    record = store.resolve("helpful", "1")
    with Store.open(tmp_path / "other.db", write=True, inline_limit=64) as other:
        copied = store.copy_to(other, record)
        assert copied.added
        assert other.resolve("helpful", "1").measurements == record.measurements
        assert other.resolve("helpful", "1").tags == ("good",)
        assert not store.copy_to(other, record).added
        different = add(store, "third", b"y" * 90)
        with pytest.raises(RegistryError, match="--renumber"):
            store.copy_to(other, different, axis="helpful")
        assert store.copy_to(other, different, axis="helpful", renumber=True).record.number == 2
        assert other.verify() == []


def test_a_renamed_axis_answers_to_both_names(store, add) -> None:
    add(store, aliases=("kind",))
    add(store, "other")
    store.set_alias("helpful", 1, "stable")
    store.rename_axis("helpful", "useful")
    assert store.resolve("helpful", "stable").axis == "useful"
    with pytest.raises(RegistryError, match="taken"):
        store.rename_axis("useful", "other")


def test_a_backup_is_whole_and_never_overwrites(store, add, tmp_path) -> None:
    add(store, data=b"x" * 500)
    add(store, data=b"small")
    target = tmp_path / "copy.db"
    assert store.back_up(target).files == 1
    with pytest.raises(RegistryError, match="--overwrite"):
        store.back_up(target)
    store.back_up(target, overwrite=True)
    with Store.open(target, write=False) as copy:
        assert copy.versions() == store.versions()
        assert copy.verify() == []


def test_readers_take_the_first_schema_and_writers_upgrade_it(path, store, add) -> None:
    before = add(store)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE tags")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    with Store.open(path, write=False) as old:
        assert old.versions() == [before]
    with Store.open(path, write=True) as new:
        assert new.tag("helpful", 1, ["b", "a"]).tags == ("a", "b")
