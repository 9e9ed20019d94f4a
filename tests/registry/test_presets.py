"""Presets: versions that stay, names that are nobody else's, and what they stand for."""

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import older
from prefreg import RegistryError, Term, UsageError, parse_term
from prefreg.registry import BaseIdentity, Store, VersionRecord

Add = Callable[..., VersionRecord]


def setting(*texts: str) -> list[Term]:
    return [parse_term(text) for text in texts]


@pytest.fixture
def axes(store: Store, add: Add) -> Store:
    """A registry with two axes, one of them with an alias."""
    add(store, "helpful")
    add(store, "verbosity", b"other", aliases=("verbose",))
    return store


def test_a_preset_is_versioned_and_means_its_newest(axes: Store) -> None:
    first = axes.save_preset("calm", setting("verbose:-0.3", "helpful:.6"), "evening")
    assert (str(first), first.note) == ("calm@1", "evening")
    assert first.terms == (Term("helpful", 0.6), Term("verbosity", -0.3))  # by axis, by its name
    again = axes.save_preset("calm", setting("helpful:0.6", "verbosity:-0.3"))
    assert again == first  # nothing new is said
    second = axes.save_preset("calm", setting("helpful:1"))
    assert second.number == 2
    assert axes.expand(setting("calm")) == (Term("helpful", 1.0),)
    assert axes.expand(setting("calm@1")) == first.terms
    assert axes.expand(setting("calm"), first.created) == first.terms
    with pytest.raises(RegistryError, match="There was no preset 'calm' on 2020-01-01 00:00:00"):
        axes.expand(setting("calm"), datetime(2020, 1, 1, tzinfo=UTC))
    assert [str(each) for each in axes.presets()] == ["calm@2"]
    assert axes.presets("calm") == [first, second]


def test_numbers_are_not_used_again_after_a_removal(axes: Store) -> None:
    axes.save_preset("calm", setting("helpful:1"))
    assert str(axes.remove_preset("calm")) == "calm@1"
    assert axes.presets() == []
    with pytest.raises(RegistryError, match=r"has no preset 'calm'\. It has none yet"):
        axes.remove_preset("calm")
    assert axes.save_preset("calm", setting("helpful:1")).number == 3
    with pytest.raises(RegistryError, match=r"'calm' has no version 1\. It has: 3"):
        axes.preset("calm", 1)


def test_a_preset_of_presets_is_what_they_mean_now(axes: Store) -> None:
    axes.save_preset("calm", setting("helpful:1"))
    both = axes.save_preset("quiet", setting("calm", "verbosity:-1"))
    assert both.terms == (Term("helpful", 1.0), Term("verbosity", -1.0))


@pytest.mark.parametrize(
    ("name", "terms", "said"),
    [
        ("helpful", ["verbosity:1"], "'helpful' is an axis"),
        ("verbose", ["helpful:1"], r"'verbose' is an axis \(an alias of 'verbosity'\)"),
        ("Calm", ["helpful:1"], "no name of a preset"),
        ("calm", ["helpfull:1"], "Did you mean 'helpful'"),
        ("calm", ["helpful@7:1"], "Version 7 of axis 'helpful' does not exist"),
        ("calm", ["helpful:1", "helpful@1:2"], "named twice"),
        ("calm", ["verbose:1", "verbosity:2"], "named twice.*'verbose' is its alias"),
        ("calm", ["helpful:0"], "sets nothing"),
        ("calm", [], "at least one term"),
        ("calm", ["quite"], "nor the name of a preset. There is none yet"),
    ],
)
def test_what_is_no_setting_is_refused(axes: Store, name: str, terms: list[str], said: str) -> None:
    with pytest.raises((RegistryError, UsageError), match=said):
        axes.save_preset(name, setting(*terms))
    assert axes.presets() == []


def test_what_a_term_cannot_be_is_said(axes: Store) -> None:
    axes.save_preset("calm", setting("helpful:1"))
    for text, said in {
        "clam": "There are: calm. Did you mean 'calm'",
        "helpful": "'helpful' is not a term",
        "calm:1": "without a coefficient",
    }.items():
        with pytest.raises(UsageError, match=said):
            axes.expand(setting(text))
    with pytest.raises(UsageError, match=r"'helpful' is named twice \(the preset 'calm' sets it"):
        axes.expand(setting("helpful:1", "calm"))
    with pytest.raises(RegistryError, match="no version 2"):
        axes.expand(setting("calm@2"))


def test_an_axis_cannot_take_the_name_of_a_preset(axes: Store, add: Add) -> None:
    axes.save_preset("calm", setting("helpful:1"))
    for refused in (lambda: add(axes, "calm"), lambda: axes.rename_axis("helpful", "calm")):
        with pytest.raises(RegistryError, match="'calm' is a preset here"):
            refused()
    with pytest.raises(RegistryError, match="'calm' is a preset here"):
        add(axes, "other", aliases=("calm",))
    axes.remove_preset("calm")
    assert add(axes, "calm").number == 1


def test_a_preset_that_names_a_removed_version_says_so(axes: Store) -> None:
    axes.save_preset("calm", setting("helpful@1:1"))
    axes.remove("helpful", 1)
    with pytest.raises(RegistryError, match=r"The preset calm@1 cannot be used: .*helpful"):
        axes.expand(setting("calm"))


def test_a_damaged_preset_is_told(axes: Store, path: Path) -> None:
    axes.save_preset("calm", setting("helpful:1"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE presets SET terms = 'helpful:many'")
    connection.close()
    with pytest.raises(RegistryError, match="The preset calm@1 is damaged"):
        axes.presets()


def test_an_older_registry_has_none_until_it_is_written(path: Path) -> None:
    older.write_older(path, "0003")
    before = path.read_bytes()
    with Store.open(path, write=False) as store:
        assert store.presets() == []
        with pytest.raises(UsageError, match="There is none yet"):
            store.expand(setting("calm"))
    assert path.read_bytes() == before
    with Store.open(path, write=True) as store:
        assert store.save_preset("calm", setting("helpful:1")).number == 1


def test_a_preset_may_name_what_ships(
    path: Path, empty: Path, tmp_path: Path, add: Add, base: Callable[..., BaseIdentity]
) -> None:
    shipped = tmp_path / "shipped.db"
    older.write_older(shipped, "0003")
    before = shipped.read_bytes()
    shutil.copy(empty, path)
    beneath = Store.open(shipped, write=False)
    with Store.open(path, write=True, beneath=beneath) as store:
        saved = store.save_preset("calm", setting("help:1"))
        assert saved.terms == (Term("helpful", 1.0),)
        assert store.presets() == [saved]
        assert saved.created - store.now() < timedelta(0)
    assert shipped.read_bytes() == before
