"""Laws that every method keeps, and what each does on numbers worked by hand."""

import math
from collections.abc import Mapping, Sequence

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefreg.axes.methods import Method, MethodInput, MethodTerm
from prefreg.composition.methods import built_in
from prefreg.composition.methods.ties import kept_magnitude
from prefreg.composition.rounding import key_of, random_bits
from prefreg.errors import UsageError
from prefreg.vectors.stored import BLOCK_ELEMENTS, blocks

AXES = ("harmless", "helpful", "verbosity")
Etas = st.lists(
    st.floats(-4, 4, width=32).filter(lambda eta: abs(eta) > 1e-3), min_size=3, max_size=3
)
Seeds = st.integers(0, 10**6)
METHODS = built_in()
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def vectors(seed: int, shape: tuple[int, ...] = (6, 5)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in AXES]


def change(
    method: Method,
    etas: Sequence[float],
    phis: Sequence[torch.Tensor],
    axes: Sequence[str] = AXES,
    block: int = BLOCK_ELEMENTS,
    **options: object,
) -> torch.Tensor:
    """Combine vectors as a composition does: sorted by axis, without those of η = 0."""
    flats = {axis: phi.flatten() for axis, phi in zip(axes, phis, strict=True)}

    def term(axis: str, eta: float) -> MethodTerm:
        return MethodTerm(axis, f"sha of {axis}", eta, lambda start, stop: flats[axis][start:stop])

    given_ = sorted(zip(axes, etas, strict=True))
    terms = tuple(term(axis, eta) for axis, eta in given_ if eta)
    total = torch.zeros(phis[0].numel())
    if terms:
        weight = MethodInput("w", tuple(phis[0].shape), terms, method.read_options(options))
        combine = method.prepare(weight)
        for start, stop in blocks(total.numel(), block):
            for addend in combine(start, [one.read(start, stop) for one in terms]):
                total[start:stop] += addend
    return total.reshape(phis[0].shape)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@every_method
@given(etas=Etas, seed=Seeds)
def test_turning_every_dial_around_turns_the_change_around(
    method: Method, etas: list[float], seed: int
) -> None:
    phis = vectors(seed)
    assert close(change(method, [-eta for eta in etas], phis), -change(method, etas, phis))


@every_method
@given(etas=Etas, seed=Seeds, power=st.integers(-3, 3))
def test_turning_every_dial_further_scales_the_change(
    method: Method, etas: list[float], seed: int, power: int
) -> None:
    # By powers of two, so that no rounding can turn an election.
    phis, scale = vectors(seed), 2.0**power
    scaled = change(method, [eta * scale for eta in etas], phis)
    assert close(scaled / scale, change(method, etas, phis))


@every_method
@given(etas=Etas, seed=Seeds)
def test_a_dial_at_zero_is_an_absent_vector(method: Method, etas: list[float], seed: int) -> None:
    phis = vectors(seed)
    without = change(method, etas[:2], phis[:2], AXES[:2])
    assert torch.equal(change(method, [*etas[:2], 0.0], phis), without)


@every_method
@given(eta=Etas, seed=Seeds)
def test_one_vector_at_full_density_is_eta_times_phi(
    method: Method, eta: list[float], seed: int
) -> None:
    phis = vectors(seed)[:1]
    full = {"density": 1.0} if "density" in method.options else {}
    assert torch.equal(change(method, eta[:1], phis, AXES[:1], **full), phis[0] * eta[0])


@every_method
@given(etas=Etas, seed=Seeds)
def test_the_order_of_the_terms_does_not_matter(
    method: Method, etas: list[float], seed: int
) -> None:
    phis = vectors(seed)
    turned = change(method, etas[::-1], phis[::-1], AXES[::-1])
    assert torch.equal(turned, change(method, etas, phis))


@every_method
def test_the_size_of_blocks_does_not_matter(method: Method) -> None:
    phis = vectors(1, (7, 5))
    whole = change(method, [1.0, -0.5, 2.0], phis)
    assert torch.equal(change(method, [1.0, -0.5, 2.0], phis, block=4), whole)


@every_method
@pytest.mark.parametrize("shape", [(), (9,), (3, 4, 5)])
def test_weights_of_any_shape_are_combined(method: Method, shape: tuple[int, ...]) -> None:
    found = change(method, [1.0, 1.0, -1.0], vectors(0, shape))
    assert found.shape == shape
    assert bool(found.isfinite().all())


def rows(*numbers: Sequence[float]) -> list[torch.Tensor]:
    return [torch.tensor(row) for row in numbers]


def test_ties_by_hand() -> None:
    # Of each vector the larger half is kept; then the sign of Σ η·φ wins, and the sum is taken.
    phis = rows([4.0, -3.0, 1.0, 0.0], [-3.0, -2.0, 0.0, 1.0])
    found = change(METHODS["ties"], [1.0, 1.0], phis, AXES[:2], density=0.5)
    assert found.tolist() == [4.0, -5.0, 0.0, 0.0]


