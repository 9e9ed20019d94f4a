from collections.abc import Callable

import pytest

from prefreg.errors import RegistryError
from prefreg.registry import BaseIdentity, Store, VersionRecord

Add = Callable[..., VersionRecord]
MakeBase = Callable[..., BaseIdentity]


def test_a_base_is_its_weights(store: Store, base: MakeBase) -> None:
    first = store.register_base(base("org/a", path="/one"))
    again = store.register_base(base("org/a", path="/two", tokenizer="t1"))
    assert store.bases() == [again]
    assert (again.path, again.tokenizer, again.created) == ("/two", "t1", first.created)
    assert store.base(first.weights) == again
    assert store.base("f" * 64) is None


def test_the_last_base_is_that_of_the_newest_version_or_registration(
    store: Store, add: Add, base: MakeBase
) -> None:
    assert store.last_base() is None
    seen = []
    for use in (
        lambda: add(store, base=base("a")),
        lambda: store.register_base(base("b")),
        lambda: add(store, base=base("a")),
    ):
        use()
        last = store.last_base()
        assert last is not None
        seen.append(last.name)
    assert seen == ["a", "b", "a"]
    assert [known.name for known in store.bases()] == ["a", "b"]


def test_a_version_keeps_the_base_as_it_was_at_the_place_where_it_is(
    store: Store, add: Add, base: MakeBase
) -> None:
    identity = base("org/a", revision="r1", path="/one")
    add(store, base=identity)
    store.register_base(
        base("/two", weights=identity.weights, path="/two", tokenizer="t1", template="c1")
    )
    seen = store.resolve("helpful").base
    assert (seen.name, seen.revision, seen.tokenizer, seen.template) == ("org/a", "r1", "t0", "c0")
    assert seen.path == "/two"


def test_a_base_that_moved_is_found_again(store: Store, base: MakeBase) -> None:
    folder = base("/old/model", path="/old/model")
    hub = base("org/a", path="/cache/a")
    store.register_base(folder)
    store.register_base(hub)
    moved = store.relocate_base(folder.weights, "/new/model")
    assert (moved.name, moved.path) == ("/new/model", "/new/model")
    moved = store.relocate_base(hub.weights, "/cache/b")
    assert (moved.name, moved.path) == ("org/a", "/cache/b")
    assert store.base(hub.weights) == moved
    with pytest.raises(RegistryError, match="knows no base with fingerprint ffffffffffff"):
        store.relocate_base("f" * 64, "/new")
