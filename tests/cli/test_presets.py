"""Presets on the command line: saved once, then a term of every command that takes terms."""

from pathlib import Path

import prefreg

PROMPT = "Which colour is Elsa's boat?"


def test_a_preset_is_a_term_of_every_command(run, own: Path, tmp_path: Path) -> None:
    saved = run("--registry", own, "preset", "save", "calm", "helpful:3", "verbose:-2")
    assert saved.out == "calm@1 is helpful:3 verbosity:-2.\n"
    here = ("--registry", own, "--json")
    composed = run("compose", "calm", "-o", tmp_path / "calm", *here).data
    meant = run("compose", "helpful:3", "verbosity:-2", "-o", tmp_path / "meant", *here).data
    assert composed["formula"] == meant["formula"]
    weights = [tmp_path / each / "model.safetensors" for each in ("calm", "meant")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    answers = run("generate", "calm@1", "-p", PROMPT, *here).data["answers"]
    asked = ("generate", "helpful:3", "verbosity:-2", "-p", PROMPT)
    assert answers == run(*asked, *here).data["answers"]
    steered = prefreg.open(own).load().set("calm")
    assert steered.generate(PROMPT) == answers[0]["answer"]
    few = ("--prompts", 20, "--max-new-tokens", 4)
    gate = run("gate", "calm", "--require", "helpful.margin>=-99", *few, *here)
    assert gate.data["met"] is True


def test_presets_are_listed_shown_and_removed(run, own: Path) -> None:
    here = ("--registry", own)
    assert "No presets yet" in run("preset", "list", *here).out
    run("preset", "save", "calm", "helpful:1", "--note", "evening", *here)
    run("preset", "save", "calm", "helpful:2", *here)
    listed = run("preset", "list", *here, "--json").data["presets"]
    assert [(each["name"], each["version"], each["terms"]) for each in listed] == [
        ("calm", 2, ["helpful:2"])
    ]
    shown = run("preset", "show", "calm", *here).out
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["calm@1", "helpful:1"],
        ["calm@2", "helpful:2"],
    ]
    assert "calm@2" not in run("preset", "show", "calm@1", *here).out
    assert "which was helpful:2" in run("preset", "rm", "calm", *here).out
    assert "No presets yet" in run("preset", "list", *here).out


def test_what_no_preset_can_be_is_refused(refuse, trained: Path) -> None:
    here = ("--registry", trained)
    assert "is an axis" in refuse(1, *here, "preset", "save", "helpful", "verbosity:1")
    assert "names no preset" in refuse(2, *here, "preset", "show", "calm@x")
    assert "has no preset 'calm'" in refuse(1, *here, "preset", "rm", "calm")
    assert "nor the name of a preset" in refuse(2, *here, "compose", "calm")


def test_a_preset_has_no_calibrated_coefficients(run, refuse, own: Path) -> None:
    run("--registry", own, "preset", "save", "calm", "helpful:1")
    said = refuse(2, "--registry", own, "generate", "calm", "-p", "Hello", "--calibrated")
    assert "holds raw coefficients" in said
