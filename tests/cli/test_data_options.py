"""The options of add-axis that choose and select data."""

import json
from pathlib import Path

import pytest

from prefreg import pocket

DRY = ("add-axis", "helpful", "--base", "pocket", "--dry-run", "--registry", "new.db")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a file of pairs of one's own."""
    path = tmp_path / "mine.jsonl"
    with path.open("w") as file:
        for row in pocket.rows("helpful", seed=7, limit=40):
            pair = {key: row[old] for key, old in (("prompt", "prompt"), ("chosen", "response_0"))}
            file.write(json.dumps({**pair, "rejected": row["response_1"]}) + "\n")
    return path


def test_a_source_and_a_file_are_mixed_and_recorded(run, mine: Path) -> None:
    command = (
        "add-axis",
        "helpful",
        "--base",
        "pocket",
        "--data",
        "pocket:3",
        "--data",
        f"{mine}:1",
    )
    command += ("--limit", "100", "--set", "max_steps=2", "--keep-anyway", "--registry", "new.db")
    result = run(*command, "--json")
    assert result.code == 0, result
    data = result.data["metadata"]["data"]
    assert (data["source"], data["length_balanced"]) == ("pocket + file", False)
    assert [(part["weight"], part["rows"]) for part in data["sources"]] == [(3, 75), (1, 25)]


def test_a_dry_run_shows_the_shares(run, mine: Path) -> None:
    result = run(*DRY, "--data", "pocket:1", "--data", f"{mine}:1")
    assert result.code == 0
    assert "- pocket" in result.out
    assert "40 rows (0.49), then it ended" in result.out


def test_a_balanced_run_says_how_many_pairs_it_left_out(run) -> None:
    audit = run(*DRY, "--length-balanced", "--json").data["audit"]
    assert audit["unbalanced"] > 0
    assert audit["chosen_longer"] == pytest.approx((1 - audit["equal_length"]) / 2)


def test_an_axis_of_length_cannot_be_balanced(refuse) -> None:
    message = refuse(
        1, "add-axis", "verbosity", "--base", "pocket", "--length-balanced", "--dry-run"
    )
    assert "Axis 'verbosity': of 1" in message
    assert "Leave --length-balanced out" in message


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_licence_that_forbids_commercial_use_must_be_accepted(refuse, more) -> None:
    message = refuse(1, "add-axis", "psychocounsel", "--base", "pocket", *more).splitlines()[-1]
    for word in ("PsychoCounsel-Preference", "CC-BY-NC-4.0", "--accept-licence"):
        assert word in message


def test_the_licence_of_a_file_is_recorded_and_said_by_compositions(run, mine: Path) -> None:
    add = ("add-axis", "helpful", "--base", "pocket", "--data", "pocket:3", "--data", f"{mine}:1")
    add += ("--data-licence", "CC-BY-NC-4.0", "--limit", "40", "--set", "max_steps=2")
    result = run(*add, "--keep-anyway", "--accept-licence", "--registry", "new.db", "--json")
    assert result.code == 0, result
    assert (
        "file mine.jsonl is under CC-BY-NC-4.0, which forbids commercial use (accep" in result.err
    )
    found = [
        (part["licence"], part["licence_accepted"])
        for part in result.data["metadata"]["data"]["sources"]
    ]
    assert found == [(None, False), ("CC-BY-NC-4.0", True)]
    composed = run("compose", "helpful:1", "--registry", "new.db")
    said = "no commercial use: data mine.jsonl of helpful@1 (CC-BY-NC-4.0)"
    assert said in composed.out + composed.err
    assert (
        "| data mine.jsonl of helpful@1 | CC-BY-NC-4.0 |" in Path("composed/README.md").read_text()
    )


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--data", "pocket", "--data-licence", "MIT"), 2, "--data-licence is of files, and no"),
        (("--data", "FILE", "--data-licence", " "), 2, "' ' is no licence: write its identifier"),
        (("--data", "FILE", "--data-licence", "CC-BY-NC-4.0"), 1, "it with --accept-licence"),
    ],
)
def test_a_licence_that_does_not_belong_to_a_file_is_refused(
    refuse, mine: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    given = [str(mine) if each == "FILE" else each for each in options]
    assert said in refuse(code, "add-axis", "helpful", "--base", "pocket", *given, "--dry-run")


def test_an_accepted_licence_is_shown_before_the_data_are_read(run, monkeypatch) -> None:
    # With the hub switched off, reading fails, after the licence was shown.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("add-axis", "psychocounsel", "--base", "pocket", "--accept-licence", "--dry-run")
    shown, failed = result.err.splitlines()
    assert shown.endswith("under CC-BY-NC-4.0, which forbids commercial use (accepted).")
    assert "Psychotherapy-LLM/PsychoCounsel-Preference cannot be read" in failed
    assert result.code == 1


def test_the_bundled_rows_of_such_an_axis_are_under_no_licence(run) -> None:
    assert run(*DRY, "--limit", "40").code == 0


@pytest.mark.parametrize(
    "data", [("pocket:0.5", "pocket:0.5"), ("pocket:none",), ("pocket@v1",), ("pocket:0",)]
)
def test_malformed_sources_are_wrong_usage(refuse, data: tuple[str, ...]) -> None:
    refuse(2, *DRY, *(part for text in data for part in ("--data", text)))


def test_strings_are_the_same_in_a_file_and_in_a_yaml_axis_and_it_is_told(run, mine: Path) -> None:
    tone = mine.with_name("tone.yaml")
    tone.write_text("name: tone\nsummary: s\nsources:\n- file: mine.jsonl\n")
    by_file = run(*DRY, "--data", str(mine), "--json")
    by_yaml = run("add-axis", str(tone), *DRY[2:], "--json")
    assert by_file.data["examples"] == by_yaml.data["examples"]
    assert by_file.data["renderings"] == ["text"]
    assert by_file.data["audit"]["verbatim"] == by_file.data["audit"]["pairs"]
    [told] = by_file.data["notes"]
    assert told.endswith("Write messages to use it, or, in a YAML axis, strings: turns.")
    assert told in run(*DRY, "--data", str(mine)).out
    tone.write_text(tone.read_text() + "strings: turns\n")
    turned = run("add-axis", str(tone), *DRY[2:], "--json").data
    assert (turned["renderings"], turned["notes"]) == (["chat"], [])


def test_a_run_tells_what_a_dry_run_shows(run, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    answers = {"chosen": "yes , it is .", "rejected": "no ."}
    rows = [
        {
            name: [
                {"role": "user", "content": f"is it {number} ?"},
                {"role": "assistant", "content": answer},
            ]
            for name, answer in answers.items()
        }
        for number in range(20)
    ]
    path.write_text(json.dumps(rows))
    more = ("--set", "max_steps=2", "--keep-anyway", "--answers", "0", "--registry", "new.db")
    result = run("add-axis", "helpful", "--base", "pocket", "--data", str(path), *more)
    assert result.code == 0, result
    assert "20 rows name no prompt: it is what both answers begin with" in result.err
