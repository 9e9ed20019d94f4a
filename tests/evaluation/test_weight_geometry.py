from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import VectorError
from prefreg.evaluation.evaluation_request import Comparing
from prefreg.evaluation.weight_geometry import (
    Directions,
    Interaction,
    RandomPairs,
    align,
    compare_in_weights,
    leading_directions,
    overlap,
    random_interactions,
    random_sti,
)
from prefreg.vectors.algebra import cosine
from prefreg.vectors.lowrank import Factors, LowRankVector, write_low_rank
from prefreg.vectors.tensors import MemoryTensors

FIRST = "model.layers.0.mlp.weight"
SECOND = "model.layers.10.mlp.weight"
Numbers = st.lists(st.integers(-9, 9).filter(bool).map(float), min_size=4, max_size=4)


def vector(**tensors: list[float]) -> MemoryTensors:
    names = {"first": FIRST, "second": SECOND, "head": "lm_head.weight"}
    return MemoryTensors({names[key]: torch.tensor([value]) for key, value in tensors.items()})


def test_angles_and_conflicts_worked_by_hand() -> None:
    one = vector(first=[3.0, 0.0, 4.0, 0.0], head=[0.0, 0.0])
    other = vector(first=[3.0, 1.0, -4.0, 0.0], head=[1.0, 1.0])
    found = align([one, other], [1.0, 1.0])
    # 9 − 16 over 5 · √26; of two weights that both change one goes against, with 4 of 3 + 4.
    layer = found.layers["layer 0"]
    assert layer.cosines[0, 1] == pytest.approx(-7 / (5 * 26**0.5))
    assert layer.conflicts[0, 1] == 0.5
    assert layer.conflicting_mass[0, 1] == pytest.approx(4 / 7)
    assert np.isnan(found.layers["lm_head"].cosines[0, 1])
    assert found.total.cosines[1, 0] == pytest.approx(-7 / (5 * 28**0.5))


def test_layers_come_by_number_behind_what_stands_outside() -> None:
    one = vector(first=[1.0], second=[1.0], head=[1.0])
    assert list(align([one, one], [1, 1]).layers) == ["lm_head", "layer 0", "layer 10"]


def test_a_coefficient_turns_a_vector_round() -> None:
    one, other = vector(first=[1.0, 2.0]), vector(first=[2.0, 1.0])
    found = align([one, other], [1.0, -2.0]).total
    assert found.cosines[0, 1] == pytest.approx(-0.8)
    assert found.conflicts[0, 1] == 1
    assert found.products[1, 1] == 20


def test_a_vector_is_zero_where_it_holds_no_tensor() -> None:
    one, other = vector(first=[3.0], second=[4.0]), vector(first=[1.0])
    found = align([one, other], [1.0, 1.0])
    assert found.total.cosines[0, 1] == pytest.approx(0.6)
    assert np.isnan(found.layers["layer 10"].cosines[0, 1])
    assert found.layers["layer 10"].shared[0, 1] == 0


@given(Numbers, Numbers)
def test_the_cosine_is_that_of_the_whole_vectors(a: list[float], b: list[float]) -> None:
    one, other = vector(first=a[:2], head=a[2:]), vector(first=b[:2], head=b[2:])
    found = align([one, other], [1.0, 1.0]).total
    assert found.cosines[0, 1] == pytest.approx(cosine(one, other), abs=1e-12)
    assert 0 <= found.conflicts[0, 1] <= 1
    turned = align([one, other], [1.0, -1.0]).total
    assert turned.conflicting_mass[0, 1] == pytest.approx(1 - found.conflicting_mass[0, 1])


