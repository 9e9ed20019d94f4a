import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg.evaluation.consistency import (
    agreement,
    by_layer,
    cosines,
    effect_correlation,
    energy,
    mean_cosine,
)


def products(*vectors: list[float]) -> np.ndarray:
    rows = np.array(vectors)
    return rows @ rows.T


def test_signal_and_noise_worked_by_hand() -> None:
    # ⟨φ₀, φ₁⟩ = 2, and the mean square is (5 + 2)/2.
    found = agreement(products([2.0, 1.0], [1.0, 0.0], [1.0, 1.0])[np.ix_([0, 1], [0, 1])])
    assert found.signal.value == 2.0
    assert found.noise.value == 1.0
    assert found.share.value == pytest.approx(2 / 3)
    assert found.cosine.value == pytest.approx(2 / 5**0.5)
    assert found.averaged == pytest.approx(4 / 5)
    assert found.share.kind == "range"


@given(st.integers(2, 8), st.floats(0.1, 10))
def test_the_same_vector_from_every_seed_is_all_signal(count: int, length: float) -> None:
    found = agreement(products(*[[length, -2 * length, 0.5]] * count))
    assert found.share.value == pytest.approx(1)
    assert found.cosine.value == pytest.approx(1)
    assert found.noise.value == pytest.approx(0, abs=1e-9)
    assert found.share.low == pytest.approx(1)
    assert found.share.high == pytest.approx(1)


def test_vectors_that_share_nothing_have_no_signal() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 20_000))
    found = agreement(rows @ rows.T)
    # One over the square root of 28 pairs of 20,000 numbers is .0013.
    assert abs(found.share.value) < 0.006
    assert abs(found.cosine.value) < 0.006
    assert found.share.low < 0 < found.share.high


def test_signal_of_a_known_share_is_found_again() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(size=5_000)
    rows = common + 2 * generator.normal(size=(10, 5_000))
    found = agreement(rows @ rows.T)
    assert found.share.value == pytest.approx(1 / 5, abs=0.02)
    truth = common @ common / (common @ common + 4 * 5_000)
    assert found.share.low < truth < found.share.high
    assert found.averaged == pytest.approx(10 * 0.2 / (1 + 9 * 0.2), abs=0.03)


def test_opposite_vectors_have_a_negative_share() -> None:
    assert agreement(products([1.0, 0.0], [-1.0, 0.0])).share.value == -1


def test_the_cosine_with_a_vector_of_zeros_is_zero() -> None:
    assert cosines(products([3.0, 4.0], [0.0, 0.0])).tolist() == [[1, 0], [0, 0]]


def test_layers_add_up_in_the_order_of_the_model() -> None:
    one = np.ones((2, 2))
    found = by_layer(
        {
            "model.layers.10.mlp.weight": one,
            "model.layers.2.mlp.weight": 2 * one,
            "model.layers.2.norm.weight": 3 * one,
            "model.embed_tokens.weight": 4 * one,
        }
    )
    assert list(found) == ["model.embed_tokens", "layer 2", "layer 10"]
    assert found["layer 2"].tolist() == [[5, 5], [5, 5]]


def test_a_layer_that_agrees_stands_out_from_one_that_does_not() -> None:
    found = mean_cosine(products([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]))
    assert found.value == pytest.approx(1 / 3)
    assert (found.low, found.high) == (0, 1)


def test_the_energy_of_poles_worked_by_hand() -> None:
    # δ₊ = (3, 0), δ₋ = (0, 4): their mean is (1.5, 2), half their difference (1.5, −2).
    found = energy([(3.0, 4.0, 0.0), (3.0, 4.0, 0.0)])
    assert found.common.value == 6.25
    assert found.differential.value == 6.25
    assert found.share.value == 0.5
    # Exactly opposite, then exactly alike.
    assert energy([(2.0, 2.0, -1.0)] * 2).share.value == 1
    assert energy([(2.0, 2.0, 1.0)] * 2).share.value == 0


@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 4), min_size=2, max_size=6))
def test_the_energy_by_lengths_and_angles_is_that_of_the_poles(
    poles: list[tuple[float, float, float, float]],
) -> None:
    records, common, opposed = [], [], []
    for a, b, c, d in poles:
        plus, minus = np.array([a, b, 1.0]), np.array([c, d, 2.0])
        lengths = np.linalg.norm(plus), np.linalg.norm(minus)
        records.append((*map(float, lengths), float(plus @ minus / np.prod(lengths))))
        common.append(np.sum(((plus + minus) / 2) ** 2))
        opposed.append(np.sum(((plus - minus) / 2) ** 2))
    found = energy(records)
    assert found.common.value == pytest.approx(np.mean(common), abs=1e-9)
    assert found.differential.value == pytest.approx(np.mean(opposed), abs=1e-9)
    assert found.share.value == pytest.approx(sum(opposed) / sum(common + opposed), abs=1e-9)


def test_effects_that_rise_together_correlate() -> None:
    prompts = np.arange(20.0)
    found = effect_correlation(np.stack([prompts, 3 * prompts + 1, -prompts]))
    assert found.value == pytest.approx(-1 / 3)
    assert (found.low, found.high) == (pytest.approx(-1), pytest.approx(1))


def test_effects_that_do_not_vary_have_no_correlation() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        effect_correlation(np.ones((2, 20)))
