from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.composition_request import EtaRule, eta_of, read_rule
from prefreg.composition.plan import Plan, PlannedTerm, opened
from prefreg.errors import UsageError, VectorError

MakePlan = Callable[..., Plan]


def test_terms_are_sorted_by_axis_and_version(bases: dict[str, BaseModel]) -> None:
    base = bases["llama"]
    terms = [
        PlannedTerm(tiny.record(axis, base, number=number), eta, b"")
        for axis, number, eta in [
            ("verbosity", 1, -0.3), ("helpful", 10, 1.0), ("harmless", 2, 0.5), ("helpful", 9, 0.0)
        ]
    ]  # fmt: skip
    plan = Plan(base, terms)
    assert [str(term.record) for term in plan.terms] == [
        "harmless@2", "helpful@9", "helpful@10", "verbosity@1"
    ]  # fmt: skip
    assert plan.formula == "base + 0.5·harmless@2 + 1·helpful@10 - 0.3·verbosity@1"
    assert len(plan.active) == 3


def test_a_plan_without_active_terms_is_the_base(bases: dict[str, BaseModel]) -> None:
    term = PlannedTerm(tiny.record("helpful", bases["llama"]), 0.0, b"")
    assert Plan(bases["llama"], [term]).formula == "base"


def test_a_version_may_stand_in_a_plan_once(bases: dict[str, BaseModel]) -> None:
    term = PlannedTerm(tiny.record("helpful", bases["llama"]), 1.0, b"")
    with pytest.raises(UsageError, match="helpful@1 stands in the composition twice"):
        Plan(bases["llama"], [term, term])


def test_a_coefficient_that_float32_cannot_hold_is_refused(bases: dict[str, BaseModel]) -> None:
    with pytest.raises(UsageError, match="does not fit float32"):
        Plan(bases["llama"], [PlannedTerm(tiny.record("helpful", bases["llama"]), 1e300, b"")])


def test_a_vector_of_another_base_says_which(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    own = bases["llama"]
    other = tiny.in_base(lambda: tiny.llama(tied=False, seed=1), tmp_path / "other")
    term = PlannedTerm(
        tiny.record("helpful", own), 1.0, tiny.store(tiny.random_phi(own, seed=0), tmp_path / "phi")
    )
    with pytest.raises(VectorError) as caught:
        Plan(other, [term])
    message = str(caught.value)
    assert f"belongs to base {own.name} ({own.fingerprint.weights[:12]})" in message
    assert f"not to {other.name} ({other.fingerprint.weights[:12]})" in message
    with opened(Plan(other, [term], force_base=True)) as plan:
        assert len(plan.terms) == 1


def test_force_does_not_make_shapes_fit(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    phi = {"model.norm.weight": torch.ones(31), "ghost": torch.ones(1)}
    term = PlannedTerm(
        tiny.record("helpful", bases["bf16"]), 1.0, tiny.store(phi, tmp_path / "phi")
    )
    with (
        pytest.raises(VectorError) as caught,
        opened(Plan(bases["llama"], [term], force_base=True)),
    ):
        pass
    message = str(caught.value)
    assert message.startswith("helpful@1 does not fit")
    assert "the base lacks 'ghost'" in message
    assert "of different shapes are 'model.norm.weight [31] against [32]'" in message


def test_a_damaged_vector_is_named_by_its_version(bases: dict[str, BaseModel]) -> None:
    plan = Plan(bases["llama"], [PlannedTerm(tiny.record("helpful", bases["llama"]), 1.0, b"???")])
    with pytest.raises(VectorError, match=r"^The vector of helpful@1 is not a sound"), opened(plan):
        pass


def test_a_kind_from_the_future_is_refused(bases: dict[str, BaseModel]) -> None:
    record = tiny.record("helpful", bases["llama"], kind="tensor-train")
    plan = Plan(bases["llama"], [PlannedTerm(record, 1.0, b"")])
    with pytest.raises(VectorError, match="kind 'tensor-train' cannot be read"), opened(plan):
        pass


@pytest.mark.parametrize(
    ("pattern", "layers"), [("0-2", {0, 1, 2}), ("3", {3}), ("2-", {2, 3, 4}), ("9-1", set())]
)
def test_a_range_of_layers(pattern: str, layers: set[int]) -> None:
    rule = EtaRule("layers", pattern, 1.0)
    assert {n for n in range(5) if rule.fits(f"model.layers.{n}.mlp.up_proj.weight")} == layers
    assert not rule.fits("model.norm.weight")


def test_the_last_rule_that_fits_counts() -> None:
    rules = [EtaRule("layers", "0-9", 2.0), EtaRule("modules", "*.mlp.*", 3.0)]
    assert eta_of("model.layers.1.attn.q.weight", 1.0, rules) == 2.0
    assert eta_of("model.layers.1.mlp.up.weight", 1.0, rules) == 3.0
    assert eta_of("lm_head.weight", 1.0, rules) == 1.0


def test_a_rule_is_read_as_it_is_written() -> None:
    for content in ({"layers": "0-7", "eta": 0.5}, {"modules": "*.mlp.*", "eta": 0.0}):
        assert read_rule(content).to_json() == content


@pytest.mark.parametrize(
    "content",
    [
        {"eta": 1},
        {"layers": "0-7"},
        {"layers": "0-7", "modules": "*", "eta": 1},
        {"layers": "first", "eta": 1},
        {"layers": "0-7", "eta": 1, "method": "ties"},
    ],
)
def test_a_malformed_rule_is_wrong_usage(content: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="is no r"):
        read_rule(content)
