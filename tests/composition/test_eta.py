import pytest

from prefreg.composition.plan import EtaRule, eta_of, read_rule
from prefreg.errors import UsageError


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
