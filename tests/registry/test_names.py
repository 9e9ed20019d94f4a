from collections.abc import Callable

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import BaseIdentity, Store, VersionRecord

Add = Callable[..., VersionRecord]
MakeBase = Callable[..., BaseIdentity]


@pytest.fixture
def filled(store: Store, add: Add, base: MakeBase) -> Store:
    """helpful 1 and 3 on base a, 2 on base b; verbosity (verbose) 1 on base a."""
    for name in ("a", "b", "a"):
        add(store, "helpful", base=base(name))
    add(store, "verbosity", base=base("a"), aliases=("verbose",))
    return store


def test_without_a_reference_the_newest_version_is_meant(filled: Store, base: MakeBase) -> None:
    assert filled.resolve("helpful").number == 3
    assert filled.resolve("helpful", base=base("b").weights).number == 2


def test_digits_are_a_number_and_an_alias_of_the_axis_will_do(filled: Store) -> None:
    assert filled.resolve("helpful", "1").number == 1
    assert filled.resolve("helpful", "01").number == 1
    assert str(filled.resolve("verbose", "1")) == "verbosity@1"


def test_an_unknown_axis_is_told_with_a_guess(filled: Store) -> None:
    with pytest.raises(
        RegistryError,
        match=r"no vector of axis 'helpfull'. It has: helpful, verbosity. Did you mean 'helpful'\?",
    ):
        filled.resolve("helpfull")
    with pytest.raises(RegistryError, match=r"Did you mean 'verbose'\?"):
        filled.versions("verbos")
    with pytest.raises(RegistryError, match=r"It has: helpful, verbosity\.$"):
        filled.resolve("xyz")


def test_an_empty_registry_is_told(store: Store) -> None:
    with pytest.raises(RegistryError, match=r"holds no vectors yet. `prefreg add-axis helpful`"):
        store.resolve("helpful")


@pytest.mark.parametrize("reference", ["9", "0", "9" * 40, "9" * 5000])
def test_an_unknown_number_is_told_with_those_there_are(filled: Store, reference: str) -> None:
    with pytest.raises(
        RegistryError, match=r"'helpful' does not exist. The axis has versions 1, 2, 3\.$"
    ):
        filled.resolve("helpful", reference)


def test_a_removed_number_is_told_as_such(filled: Store) -> None:
    filled.remove("helpful", 2)
    with pytest.raises(RegistryError, match=r"Version 2 of axis 'helpful' was removed"):
        filled.resolve("helpful", "2")


def test_many_versions_are_listed_briefly(store: Store, add: Add) -> None:
    for _ in range(14):
        add(store)
    with pytest.raises(RegistryError, match="versions 1, 2, 3, …, 12, 13, 14"):
        store.resolve("helpful", "15")


def test_no_version_for_a_base_is_told_with_the_bases_there_are(
    filled: Store, base: MakeBase
) -> None:
    with pytest.raises(
        RegistryError,
        match=r"Axis 'verbosity' has no version for base b \(\w{12}\). "
        r"The axis has version 1 for base a \(\w{12}\)\.$",
    ):
        filled.resolve("verbose", base=base("b").weights)
    with pytest.raises(RegistryError, match="for base with fingerprint ffffffffffff"):
        filled.resolve("helpful", base="f" * 64)


def test_a_number_of_another_base_is_refused(filled: Store, base: MakeBase) -> None:
    assert filled.resolve("helpful", "2", base=base("b").weights).number == 2
    with pytest.raises(RegistryError, match=r"helpful@2 is for base b .*, not a .*versions 1, 3 "):
        filled.resolve("helpful", "2", base=base("a").weights)


def test_an_alias_is_looked_for_on_the_base_or_on_the_only_one(
    filled: Store, base: MakeBase
) -> None:
    filled.set_alias("helpful", 1, "stable")
    assert filled.resolve("helpful", "stable").number == 1
    assert filled.resolve("helpful", "stable", base=base("a").weights).number == 1
    with pytest.raises(
        RegistryError, match=r"helpful@stable is not set for base b .*; it is version 1 on base a"
    ):
        filled.resolve("helpful", "stable", base=base("b").weights)


def test_an_alias_on_several_bases_needs_a_base(filled: Store, base: MakeBase) -> None:
    filled.set_alias("helpful", 3, "stable")
    filled.set_alias("helpful", 2, "stable")
    assert filled.resolve("helpful", "stable", base=base("a").weights).number == 3
    assert filled.resolve("helpful", "stable", base=base("b").weights).number == 2
    with pytest.raises(
        RegistryError,
        match=r"helpful@stable is ambiguous: version 2 on base b .*; version 3 on base a .*--base",
    ):
        filled.resolve("helpful", "stable")


def test_an_unknown_alias_is_told_with_a_guess(filled: Store) -> None:
    with pytest.raises(RegistryError, match=r"no version alias 'stabel'.* It has: none\.$"):
        filled.resolve("helpful", "stabel")
    filled.set_alias("helpful", 1, "stable")
    with pytest.raises(RegistryError, match=r"It has: stable. Did you mean 'stable'\?"):
        filled.resolve("helpful", "stabel")
