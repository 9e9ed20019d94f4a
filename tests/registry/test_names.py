"""Names of axes and of versions: how they are given, moved and taken away."""

from collections.abc import Callable

import pytest

from prefreg.errors import RegistryError, UsageError
from prefreg.registry import BaseIdentity, Store, VersionRecord

Add = Callable[..., VersionRecord]


def test_a_renamed_axis_answers_to_all_its_names(store: Store, add: Add) -> None:
    add(store, aliases=("kind", "nice"))
    add(store)
    store.set_alias("helpful", 1, "stable")
    assert store.rename_axis("kind", "useful") == "helpful"
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
    store.rename_axis("helpful", "useful")
    store.rename_axis("useful", "helpful")
    assert store.axes() == {"helpful": ("kind", "useful")}
    store.rename_axis("helpful", "helpful")
    assert store.axes() == {"helpful": ("kind", "useful")}


def test_an_axis_may_take_the_name_of_its_own_alias(store: Store, add: Add) -> None:
    add(store, aliases=("kind", "nice"))
    store.rename_axis("helpful", "kind")
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
            store.rename_axis("helpful", name)
    assert list(store.axes()) == ["helpful", "verbosity"]


@pytest.mark.parametrize("name", ["Helpful", "", "a b", "1a", "a@b"])
def test_a_malformed_name_is_refused(store: Store, add: Add, name: str) -> None:
    add(store)
    with pytest.raises(UsageError, match="is no axis name"):
        store.rename_axis("helpful", name)


def test_an_unknown_axis_is_told(store: Store, add: Add) -> None:
    add(store)
    with pytest.raises(RegistryError, match="Did you mean 'helpful'"):
        store.rename_axis("helpfull", "useful")


MakeBase = Callable[..., BaseIdentity]


@pytest.fixture
def filled(store: Store, add: Add, base: MakeBase) -> Store:
    """helpful 1 and 2 on base a, 3 on base b."""
    for name in ("a", "a", "b"):
        add(store, base=base(name))
    return store


def _history(store: Store) -> list[tuple[str, str, int | None, str]]:
    return [
        (event.base.name, event.alias, event.number, event.action)
        for event in store.alias_history("helpful")
    ]


def test_every_move_is_on_record(filled: Store) -> None:
    filled.set_alias("helpful", 1, "stable")
    filled.set_alias("helpful", 2, "stable")
    filled.set_alias("helpful", 2, "stable")  # it points there already: nothing to record
    filled.delete_alias("helpful", "stable")
    filled.set_alias("helpful", 1, "stable")
    assert _history(filled) == [
        ("a", "stable", 1, "set"),
        ("a", "stable", 2, "moved"),
        ("a", "stable", None, "deleted"),
        ("a", "stable", 1, "set"),
    ]
    moments = [event.created for event in filled.alias_history("helpful")]
    assert moments == sorted(moments)


def test_the_latest_event_says_where_an_alias_points(filled: Store) -> None:
    filled.set_alias("helpful", 1, "stable")
    filled.set_alias("helpful", 1, "best")
    filled.set_alias("helpful", 2, "stable")
    assert [version.aliases for version in filled.versions()] == [("best",), ("stable",), ()]
    filled.delete_alias("helpful", "stable")
    assert [version.aliases for version in filled.versions()] == [("best",), (), ()]


def test_bases_have_aliases_of_their_own(filled: Store, base: MakeBase) -> None:
    filled.set_alias("helpful", 1, "stable")
    filled.set_alias("helpful", 3, "stable")
    assert [version.aliases for version in filled.versions()] == [("stable",), (), ("stable",)]
    with pytest.raises(RegistryError, match=r"set for several bases: a .*, b .*`base=`"):
        filled.delete_alias("helpful", "stable")
    filled.delete_alias("helpful", "stable", base("b").weights)
    assert [version.aliases for version in filled.versions()] == [("stable",), (), ()]
    with pytest.raises(RegistryError, match="no version alias 'stable' for base b"):
        filled.delete_alias("helpful", "stable", base("b").weights)


def test_history_outlives_the_version_and_the_axis(filled: Store) -> None:
    filled.set_alias("helpful", 2, "stable")
    for number in (1, 2, 3):
        filled.remove("helpful", number, force=True)
    assert _history(filled) == [("a", "stable", 2, "set"), ("a", "stable", None, "removed")]
    assert filled.verify() == []


def test_deleting_an_unknown_alias_says_which_there_are(filled: Store) -> None:
    filled.set_alias("helpful", 2, "stable")
    with pytest.raises(RegistryError, match=r"no version alias 'best'. It has: stable"):
        filled.delete_alias("helpful", "best")


@pytest.mark.parametrize("alias", ["12", "", "a b", "-a", "a@b", "a:1", "ä"])
def test_a_malformed_alias_is_refused(filled: Store, alias: str) -> None:
    with pytest.raises(UsageError, match="is no version alias"):
        filled.set_alias("helpful", 1, alias)


def test_an_unknown_version_or_axis_is_refused(filled: Store) -> None:
    with pytest.raises(RegistryError, match="Version 7 of axis 'helpful' does not exist"):
        filled.set_alias("helpful", 7, "stable")
    with pytest.raises(RegistryError, match="no vector of axis 'honest'"):
        filled.alias_history("honest")
