from pathlib import Path

import pytest


def test_every_pair_and_layer_is_compared(run, trained: Path) -> None:
    found = run("--registry", trained, "interference", "--json").data
    assert [term["axis"] for term in found["terms"]] == ["helpful", "verbosity"]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("helpful@1", "verbosity@1")
    layers = [each["layer"] for each in found["layers"]]
    assert layers == [
        "model.embed_tokens",
        "model.norm",
        "layer 0",
        "layer 1",
        "layer 2",
        "layer 3",
    ]
    assert found["layers"][1]["sti"] is None
    assert "model.norm.weight" in found["skipped"]
    assert found["sti"]["ratio"] == pytest.approx(found["sti"]["value"] / found["sti"]["null"])
    # Both are trained from the same base on the same questions: they share more than chance.
    assert pair["overlap"] > pair["expected_overlap"]
    assert 0 < pair["sti"]["p"] <= 1


def test_turning_a_vector_round_turns_the_angle(run, trained: Path) -> None:
    def cosine(*terms: str) -> float:
        return run("--registry", trained, "interference", *terms, "--draws", 20, "--json").data[
            "pairs"
        ][0]["cosine"]

    straight = cosine("helpful", "verbosity@1")
    assert cosine("help:2", "verbose:-0.5") == pytest.approx(-straight)


def test_the_text_says_what_chance_is(run, trained: Path) -> None:
    shown = run("--registry", trained, "-q", "interference", "--draws", 20).out
    assert "helpful@1 · verbosity@1" in shown
    assert "times that of random" in shown


def test_a_picture_is_drawn(run, trained: Path, tmp_path: Path) -> None:
    result = run("--registry", trained, "interference", "--draws", 20, "--plot", "maps.png")
    assert "Drawn in maps.png." in result.err
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["helpful"], "Interference is between vectors, and helpful@1 is only one"),
        (2, ["helpful:0", "verbosity"], "helpful:0 has no direction"),
        (2, ["helpful", "help"], "named twice"),
        (2, ["helpful:one", "verbosity"], "'one' in 'helpful:one' is not a number"),
        (1, ["helpfull", "verbosity"], "Did you mean 'helpful'?"),
        (1, ["helpful@7", "verbosity"], "Version 7 of axis 'helpful' does not exist"),
        (2, ["--rank", "0"], "--rank"),
        (2, ["--plot", "maps.jpg"], "does not end in .png"),
        (2, ["--plot", "nowhere/maps.png"], "There is no folder nowhere"),
        (1, ["--base", "org/absent"], "org/absent"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    refuse, trained: Path, code: int, arguments: list[str], message: str
) -> None:
    assert message in refuse(code, "--registry", trained, "interference", *arguments)


def test_predictions_and_leakage_are_measured(run, trained: Path, tmp_path: Path) -> None:
    small = ("--prompts", 24, "--max-new-tokens", 16, "--draws", 20)
    asked = ("interference", "--functional", "--leakage", "margin", *small)
    found = run("--registry", trained, *asked, "--plot", "maps.png", "--json").data
    functional, leakage = found["functional"], found["leakage"]
    assert functional["predicted_kl"]["value"] > 0
    assert -1 <= functional["gram"][0]["cosine"] <= 1
    assert functional["trusted"] is (1 / 1.5 <= functional["ratio"] <= 1.5)
    entries = {(each["axis"], each["dial"]): each for each in leakage["entries"]}
    assert len(entries) == 4
    # Every dial moves the margins that it was trained for, in its own direction.
    for axis in ("helpful", "verbosity"):
        assert entries[axis, f"{axis}@1"]["value"] > 0
    assert leakage["condition"] >= 1
    assert (tmp_path / "maps.png").exists()
    shown = run("--registry", trained, "-q", *asked).out
    assert "IN PREDICTIONS" in shown
    assert "MARGIN OF" in shown
