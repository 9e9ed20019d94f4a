from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refuse = Callable[..., str]

SHORT = ("--base", "pocket", "--limit", "60", "--set", "max_steps=2", "--keep-anyway")


def test_low_rank_vectors_and_shuffled_labels(run: Run, tmp_path: Path) -> None:
    call = ("--registry", "none.db", "consistency", "verbosity", "--seeds", "4,5", *SHORT)
    more = ("--lora", "2", "--same-pairs", "--null", "1", "--plot", "seeds.png")
    data = run(*call, *more, "--json").data
    assert [each["role"] for each in data["runs"]] == ["seed", "seed", "null"]
    assert (data["pairs"], data["seeds"]) == ("same", [4, 5])
    assert not Path("none.db").exists()
    assert Path("seeds.png").read_bytes().startswith(b"\x89PNG")
    total = data["signal"]["value"] + data["noise"]["value"]
    assert data["share"]["value"] == pytest.approx(data["signal"]["value"] / total)
    assert data["cosines"][0][1] == pytest.approx(data["cosine"]["value"])
    assert data["halves"] is None
    assert len(data["null"]["power"]) == len(data["null"]["cosines"]) == 1
    angle = run("--registry", "consistency.db", "diff", "verbosity@1", "verbosity@2", "--json")
    assert data["cosines"][0][1] == pytest.approx(angle.data["cosine"], abs=1e-6)
    shown = run(*call, *more)
    assert shown.err == ""  # nothing is missing any longer
    for words in ("share of signal", "range over pairs of seeds", "Shuffled labels"):
        assert words in shown.out


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("0", "two or more different seeds"),
        ("1,1", "two or more different seeds"),
        ("0,x", "'x' is no seed"),
        ("5-3", "'5-3' is no range"),
        ("0-99999", "no range"),
        ("", "is no seed"),
    ],
)
def test_seeds_that_make_no_sense_are_wrong_usage(refuse: Refuse, seeds: str, words: str) -> None:
    assert words in refuse(2, "consistency", "helpful", "--seeds", seeds)


def test_a_picture_or_scratch_that_cannot_be_is_told_before_anything_is_trained(
    refuse: Refuse, own: Path
) -> None:
    call = ("--registry", own, "consistency", "helpful", "--seeds", "0,1", *SHORT)
    assert "does not end in .png" in refuse(2, *call, "--plot", "seeds.jpeg")
    assert "There is no folder nowhere" in refuse(2, *call, "--plot", "nowhere/seeds.png")
    assert "--store" in refuse(2, *call, "--scratch", own)
    assert "nowhere" in refuse(1, *call, "--scratch", "nowhere/seeds.db")


def test_an_axis_that_is_not_there_is_told(refuse: Refuse) -> None:
    assert "'helpfull'" in refuse(1, "consistency", "helpfull", "--seeds", "0,1")
