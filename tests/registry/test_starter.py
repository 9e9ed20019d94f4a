"""What ships lies beneath a registry: seen beside one's own, never changed."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefreg.config import starter_registry
from prefreg.errors import RegistryError
from prefreg.registry import Access, BaseIdentity, Store
from prefreg.registry.listing import Query

Make = Callable[..., BaseIdentity]


@pytest.fixture
def shipped(tmp_path: Path, empty: Path, add) -> Path:
    """A starter with helpful@1 and harmless@1 (alias safe) on pocket."""
    path = tmp_path / "shipped.db"
    shutil.copy(empty, path)
    with Store.open(path, write=True) as store:
        add(store, "helpful", b"shipped helpful")
        add(store, "harmless", b"shipped harmless", aliases=("safe",))
    return path


@pytest.fixture
def layered(path: Path, shipped: Path) -> Iterator[Store]:
    """An empty registry over the starter."""
    with Store.open(path, write=True, beneath=Store.open(shipped, write=False)) as store:
        yield store


def told(store: Store) -> list[tuple[str, bool]]:
    return [(str(version), version.starter) for version in store.summaries()]


def test_what_ships_is_seen_and_what_is_added_continues_its_numbers(layered: Store, add) -> None:
    assert told(layered) == [("harmless@1", True), ("helpful@1", True)]
    assert str(add(layered, "helpful", b"own")) == "helpful@2"
    assert str(add(layered, "brief", b"new")) == "brief@1"
    assert told(layered) == [
        ("brief@1", False), ("harmless@1", True), ("helpful@1", True), ("helpful@2", False),
    ]  # fmt: skip
    assert layered.count() == {"brief": 1, "harmless": 1, "helpful": 2}
    assert [str(each) for each in layered.versions("helpful")] == ["helpful@1", "helpful@2"]
    assert [str(each.version) for each in layered.search(Query("helpful"))] == [
        "helpful@1", "helpful@2",
    ]  # fmt: skip
    assert layered.axes() == {"brief": (), "harmless": ("safe",), "helpful": ()}


def test_a_form_of_what_ships_is_not_what_a_bare_name_means(layered: Store, add) -> None:
    add(layered, "helpful", b"form", tags=("form-of/1",))
    assert str(layered.resolve("helpful")) == "helpful@1"
    assert str(layered.resolve("helpful", "2")) == "helpful@2"
    add(layered, "helpful", b"own")
    assert str(layered.resolve("helpful")) == "helpful@3"


def test_a_number_means_one_version_and_none_the_newest_of_ones_own(layered: Store, add) -> None:
    add(layered, "helpful", b"own")
    meant = {ref: layered.resolve("helpful", ref) for ref in (None, "1", "2", "starter")}
    assert {ref: (each.number, each.starter) for ref, each in meant.items()} == {
        None: (2, False), "1": (1, True), "2": (2, False), "starter": (1, True),
    }  # fmt: skip
    assert layered.vector_source(meant["1"]) == b"shipped helpful"
    assert layered.vector_source(meant["2"]) == b"own"
    assert layered.resolve("safe").starter
    with pytest.raises(RegistryError, match=r"Version 9 .* The starter has version 1 for base"):
        layered.resolve("helpful", "9")


def test_an_older_registry_hides_what_has_its_numbers(
    path: Path, shipped: Path, store: Store, add
) -> None:
    add(store, "helpful", b"own, from before")
    with Store.open(path, write=True, beneath=Store.open(shipped, write=False)) as layered:
        assert told(layered) == [("harmless@1", True), ("helpful@1", False)]
        assert layered.vector_source(layered.resolve("helpful", "1")) == b"own, from before"
        assert layered.count() == {"harmless": 1, "helpful": 1}
        shipped_one = layered.resolve("helpful", "starter")
        assert layered.vector_source(shipped_one) == b"shipped helpful"
        assert str(add(layered, "helpful", b"next")) == "helpful@2"


def test_the_newest_on_a_base_comes_from_where_it_is(layered: Store, base: Make, add) -> None:
    tiny, pocket = base("tiny"), base()
    add(layered, "helpful", b"own", base=tiny)
    assert layered.resolve("helpful", base=tiny.weights).number == 2
    assert layered.resolve("helpful", base=pocket.weights).starter
    assert [each.name for each in layered.bases()] == ["pocket", "tiny"]
    assert layered.last_base().name == "tiny"
    assert layered.base(pocket.weights).name == "pocket"
    with pytest.raises(RegistryError, match="helpful@1 is for base pocket"):
        layered.resolve("helpful", "1", base=tiny.weights)


def test_keeping_something_with_a_shipped_version_takes_it_over(
    layered: Store, path: Path, shipped: Path
) -> None:
    before = hashlib.sha256(shipped.read_bytes()).hexdigest()
    layered.measure("helpful", 1, "range", {"low": -1, "high": 2}, "by hand")
    layered.tag("safe", 1, ["good"])
    layered.set_alias("helpful", 1, "stable")
    assert told(layered) == [("harmless@1", False), ("helpful@1", False)]
    found = layered.resolve("helpful", "stable")
    assert (found.number, found.measurements[0].value["high"]) == (1, 2)
    assert layered.resolve("harmless").tags == ("good",)
    assert layered.verify() == []
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == before
    # The copy may go; what ships is there again.
    layered.remove("helpful", 1, force=True)
    assert told(layered) == [("harmless@1", False), ("helpful@1", True)]


def test_what_ships_is_neither_removed_nor_renamed_nor_hidden_by_a_name(layered: Store) -> None:
    for refused in (
        lambda: layered.remove("helpful", 1),
        lambda: layered.rename_axis("helpful", "kind"),
    ):
        with pytest.raises(RegistryError, match=r"'helpful' ships with prefreg.*prefreg copy"):
            refused()
    with pytest.raises(RegistryError, match="'safe' is an alias of axis 'harmless'"):
        layered.check_names("safe", ())
    layered.check_names("harmless", ("safe",))


def test_a_damaged_registry_is_not_passed_over_for_what_ships(path: Path, shipped: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with (
        Store.open(shipped, write=False) as beneath,
        pytest.raises(RegistryError, match="is not a registry"),
    ):
        Store.open(path, write=False, beneath=beneath)


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The registry that really ships, beneath what is opened."""
    monkeypatch.delenv("PREFREG_NO_STARTER")
    found = starter_registry()
    assert found is not None
    return found


