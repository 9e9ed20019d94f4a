import pytest
import torch

from prefreg.evaluation.layer_profile import Block, LayerSubset, make_blocks, profile_layers
from prefreg.vectors.tensors import MemoryTensors

NAMES = ["lm_head.weight", *(f"model.layers.{n}.mlp.weight" for n in range(12))]


def by_layer(effects: dict[str, float], costs: dict[str, float]):
    """Make layers whose effects add up, and whose KL is that of independent changes."""

    def measure(layers: Block, eta: float) -> tuple[float, float]:
        effect = eta * sum(effects[layer] for layer in layers)
        return effect, eta**2 * sum(costs[layer] for layer in layers)

    return measure


def test_layers_are_cut_into_runs_and_what_stands_outside_is_by_itself() -> None:
    blocks = make_blocks(NAMES, 5)
    assert blocks[0] == ("lm_head",)
    assert blocks[1] == ("layer 0", "layer 1")
    assert [len(block) for block in blocks[1:]] == [2, 3, 2, 3, 2]
    assert len(make_blocks(NAMES, 99)) == 13
    assert make_blocks(NAMES[:1], 3) == [("lm_head",)]


def test_the_cheapest_layers_are_chosen_and_turned_up() -> None:
    measure = by_layer({"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": 6.0})
    found = profile_layers(measure, [("a",), ("b",), ("c",)], 1.0)
    assert (found.whole.effect, found.whole.kl) == (2.0, 8.0)
    assert [part.layers for part in found.growing] == [("a",), ("a", "b"), ("a", "b", "c")]
    # Both together: 2 nats for an effect of 2, a quarter of what the whole vector takes.
    assert found.chosen.layers == ("a", "b")
    assert (found.chosen.eta, found.chosen.effect, found.chosen.kl) == (1.0, 2.0, 2.0)


def test_a_subset_with_less_effect_is_turned_up_to_the_whole_one() -> None:
    measure = by_layer({"a": 1.0, "b": 0.5}, {"a": 1.0, "b": 4.0})
    found = profile_layers(measure, [("a",), ("b",)], 1.0)
    assert found.chosen.eta == 1.5
    assert (found.chosen.effect, found.chosen.kl) == (1.5, 2.25)
    assert found.whole.kl == 5.0


def test_where_all_layers_are_needed_none_is_left_out() -> None:
    measure = by_layer({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    found = profile_layers(measure, [("a",), ("b",)], -2.0)
    assert found.chosen == found.whole


def test_a_layer_that_moves_the_margin_back_comes_last() -> None:
    measure = by_layer({"a": 1.0, "b": -0.4, "c": 1.0}, {"a": 1.0, "b": 0.01, "c": 1.0})
    found = profile_layers(measure, [("a",), ("b",), ("c",)], 1.0)
    assert found.growing[1].layers == ("a", "c")
    assert found.chosen.layers == ("a", "c")


def test_layers_of_a_vector_are_a_vector() -> None:
    whole = MemoryTensors({name: torch.ones(2, 3) for name in NAMES})
    part = LayerSubset(whole, ("layer 3", "lm_head"))
    assert part.names == ("lm_head.weight", "model.layers.3.mlp.weight")
    assert part.shape(part.names[0]) == (2, 3)
    assert part.block(part.names[1], 0, 4).tolist() == [1.0] * 4
    assert part.tensor(part.names[1]) == pytest.approx(torch.ones(2, 3))
