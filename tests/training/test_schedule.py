"""How long a pole is trained, and whether that carries it anywhere."""

import pytest

from prefreg.training.schedule import Schedule
from prefreg.training.settings import resolve_settings


def schedule(pairs: int, *assignments: str, preset: str = "paper", lora: bool = False) -> Schedule:
    settings = resolve_settings(assignments=assignments, preset=preset, lora=lora)
    return Schedule.of(pairs, settings, lora=lora)


def test_steps_pairs_and_passes_are_told() -> None:
    assert str(schedule(1152, "max_steps=80", preset="quick")) == (
        "80 steps of 16 pairs, 1,280 pairs, 1.1 passes over 1,152"
    )
    # Two epochs of 20,000 pairs at 128 a step: 157 steps each.
    assert str(schedule(20000)) == "314 steps of 128 pairs, 40,192 pairs, 2.0 passes over 20,000"
    assert str(schedule(10, "max_steps=1")) == "1 step of 128 pairs, 128 pairs, 12.8 passes over 10"


@pytest.mark.parametrize(
    ("made", "moves"),
    [
        (schedule(20000), True),
        (schedule(50), False),  # 2 steps at 1e-6
        (schedule(2000), False),  # 32 steps
        (schedule(100, preset="quick"), True),
        (schedule(800, "max_steps=60"), True),
        (schedule(50, "learning_rate=1e-4"), True),
        (schedule(20000, lora=True), True),  # at ten times the rate, and judged by that
        (schedule(50, lora=True), False),
    ],
)
def test_steps_that_move_nothing_are_warned_of(made: Schedule, moves: bool) -> None:
    assert (made.warning() is None) == moves


def test_the_warning_says_what_would_do() -> None:
    warning = schedule(50).warning()
    assert warning is not None
    assert "2 steps at a learning rate of 1e-06 move a weight by 2e-06 at most" in warning
    assert "--preset quick (6e-04)" in warning


def test_many_passes_over_few_pairs_are_warned_of() -> None:
    warning = schedule(45, "max_steps=80", preset="quick").warning()
    assert warning == (
        "Each of the 45 pairs comes 28 times: a pole may learn them by heart, or collapse. "
        "--set max_steps=14 makes 5 passes."
    )
    assert schedule(150, "max_steps=80", preset="quick").warning() is None