def test_it_lies_beneath_a_registry_wherever_that_is(
    starter: Path, tmp_path: Path, add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_REGISTRY", str(tmp_path / "elsewhere.db"))
    access = Access(starter=True)
    with access.writing() as store:
        add(store, "brief", b"own")
    with access.reading() as store:
        assert ("brief@1", False) in told(store)
        assert ("helpful@1", True) in told(store)
    with Access().reading() as store:
        assert told(store) == [("brief@1", False)]
    monkeypatch.setenv("PREFREG_NO_STARTER", "1")
    with access.reading() as store:
        assert told(store) == [("brief@1", False)]


def test_in_a_clone_writers_leave_the_tracked_file_alone(
    starter: Path, tmp_path: Path, add
) -> None:
    (tmp_path / "registry.db").symlink_to(starter)  # as the folder of a clone holds it
    before = hashlib.sha256(starter.read_bytes()).hexdigest()
    with Access(starter=True).writing() as store:
        added = add(store, "helpful", b"own")
        assert (str(added), store.location) == ("helpful@2", "registry.local.db")
    with Access(starter=True).reading() as store:
        assert [str(each) for each in store.summaries("helpful")] == ["helpful@1", "helpful@2"]
        assert store.last_base() is not None
    with pytest.raises(RegistryError, match="ships with prefreg and is only read"):
        Access("registry.db", starter=True).writing()
    with Access("registry.db", starter=True).reading() as store:
        assert {starter for _, starter in told(store)} == {True}
        assert store.last_base() is None  # what ships says nothing of what one used last
    assert hashlib.sha256(starter.read_bytes()).hexdigest() == before
