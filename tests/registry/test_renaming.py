from collections.abc import Callable

import pytest

from prefreg.errors import RegistryError, UsageError
from prefreg.registry import Store, VersionRecord, upkeep

Add = Callable[..., VersionRecord]


def test_a_renamed_axis_answers_to_all_its_names(store: Store, add: Add) -> None:
    add(store, aliases=("kind", "nice"))
    add(store)
    store.set_alias("helpful", 1, "stable")
    assert upkeep.rename_axis(store, "kind", "useful") == "helpful"
    assert [str(version) for version in store.versions()] == ["useful@1", "useful@2"]
    for name in ("useful", "helpful", "kind"):
        assert str(store.resolve(name, "stable")) == "useful@1"
    assert [version.axis_aliases for version in store.versions()] == [
        ("kind", "nice", "helpful"),
        ("helpful",),
    ]
    assert [event.axis for event in store.alias_history("useful")] == ["useful"]
    assert add(store, "useful").number == 3
    assert store.verify() == []


def test_renaming_there_and_back_adds_one_name(store: Store, add: Add) -> None:
    add(store, aliases=("kind",))
    upkeep.rename_axis(store, "helpful", "useful")
    upkeep.rename_axis(store, "useful", "helpful")
    assert store.axes() == {"helpful": ("kind", "useful")}
    upkeep.rename_axis(store, "helpful", "helpful")
    assert store.axes() == {"helpful": ("kind", "useful")}


def test_an_axis_may_take_the_name_of_its_own_alias(store: Store, add: Add) -> None:
    add(store, aliases=("kind", "nice"))
    upkeep.rename_axis(store, "helpful", "kind")
    assert store.axes() == {"kind": ("nice", "helpful")}


def test_a_name_that_is_taken_is_refused(store: Store, add: Add) -> None:
    add(store)
    add(store, "verbosity", aliases=("verbose",))
    add(store, "gone")
    store.remove("gone", 1)
    for name, told in (
        ("verbosity", "'verbosity' is another axis here"),
        ("verbose", "'verbose' is an alias of axis 'verbosity'"),
        ("gone", "'gone' was an axis whose versions are gone here"),
    ):
        with pytest.raises(RegistryError, match=told):
            upkeep.rename_axis(store, "helpful", name)
    assert list(store.axes()) == ["helpful", "verbosity"]


@pytest.mark.parametrize("name", ["Helpful", "", "a b", "1a", "a@b"])
def test_a_malformed_name_is_refused(store: Store, add: Add, name: str) -> None:
    add(store)
    with pytest.raises(UsageError, match="is no axis name"):
        upkeep.rename_axis(store, "helpful", name)


def test_an_unknown_axis_is_told(store: Store, add: Add) -> None:
    add(store)
    with pytest.raises(RegistryError, match="Did you mean 'helpful'"):
        upkeep.rename_axis(store, "helpfull", "useful")
