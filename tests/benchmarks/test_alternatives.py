"""The comparison with other methods, from nothing to its picture, with few steps and prompts."""

import json
from pathlib import Path

import alternatives
import pytest
from rivals.showing import STYLES

METHODS = ("safe-first labels", "system prompt")


def run(folder: Path, *more: str) -> None:
    options = ("--json", str(folder / "found.json"), "--methods", *METHODS)
    alternatives.main([*options, "--prompts", "10", "--steps", "1", *more])


def test_a_run_measures_shows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    run(tmp_path, "--picture", str(tmp_path / "found.png"))
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert len(found["points"]) == 1 + 4 + 5
    assert all(nats == 0 for nats in found["points"]["base"]["benign"]["nats"])
    turned = found["points"]["safe-first labels kept=1.0"]["unsafe"]
    assert (len(turned["hits"]), sum(turned["nats"]) > 0) == (10, True)
    # Four steps of 16 pairs, of which none has fewer than 20 tokens or more than twice 160.
    cost = found["costs"]["safe-first labels"]
    assert (cost["runs"], 64 * 20 < cost["tokens"] < 64 * 320) == (1, True)
    assert found["costs"]["system prompt"] == {"runs": 0, "tokens": 0, "seconds": 0}
    assert (tmp_path / "found.png").stat().st_size > 10_000
    capsys.readouterr()

    # What is missing is measured from the weights that are kept; nothing is trained again.
    del found["points"]["safe-first labels kept=1.0"]
    (tmp_path / "found.json").write_text(json.dumps(found), "utf-8")
    run(tmp_path)
    told = capsys.readouterr().out
    assert "trained" not in told
    measured = [line for line in told.splitlines() if ": helpful" in line]
    assert [line.split(":")[0] for line in measured] == ["safe-first labels kept=1.0"]
    again = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert again["points"]["safe-first labels kept=1.0"]["unsafe"]["hits"] == turned["hits"]
    for method in METHODS:
        assert f"| {method} | " in told


def test_other_options_than_those_of_the_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "found.json").write_text('{"seed": 1, "prompts": 10, "steps": 1}', "utf-8")
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "was measured with another seed" in capsys.readouterr().err


def test_every_method_has_its_place_in_the_picture() -> None:
    assert alternatives.METHODS.keys() == STYLES.keys()
