"""Which versions and which base a composition gets."""

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import prefreg
import tiny
from prefreg import BaseModelError, RegistryError, UsageError
from prefreg.checkpoints import BaseModel
from prefreg.checkpoints.bundled import find_bundled
from prefreg.composition.resolve import base_spec, identify, only_base, resolve_terms
from prefreg.registry import BaseRecord, NewVersion, Store
from prefreg.terms import as_terms
from prefreg_axes import smollm2


@dataclass(frozen=True, slots=True)
class House:
    """A registry and two bases in folders."""

    path: Path
    first: BaseModel
    second: BaseModel

    def add(self, axis: str, base: BaseModel, *, aliases: tuple[str, ...] = ()) -> None:
        """Store a random vector."""
        blob = self.path.with_name("vector.safetensors")
        tiny.store(tiny.random_phi(base, seed=len(axis)), blob)
        with Store.open(self.path, write=True) as store:
            store.add(
                NewVersion(
                    axis=axis,
                    axis_aliases=aliases,
                    kind="dense",
                    dtype="F32",
                    base=identify(base),
                    metadata={},
                    note=None,
                ),
                blob,
            )
        blob.unlink(missing_ok=True)

    def resolve(self, *terms: str, base: object = None) -> tuple[str, list[str]]:
        """Return the base's name and the versions that terms get."""
        with Store.open(self.path, write=False) as store:
            found = resolve_terms(store, as_terms(terms), None if base is None else str(base))
        return found.base.name, [str(term.record) for term in found.terms]


@pytest.fixture
def house(tmp_path: Path) -> House:
    first = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "first")
    second = tiny.in_base(lambda: tiny.llama(tied=False, seed=1), tmp_path / "second")
    return House(tmp_path / "house.db", first, second)


def test_the_one_base_that_has_every_term_is_used(house: House) -> None:
    house.add("a", house.first)
    house.add("a", house.second)
    house.add("b", house.second)
    assert house.resolve("b:1", "a:1") == (house.second.name, ["a@2", "b@1"])
    assert house.resolve("a@1:1") == (house.first.name, ["a@1"])


def test_several_bases_are_listed(house: House) -> None:
    house.add("a", house.first)
    house.add("a", house.second)
    with pytest.raises(RegistryError, match="Several base models fit") as caught:
        house.resolve("a:1")
    assert house.first.name in str(caught.value)
    assert house.second.name in str(caught.value)
    assert house.resolve("a:1", base=house.first.name)[1] == ["a@1"]


def test_of_what_ships_the_default_base_is_meant(house: House, tmp_path: Path) -> None:
    house.add("a", house.first)
    house.add("a", replace(house.second, name="pocket"))
    own = tmp_path / "own.db"
    with Store.open(own, write=True, beneath=Store.open(house.path, write=False)) as store:
        assert only_base(store, as_terms(["a:1"])).name == "pocket"
        assert only_base(store, as_terms(["a@1:1"])).name == house.first.name
        assert store.last_base() is None


def test_a_base_that_nobody_has_installed_is_not_meant(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "version", version)
    house.add("a", house.first)
    house.add("a", replace(house.second, name="smollm2"))
    assert house.resolve("a:1") == (house.first.name, ["a@1"])
    monkeypatch.undo()
    if find_bundled("smollm2").problem() is None:
        with pytest.raises(RegistryError, match=r"choose one with .*smollm2\."):
            house.resolve("a:1")


def test_terms_of_different_bases_do_not_mix(house: House) -> None:
    house.add("a", house.first)
    house.add("b", house.second)
    with pytest.raises(RegistryError, match="No base model has a vector for every term") as caught:
        house.resolve("a:1", "b:1")
    assert f"a on {house.first.name}" in str(caught.value)


def test_the_newest_version_on_the_base_is_used(house: House) -> None:
    for base in (house.first, house.first, house.second):
        house.add("a", base)
    assert house.resolve("a:1", base=house.first.name)[1] == ["a@2"]
    assert house.resolve("a:1", base=house.second.name)[1] == ["a@3"]
    with pytest.raises(RegistryError):
        house.resolve("a@3:1", base=house.first.name)


def test_an_axis_is_found_by_the_aliases_stored_with_it(house: House) -> None:
    house.add("a", house.first, aliases=("alpha",))
    assert house.resolve("alpha:1")[1] == ["a@1"]
    with pytest.raises(UsageError, match="'a' is named twice"):
        house.resolve("alpha:1", "a:1")


def test_an_empty_registry_says_so(house: House) -> None:
    with Store.open(house.path, write=True):
        pass
    with pytest.raises(RegistryError):
        house.resolve("a:1")


def test_a_base_that_moved_is_named_once_and_then_known(house: House, tmp_path: Path) -> None:
    house.add("a", house.first)
    moved = tmp_path / "moved"
    shutil.move(house.first.name, moved)
    registry = prefreg.open(house.path)
    with pytest.raises(BaseModelError, match=r"no longer at .* give `base=` NEWPATH"):
        registry.compose({"a": 1}, tmp_path / "out")
    registry.compose({"a": 1}, tmp_path / "out", base=str(moved))
    registry.compose({"a": 1}, tmp_path / "again")
    (known,) = registry.bases()
    assert (known.name, known.path) == (str(moved), str(moved))


def test_a_base_whose_weights_changed_is_refused(house: House, tmp_path: Path) -> None:
    house.add("a", house.first)
    tiny.save(tiny.llama(tied=False, seed=2), Path(house.first.name))
    with pytest.raises(BaseModelError, match="has changed"):
        prefreg.open(house.path).compose({"a": 1}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_of_a_hub_is_named_with_its_revision() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert base_spec(_record("org/name", commit)) == f"org/name@{commit}"
    assert base_spec(_record("pocket", None)) == "pocket"


def _record(name: str, revision: str | None) -> BaseRecord:
    return BaseRecord(
        name=name,
        revision=revision,
        path=None,
        weights="w",
        tokenizer="t",
        template=None,
        parameters=1,
        dtype="F32",
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_the_base_of_ones_own_versions_comes_before_that_of_what_ships(house: House) -> None:
    shipped = replace(house, path=house.path.with_name("shipped.db"))
    shipped.add("a", house.first)
    shipped.add("b", house.first)
    house.add("a", house.second)

    def resolve(*terms: str) -> tuple[str, list[str]]:
        beneath = Store.open(shipped.path, write=False)
        with Store.open(house.path, write=False, beneath=beneath) as store:
            found = resolve_terms(store, as_terms(terms))
        return found.base.name, [str(term.record) for term in found.terms]

    assert resolve("a:1") == (house.second.name, ["a@1"])
    assert resolve() == (house.second.name, [])
    assert resolve("b:1") == (house.first.name, ["b@1"])
    with pytest.raises(RegistryError, match="No base model has a vector for every term"):
        resolve("a@1:1", "b:1")  # a@1 is the own one, which hides the other
