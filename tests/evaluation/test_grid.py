import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefreg import UsageError
from prefreg.evaluation.sweep import parse_grid
from prefreg.terms import Term


def test_a_range_ends_where_it_says_and_hits_0_exactly() -> None:
    (turned,) = parse_grid(["helpful=-0.3:0.3:0.1"]).turned
    assert turned.etas == (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    (turned,) = parse_grid(["helpful@2=0:1:0.4"]).turned
    assert (turned.reference, turned.etas) == ("2", (0.0, 0.4, 0.8))


def test_every_combination_is_a_setting_and_terms_stay() -> None:
    grid = parse_grid(["helpful=1,-1", "harmless@stable=0:1:1", "verbosity:0.5"])
    assert len(grid) == 4
    settings = list(grid.cells())
    assert [etas for etas, _ in settings] == [(-1, 0), (-1, 1), (1, 0), (1, 1)]
    assert settings[1][1] == (
        Term("helpful", -1),
        Term("harmless", 1, "stable"),
        Term("verbosity", 0.5),
    )


@given(st.integers(-50, 50), st.integers(0, 40), st.sampled_from([0.01, 0.05, 0.1, 0.25, 1.0, 3.0]))
def test_a_range_has_as_many_steps_as_fit(start: int, count: int, step: float) -> None:
    low, high = round(start * step, 6), round((start + count) * step, 6)
    (turned,) = parse_grid([f"helpful={low}:{high}:{step}"]).turned
    assert len(turned.etas) == count + 1
    assert turned.etas[-1] == pytest.approx(high)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["helpful:1"], "needs an axis that is turned"),
        (["helpful=1:2"], "has no range"),
        (["helpful=0:1:0"], "goes nowhere"),
        (["helpful=1:0:0.5"], "goes nowhere"),
        (["helpful=0:1:nan"], "is no finite number"),
        (["helpful=0,x"], "is no finite number"),
        (["helpful=1,1.0"], "names a coefficient twice"),
        (["Helpful=0:1:1"], "does not begin with an axis name"),
        (["helpful=0:1:0.000001"], "steps: take larger ones"),
        (["helpful=0:100:1", "harmless=0:100:1"], "10201 settings are more than"),
        (["helpful=0:1:1", "harmless=1:"], "has no range"),
        (["helpful=0:1:1", "harmless:x"], "is not a number"),
    ],
)
def test_malformed_grids_are_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_grid(texts)