def test_low_rank_vectors_have_the_geometry_of_their_products(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    dense, files = [], []
    for number in range(2):
        b, a = torch.randn(9, 2, generator=generator), torch.randn(2, 5, generator=generator)
        dense.append(MemoryTensors({FIRST: b @ a}))
        write_low_rank({FIRST: Factors(b, a)}, tmp_path / str(number))
        files.append(tmp_path / str(number))
    expected = align(dense, [1.0, -2.0]).total
    with LowRankVector.open(files[0]) as one, LowRankVector.open(files[1]) as other:
        found = align([one, other], [1.0, -2.0]).total
        mixed = align([one, dense[1]], [1.0, -2.0]).total
    assert found.products == pytest.approx(expected.products, rel=1e-5)
    assert mixed.products == pytest.approx(expected.products, rel=1e-5)
    assert (found.opposed == expected.opposed).all()


def test_vectors_of_other_shapes_are_refused() -> None:
    with pytest.raises(VectorError, match="another shape"):
        align([vector(first=[1.0]), vector(first=[1.0, 2.0])], [1, 1])


def random(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def directions(matrix: torch.Tensor, rank: int) -> Directions:
    found = leading_directions(MemoryTensors({"w": matrix}), "w", rank)
    assert found is not None
    return found


def one(angle: float, other_angle: float, value: float) -> Directions:
    """Return one direction at an angle, in degrees, among two outputs and two inputs."""
    left, right = (
        torch.tensor([[np.cos(np.radians(degrees))], [np.sin(np.radians(degrees))]])
        for degrees in (angle, other_angle)
    )
    return Directions(left.double(), torch.tensor([value]).double(), right.double())


def test_interference_worked_by_hand() -> None:
    # cos 60° · cos 45° · (2 + 3), as the two off-diagonal cosines meet each singular value once.
    parts = [(0, one(0, 0, 2.0)), (1, one(60, 45, 3.0))]
    assert float(Interaction.of(parts).sti()) == pytest.approx(0.5 * 0.5**0.5 * 5)
    # Turning one vector round changes no size.
    turned = [(0, one(0, 0, 2.0)), (1, one(60, 45, 3.0).scaled(-1))]
    assert float(Interaction.of(turned).sti()) == pytest.approx(0.5 * 0.5**0.5 * 5)
    assert float(Interaction.of([(0, one(0, 0, 2.0)), (1, one(90, 10, 3.0))]).sti()) < 1e-12


def test_the_interference_of_a_pair_leaves_the_others_out() -> None:
    parts = [(0, one(0, 0, 2.0)), (1, one(60, 45, 3.0)), (2, one(20, 10, 7.0))]
    alone = Interaction.of([parts[0], parts[2]]).sti()
    assert float(Interaction.of(parts).sti((0, 2))) == pytest.approx(float(alone))


def test_directions_are_those_of_the_decomposition() -> None:
    matrix = random(7, 5, 1)
    found = directions(matrix, 3)
    u, values, vt = torch.linalg.svd(matrix.double())
    assert found.values.numpy() == pytest.approx(values[:3].numpy(), rel=1e-5)
    nearest = (u[:, :3] * values[:3]) @ vt[:3]
    assert torch.allclose((found.left * found.values) @ found.right.T, nearest, atol=1e-5)
    assert torch.allclose(found.left.T @ found.left, torch.eye(3).double(), atol=1e-5)


def test_factors_are_decomposed_without_their_product(tmp_path: Path) -> None:
    b, a = random(9, 4, 1), random(4, 6, 2)
    write_low_rank({"w": Factors(b, a)}, tmp_path / "v")
    expected = directions(b @ a, 3)
    with LowRankVector.open(tmp_path / "v") as vector:
        found = leading_directions(vector, "w", 3)
    assert found is not None
    assert found.values.numpy() == pytest.approx(expected.values.numpy(), rel=1e-5)
    assert overlap(found, expected)[0] == pytest.approx(1, abs=1e-5)


def test_directions_that_are_rounding_are_left_out() -> None:
    matrix = torch.outer(random(6, 1, 1)[:, 0], random(5, 1, 2)[:, 0])
    assert directions(matrix, 4).rank == 1
    assert leading_directions(MemoryTensors({"w": matrix * 0}), "w", 4) is None
    assert leading_directions(MemoryTensors({"w": matrix}), "other", 4) is None


def test_a_subspace_shares_all_with_itself_and_nothing_with_its_complement() -> None:
    eye = torch.eye(6)
    head, tail = directions(eye[:, :2] @ eye[:2], 2), directions(eye[:, 2:4] @ eye[2:4], 2)
    assert overlap(head, head) == (pytest.approx(1), pytest.approx(2 / 6))
    assert overlap(head, tail)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(40, 25), (40, 5), (6, 5)])