def test_the_election_of_ties_follows_a_negative_eta() -> None:
    # At η = −2 the second vector votes with +6 and wins with it.
    phis = rows([-4.0, 1.0], [-3.0, 0.0])
    found = change(METHODS["ties"], [1.0, -2.0], phis, AXES[:2], density=1.0)
    assert found.tolist() == [6.0, 1.0]


def test_an_election_without_a_winner_adds_nothing() -> None:
    assert change(METHODS["ties"], [1.0, 1.0], rows([2.0], [-2.0]), AXES[:2]).tolist() == [0.0]


@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_the_kept_magnitude_is_that_of_sorting(numbers: list[float], density: float) -> None:
    phi = torch.tensor(numbers)
    count = max(1, int(density * len(numbers)))
    expected = sorted((abs(number) for number in phi.tolist()), reverse=True)[count - 1]
    found = kept_magnitude(lambda start, stop: phi[start:stop], len(numbers), density)
    assert found == (0.0 if count == len(numbers) else expected)


def test_dare_keeps_its_share_and_scales_it_up() -> None:
    phi = torch.ones(100_000)
    found = change(METHODS["dare"], [2.0], [phi], AXES[:1], density=0.25)
    assert set(found.tolist()) == {0.0, 8.0}
    assert float((found != 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    other = change(METHODS["dare"], [2.0], [phi], AXES[:1], density=0.25, seed=1)
    assert float(((found != 0) & (other != 0)).float().mean()) == pytest.approx(1 / 16, abs=0.01)


def test_gram_schmidt_keeps_the_protected_axis_whole() -> None:
    method = METHODS["gram-schmidt"]
    phis = rows([1.0, 0.0, 0.0], [3.0, 4.0, 0.0], [5.0, 6.0, 7.0])
    found = change(method, [1.0, 1.0, 1.0], phis, protect="helpful")
    # harmless loses .6·(.6, .8, 0), its part along helpful; verbosity all but (0, 0, 7).
    assert close(found, torch.tensor([0.64 + 3.0, -0.48 + 4.0, 7.0]))
    plain = change(method, [1.0, 1.0, 1.0], phis)
    assert close(plain, torch.tensor([1.0, 4.0, 7.0]))


def test_gram_schmidt_leaves_nothing_of_a_repetition() -> None:
    phis = rows([1.0, 2.0], [1.0, 2.0])
    found = change(METHODS["gram-schmidt"], [1.0, 1.0], phis, AXES[:2])
    assert close(found, torch.tensor([1.0, 2.0]))


def test_shrink_counts_a_shared_direction_less_and_leaves_others_alone() -> None:
    one = torch.diag(torch.tensor([1.0, 2.0, 0.0]))
    other = torch.diag(torch.tensor([1.0, 0.0, 3.0]))
    found = change(METHODS["shrink"], [1.0, 1.0], [one, other], AXES[:2])
    assert close(found, torch.diag(torch.tensor([math.sqrt(2), 2.0, 3.0])))


def test_shrink_is_the_same_for_wide_and_tall_weights() -> None:
    phis = vectors(3, (4, 9))
    wide = change(METHODS["shrink"], [1.0, -1.0, 0.5], phis)
    tall = change(METHODS["shrink"], [1.0, -1.0, 0.5], [phi.T.contiguous() for phi in phis])
    assert close(wide, tall.T)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("linear", {"density": 1}, r"linear has no option 'density'. It has: none"),
        ("ties", {"density": 0}, "density=0 is not a number above 0 and at most 1"),
        ("ties", {"density": "half"}, "density=half is not a number"),
        ("dare", {"seed": 1.5}, "seed=1.5 is not a whole number above -1"),
        ("ties", {"density": math.nan}, "density=nan is not a number"),
    ],
)
def test_malformed_options_are_wrong_usage(
    method: str, options: Mapping[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        METHODS[method].read_options(options)


@every_method
def test_a_method_says_what_it_does_and_where_it_is_from(method: Method) -> None:
    described = method.describe(method.read_options({}))
    assert "{" not in described
    assert "η" in described
    assert method.paper


def test_random_bits_are_those_of_splitmix64() -> None:
    # The first numbers of the published generator from the state 1234567.
    assert random_bits(1234567, 0, 3).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip
    assert random_bits(1234567, 1, 1).tolist() == [3203168211198807973]


def test_random_bits_do_not_depend_on_where_one_begins() -> None:
    key = key_of("a", 1)
    assert key != key_of("a", 2)
    whole = random_bits(key, 0, 1000)
    assert numpy.array_equal(random_bits(key, 300, 200), whole[300:500])
    assert float((whole >> numpy.uint64(63)).mean()) == pytest.approx(0.5, abs=0.06)
