"""Recipes: what an output says of itself makes it again, and what is no recipe is told apart."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import prefreg
import tiny
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.compose import read_recipe
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.recipe import recipe, recipe_file
from prefreg.errors import UsageError
from prefreg.files import hash_file
from prefreg.terms import Term

STARTER = Path(__file__).parent.parent.parent / "registry.db"
SLOW_ENOUGH = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SOUND: dict[str, Any] = {
    "schema": 1,
    "base": {"name": "pocket"},
    "terms": [{"axis": "helpful", "eta": 1.0, "version": 1}],
}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_recipe_names_the_gguf_file_of_its_base(make_plan: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    import ggufs

    base = resolve_base(str(ggufs.write(tmp_path / "model.gguf", kind="Q4_1")))
    content = recipe(make_plan(base, helpful=1.0), dtype=None, files=None, survival=None)
    digest = hash_file(tmp_path / "model.gguf")
    origin = {"file": "model.gguf", "sha256": digest, "quantisation": "Q4_1, F32"}
    assert content["base"]["gguf"] == origin
    assert content["base"]["name"] == str(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "ties", "options": {"density": 0.3}},
        {"method": "dare", "options": {"seed": 7}, "dtype": "bfloat16"},
        {"method": "gram-schmidt", "options": {"protect": "harmless,helpful"}},
        {"max_shard_size": "1MB", "files": {}},
        {"dtype": "float16", "rounding": {"kind": "stochastic", "seed": 5}},
        {"terms": [{"axis": "helpful", "eta": 1, "rules": [{"layers": "0-1", "eta": 0.5}]}]},
    ],
)
def test_an_output_is_its_own_recipe(tmp_path: Path, changes: dict[str, Any]) -> None:
    both = [{"axis": "harmless", "eta": -0.5}, {"axis": "helpful", "eta": 1.0}]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SOUND, "terms": both, **changes}))
    registry = prefreg.open(STARTER)
    registry.compose(read_recipe(tmp_path / "r.yaml", output=tmp_path / "one"))
    again = read_recipe(tmp_path / "one" / "prefreg.json", output=tmp_path / "two")
    registry.compose(again)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    written = json.loads((tmp_path / "one" / "prefreg.json").read_text())
    assert (written["files"] is None) == ("files" not in changes)


def test_options_win_over_the_recipe(tmp_path: Path) -> None:
    content = {**SOUND, "method": "ties", "options": {"density": 0.3}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    kept = read_recipe(tmp_path / "r.yaml", options=(("density", "0.4"),))
    assert (kept.method, kept.options) == ("ties", (("density", "0.4"),))
    # Another method has other settings.
    changed = read_recipe(tmp_path / "r.yaml", method="linear")
    assert (changed.method, changed.options) == ("linear", ())


def test_a_seed_of_zero_wins_over_the_recipe_too(tmp_path: Path) -> None:
    content = {**SOUND, "rounding": {"kind": "stochastic", "seed": 5}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert read_recipe(tmp_path / "r.yaml").seed == 5
    assert read_recipe(tmp_path / "r.yaml", seed=0).seed == 0


@SLOW_ENOUGH
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(UsageError, match="is no recipe"):
        read_recipe(tmp_path / "r.yaml")


@SLOW_ENOUGH
@given(key=st.sampled_from(["schema", "base", "terms", "method", "options", "dtype"]), value=Json)
def test_no_value_crashes_the_reader(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SOUND, key: value}))
    try:
        found = read_recipe(tmp_path / "r.yaml")
    except UsageError:
        return
    assert isinstance(found, CompositionRequest)


@SLOW_ENOUGH
@given(key=st.sampled_from(["axis", "eta", "version", "rules", "sha256"]), value=Json)
def test_no_term_crashes_the_reader(tmp_path: Path, key: str, value: object) -> None:
    term = {**SOUND["terms"][0], key: value}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SOUND, "terms": [term]}))
    try:
        found = read_recipe(tmp_path / "r.yaml")
    except UsageError:
        return
    assert len(found.terms) == 1


def test_a_recipe_reads_no_python_objects(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UsageError, match="is no recipe"):
        read_recipe(tmp_path / "r.yaml")


AXES = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)
ETAS = st.floats(-3e38, 3e38, allow_nan=False)
TERMS = st.dictionaries(AXES, st.tuples(st.integers(1, 10**9), ETAS), min_size=1, max_size=4)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tiny.in_base(lambda: tiny.llama(tied=True), tmp_path_factory.mktemp("base"))


@SLOW_ENOUGH
@given(
    terms=TERMS,
    dtype=st.sampled_from([None, "F32", "BF16", "F16"]),
    name=NAMES,
    revision=st.none() | st.from_regex(r"[0-9a-f]{1,40}", fullmatch=True),
    size=st.sampled_from([None, "5GB", "1MiB"]),
)
@example(
    terms={"on": (1, 1e-05), "null": (7, -5e-324), "e": (2, 1e22)},
    dtype=None,
    name="/home/me/a b: #'\"\x7f\u2028é",
    revision="1e5",
    size=None,
)
def test_a_recipe_reads_back(
    base: BaseModel,
    tmp_path: Path,
    terms: dict[str, tuple[int, float]],
    dtype: str | None,
    name: str,
    revision: str | None,
    size: str | None,
) -> None:
    named = dataclasses.replace(base, name=name, revision=revision)
    planned = [
        PlannedTerm(tiny.record(axis, base, number=number), eta, b"")
        for axis, (number, eta) in terms.items()
    ]
    content = recipe(
        Plan(named, planned), dtype=dtype, max_shard_size=size, files=None, survival=None
    )
    path = tmp_path / "prefreg.json"
    path.write_bytes(recipe_file(content))
    request = read_recipe(path)
    assert request.terms == tuple(
        Term(axis, eta, str(number)) for axis, (number, eta) in sorted(terms.items())
    )
    for term in request.terms:  # -0.0 is 0.0 to ==
        assert math.copysign(1, term.eta) == math.copysign(1, terms[term.axis][1])
    assert request.base == (f"{name}@{revision}" if revision else name)
    assert (
        request.dtype == {None: None, "F32": "float32", "BF16": "bfloat16", "F16": "float16"}[dtype]
    )
    assert request.max_shard_size == size
    assert dict(request.hashes) == {
        axis: tiny.record(axis, base, number=number).sha256 for axis, (number, _) in terms.items()
    }
