"""Recipes: what an output says of itself makes it again, and what is no recipe is told apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefreg
from prefreg.errors import UsageError
from prefreg.flows.compose import CompositionRequest
from prefreg.flows.recipes import read_recipe

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
