import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import BaseIdentity, Store, VersionRecord
from prefreg.registry.records import parse_moment

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


def test_the_newest_is_another_form_of_a_version_only_where_there_is_nothing_else(
    filled: Store, base: MakeBase
) -> None:
    form = filled.tag("helpful", 3, ["form-of/1"])
    assert form.form_of == "helpful@1"
    assert filled.resolve("helpful").number == 2
    assert filled.resolve("helpful", base=base("a").weights).number == 1
    assert filled.resolve("helpful", "3").number == 3
    for number in (1, 2):
        filled.remove("helpful", number)
    assert filled.resolve("helpful").number == 3


def test_digits_are_a_number_and_an_alias_of_the_axis_will_do(filled: Store) -> None:
    assert filled.resolve("helpful", "1").number == 1
    assert filled.resolve("helpful", "01").number == 1
    assert str(filled.resolve("verbose", "1")) == "verbosity@1"


def test_an_unknown_axis_is_told_with_a_guess(filled: Store) -> None:
    told = r"'helpfull'.* It has: helpful, verbosity.* Did you mean 'helpful'\?"
    with pytest.raises(RegistryError, match=told):
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
    told = r"'verbosity' has no version for base b \(\w{12}\).* version 1 for base a \(\w{12}\)"
    with pytest.raises(RegistryError, match=told):
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
    told = r"helpful@stable .*version 2 on base b .*version 3 on base a .*`base=`"
    with pytest.raises(RegistryError, match=told):
        filled.resolve("helpful", "stable")


def test_an_unknown_alias_is_told_with_a_guess(filled: Store) -> None:
    with pytest.raises(RegistryError, match=r"no version alias 'stabel'.* It has: none\.$"):
        filled.resolve("helpful", "stabel")
    filled.set_alias("helpful", 1, "stable")
    with pytest.raises(RegistryError, match=r"It has: stable. Did you mean 'stable'\?"):
        filled.resolve("helpful", "stabel")


def day(number: int) -> datetime:
    """A morning of March 2026."""
    return datetime(2026, 3, number, 9, tzinfo=UTC)


@pytest.fixture
def dated(path: Path, empty: Path, add: Add, base: MakeBase) -> Iterator[Store]:
    """helpful 1 on day 1, 2 on day 3, 3 (another base) on day 5; stable 1, 2, gone, 1 on 6 to 9."""
    today = [day(1)]
    shutil.copy(empty, path)
    with Store.open(path, write=True, clock=lambda: today[0]) as store:
        for number, name in ((1, "a"), (3, "a"), (5, "b")):
            today[0] = day(number)
            add(store, base=base(name))
        for number, target in ((6, 1), (7, 2), (8, None), (9, 1)):
            today[0] = day(number)
            if target is None:
                store.delete_alias("helpful", "stable")
            else:
                store.set_alias("helpful", target, "stable")
        yield store


@pytest.mark.parametrize(("number", "version"), [(6, 1), (7, 2), (9, 1), (30, 1)])
def test_an_alias_is_what_it_was_on_a_day(dated: Store, number: int, version: int) -> None:
    assert dated.resolve("helpful", "stable", at=day(number)).number == version


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (5, "it was first set on 2026-03-06 09:00:00 UTC"),
        (8, "it was deleted on 2026-03-08 09:00:00 UTC"),
    ],
)
def test_an_alias_that_pointed_to_nothing_is_told(dated: Store, number: int, told: str) -> None:
    with pytest.raises(RegistryError, match=rf"helpful@stable pointed to nothing on .*: {told}"):
        dated.resolve("helpful", "stable", at=day(number))
    with pytest.raises(RegistryError, match="has no version alias 'best'"):
        dated.resolve("helpful", "best", at=day(9))


def test_an_alias_of_a_version_that_was_removed_since_is_told(dated: Store) -> None:
    dated.remove("helpful", 2)
    with pytest.raises(
        RegistryError, match=r"helpful@stable was version 2 then\. Version 2 .* was removed"
    ):
        dated.resolve("helpful", "stable", at=day(7))


@pytest.mark.parametrize(("number", "version"), [(1, 1), (2, 1), (3, 2), (5, 3), (30, 3)])
def test_the_newest_is_that_of_the_day(dated: Store, number: int, version: int) -> None:
    assert dated.resolve("helpful", at=day(number)).number == version


def test_the_newest_of_the_day_is_looked_for_on_the_base(dated: Store, base: MakeBase) -> None:
    assert dated.resolve("helpful", base=base("a").weights, at=day(9)).number == 2
    with pytest.raises(
        RegistryError, match=r"had no version for base b .* on 2026-03-04 .* first .* 2026-03-05"
    ):
        dated.resolve("helpful", base=base("b").weights, at=day(4))


def test_a_day_before_the_first_version_is_told(dated: Store) -> None:
    told = r"'helpful' had no version on 2026-02-28: .*first .* 2026-03-01 09:00"
    with pytest.raises(RegistryError, match=told):
        dated.resolve("helpful", at=parse_moment("2026-02-28"))


def test_a_number_that_was_added_later_is_told(dated: Store) -> None:
    assert dated.resolve("helpful", "2", at=day(3)).number == 2
    with pytest.raises(RegistryError, match=r"helpful@2 was added on 2026-03-03 .* later date"):
        dated.resolve("helpful", "2", at=day(2))


def test_history_can_be_read_until_a_day(dated: Store) -> None:
    def read(alias: str | None, number: int) -> list[int | None]:
        return [event.number for event in dated.alias_history("helpful", alias, day(number))]

    dated.set_alias("helpful", 3, "best")
    assert read(None, 9) == [1, 2, None, 1, 3]
    assert read("stable", 8) == [1, 2, None]
    assert read("best", 9) == [3]
    with pytest.raises(RegistryError, match=r"never had a version alias 'bset'. It had: best, st"):
        read("bset", 9)
    with pytest.raises(RegistryError, match=r"No version alias .* 2026-03-05 .* first, 'stable',"):
        read(None, 5)
