from typing import Any

import pytest

from prefreg.evaluation.diagnosis import (
    Shares,
    Strength,
    find_incoherence,
    find_refusals,
    find_weakness,
)

ETAS = {"helpful@1": 0.5, "harmless@2": 2.0}


def strength(**changes: Any) -> Strength:
    fields = {
        "dial": "helpful@1",
        "eta": 0.5,
        "cast": 0.1,
        "alone": 0.1,
        "further": 0.6,
        "further_eta": 1.0,
    }
    return Strength(**fields | changes)


def shares(base: float, cast: float, helpful: float, harmless: float, pole: float = 0.0) -> Shares:
    return Shares(base, cast, {"helpful@1": helpful, "harmless@2": harmless}, {"harmless@2": pole})


def test_an_axis_that_moves_is_not_weak() -> None:
    assert find_weakness(strength(cast=0.25)) is None


def test_a_small_coefficient_is_named() -> None:
    found = find_weakness(strength())
    assert (found.sign, found.subject, found.cause) == ("weak", "helpful@1", "η is small")
    assert "at 1 alone it is +0.60" in found.evidence
    assert "prefreg calibrate helpful@1" in found.advice


def test_an_axis_that_others_hold_back_is_lost_in_the_cast() -> None:
    found = find_weakness(strength(alone=0.5, against=("harmless@2", -0.4)))
    assert found.cause == "lost in the cast"
    assert "which harmless@2 alone moves by -0.40" in found.evidence
    assert found.advice.startswith("Lower harmless, raise helpful")
    assert "--protect helpful." in found.advice
    driven_back = find_weakness(strength(cast=-0.85, against=("harmless@2", -0.9)))
    assert driven_back.cause == "lost in the cast"
    nobody = find_weakness(strength(alone=0.5, against=("harmless@2", 0.1)))
    assert nobody.advice.startswith("Lower the other coefficients")


def test_poles_that_did_not_move_are_named_with_their_accuracies() -> None:
    found = find_weakness(strength(further=0.1, accuracies=(0.52, 0.55)))
    assert found.cause == "the poles are unmoved"
    assert "of its poles are 0.52 and 0.55, hardly above chance." in found.evidence
    assert "accurac" not in find_weakness(strength(further=0.1)).evidence


@pytest.mark.parametrize(
    ("found", "subject", "cause"),
    [
        (shares(0.02, 0.10, 0.0, 0.4), None, None),
        (shares(0.15, 0.20, 0.1, 0.2), "the base", "already in the base"),
        (shares(0.02, 0.40, 0.0, 0.35, 0.05), "harmless@2", "η is large"),
        (shares(0.02, 0.40, 0.0, 0.35, 0.30), "harmless@2", "θ₊ refuses already"),
        (shares(0.02, 0.40, 0.1, 0.1), "the composition", "the cast together"),
    ],
)
def test_where_refusals_come_from(found: Shares, subject: str | None, cause: str | None) -> None:
    told = find_refusals(found, ETAS)
    assert (told and told.subject, told and told.cause) == (subject, cause)


def test_a_dial_that_is_turned_down_has_its_negative_pole_blamed() -> None:
    told = find_refusals(shares(0.02, 0.4, 0.0, 0.35, 0.3), ETAS | {"harmless@2": -2.0})
    assert told.cause == "θ₋ refuses already"


@pytest.mark.parametrize(
    ("found", "outside", "subject", "cause"),
    [
        (shares(0.0, 0.02, 0.0, 0.0), [], None, None),
        (shares(0.1, 0.11, 0.0, 0.0), [], None, None),
        (shares(0.0, 0.3, 0.0, 0.2), [], "harmless@2", "η is too large"),
        (shares(0.0, 0.3, 0.0, 0.0), [], "the composition", "the sum is too far from the base"),
        (shares(0.0, 0.3, 0.0, 0.2), ["helpful@1 at 9 is"], "helpful@1", "outside the range"),
    ],
)
def test_what_breaks_answers(
    found: Shares, outside: list[str], subject: str | None, cause: str | None
) -> None:
    told = find_incoherence(found, ETAS, outside)
    assert (told and told.subject, told and told.cause) == (subject, cause)