def test_the_null_is_of_random_frames(shape: tuple[int, int]) -> None:
    """Compare the shortcut, on both sides of its threshold, with frames that are made whole."""
    parts = [(place, directions(random(*shape, place), 3)) for place in range(2)]
    real = Interaction.of(parts)
    found = random_interactions(real, 1500, np.random.default_rng(0))
    block = found.left[:, :3, 3:].square().sum((1, 2))
    # The squared cosines between random frames of r and r add up to r·r/m on average.
    assert float(block.mean()) == pytest.approx(9 / shape[0], rel=0.08)
    assert torch.allclose(found.left[0, :3, :3], torch.eye(3), atol=1e-5)
    generator = torch.Generator().manual_seed(1)
    frames = [
        torch.linalg.qr(torch.randn(1500, rows, 3, generator=generator).double()).Q
        for rows in (*shape, *shape)
    ]
    whole = Interaction(
        *(
            side.transpose(1, 2) @ side if place != 1 else real.values
            for place, side in enumerate(
                (torch.cat([frames[0], frames[2]], 2), real.values, torch.cat(frames[1::2], 2))
            )
        ),
        real.owners,
        real.shape,
    )
    for quantile in (0.1, 0.5, 0.9):
        short, long = (np.quantile(each.sti().numpy(), quantile) for each in (found, whole))
        assert short == pytest.approx(long, rel=0.12)


def test_random_vectors_interfere_as_chance_has_it() -> None:
    parts = [(place, directions(random(30, 20, place), 4)) for place in range(3)]
    real = Interaction.of(parts)
    null = random_interactions(real, 500, np.random.default_rng(0)).sti()
    assert null.quantile(0.005) < real.sti() < null.quantile(0.995)


def test_the_null_of_a_pair_is_that_of_its_two_vectors_alone() -> None:
    """Compare one draw for all pairs with frames of the two vectors' own ranks."""
    parts = {
        place: directions(random(30, 20, place) * (1 + place), rank)
        for place, rank in enumerate((4, 2, 3))
    }
    spectra = {place: part.values for place, part in parts.items()}
    found = RandomPairs.draw(spectra, (30, 20), 1500, np.random.default_rng(0))
    for pair in combinations(parts, 2):
        alone = Interaction.of([(place, parts[place]) for place in pair])
        null = random_sti(alone, 1500, np.random.default_rng(1))
        for quantile in (0.1, 0.5, 0.9):
            short, long = (float(each.quantile(quantile)) for each in (found.sti(*pair), null))
            assert short == pytest.approx(long, rel=0.06)


def test_the_interference_of_a_draw_is_worked_out_by_hand() -> None:
    spectra = {0: torch.tensor([2.0]), 1: torch.tensor([3.0])}
    # cos 60° and cos 45°, each once with either singular value.
    draw = RandomPairs(torch.tensor([[[0.5]]]), torch.tensor([[[0.5**0.5]]]), spectra)
    assert draw.sti(0, 1).tolist() == pytest.approx([0.5 * 0.5**0.5 * 5])


def test_many_draws_are_made_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Interaction.of([(place, directions(random(9, 8, place), 2)) for place in range(3)])
    monkeypatch.setattr("prefreg.evaluation.weight_geometry._MOST_PRODUCTS", 100)  # 2 draws
    found = random_sti(real, 5, np.random.default_rng(0))
    assert len(found) == 5
    assert (found > 0).all()


def test_sixty_vectors_are_compared_by_pairs() -> None:
    vectors = [MemoryTensors({FIRST: random(12, 10, place)}) for place in range(60)]
    found = compare_in_weights(vectors, [1.0] * 60, Comparing(rank=2, draws=50))
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert list(pairs) == list(combinations(range(60), 2))
    alone = compare_in_weights([vectors[3], vectors[41]], [1.0, 1.0], Comparing(2, 50)).pairs[0]
    pair = pairs[3, 41]
    assert pair.conflicting_mass == pytest.approx(alone.conflicting_mass)
    assert pair.sti is not None
    assert alone.sti is not None
    assert pair.sti.value == pytest.approx(alone.sti.value)
    assert pair.sti.null == pytest.approx(alone.sti.null, rel=0.15)
