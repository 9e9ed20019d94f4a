"""What is computed over seeds and prompts, by hand."""

import numpy as np
import pytest

from prefreg.evaluation.paper.reproduce import estimate
from prefreg.evaluation.paper.retention import falls_to_chance
from prefreg.evaluation.paper.run_folder import Claim, Findings, Table, markdown, view
from prefreg.evaluation.statistics import Estimate, grouped_rate, show

GROUPS = [f"group {place}" for place in range(8)]


def test_only_prompts_that_count_for_every_seed_are_taken() -> None:
    first = np.array([1.0, 2, 3, 4, 5, 6, 7, np.nan])
    second = np.array([np.nan, 4.0, 5, 6, 7, 8, 9, 9])
    found = estimate([first, second], GROUPS)
    assert found is not None
    # Of the six prompts in between, the seeds have 4.5 and 6.5.
    assert found.value == pytest.approx(5.5)
    assert found.low < 4.5
    assert found.high > 6.5


def test_one_seed_is_about_its_own_vector() -> None:
    shares = np.array([1.0] * 8)
    assert estimate([shares], GROUPS) == grouped_rate([True] * 8, GROUPS)
    found = estimate([np.arange(8.0)], GROUPS)
    assert found is not None
    assert found.value == pytest.approx(3.5)


def test_too_few_prompts_are_no_figure() -> None:
    assert estimate([np.full(8, np.nan)], GROUPS) is None
    assert estimate([np.array([1.0, 5.0, *[np.nan] * 6])], GROUPS) is None


def at(value: float) -> Estimate:
    return Estimate(value, value, value, 10)


def test_chance_is_where_it_stays() -> None:
    values = {0.0: at(0.9), 2.0: at(0.29), 4.0: at(0.6), 8.0: at(0.28), 16.0: at(0.2)}
    assert falls_to_chance(values, 0.25) == 8
    assert falls_to_chance({0.0: at(0.9), 8.0: at(0.4)}, 0.25) is None


def test_a_page_has_claims_tables_and_notes() -> None:
    estimated = Estimate(0.5, 0.25, 0.75, 4)
    found = Findings("a recipe")
    found.claims = [Claim("it rises", True, show(estimated)), Claim("it falls", None, "no data")]
    found.tables = [Table("Figures", ("η", "share"), (("1", show(estimated)),))]
    found.notes = ["a word"]
    assert markdown("What it shows", found) == (
        "# What it shows\n\na recipe\n\n"
        "- it rises — **held**: 0.50 [0.25, 0.75].\n"
        "- it falls — **not measured**: no data.\n\n"
        "## Figures\n\n| η | share |\n|---|---|\n| 1 | 0.50 [0.25, 0.75] |\n\n"
        "## Notes\n\n- a word\n"
    )
    assert view(None) is None
    assert show(None) == "-"
