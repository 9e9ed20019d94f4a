from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.errors import VectorError
from prefreg.evaluation.weight_geometry import align
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
