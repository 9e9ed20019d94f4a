"""Axes as judges on the command line: scores, the best of several, both audits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disturbed import disturbed

Run = Callable[..., Any]
Refuse = Callable[..., str]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a file of two rows."""
    file = tmp_path / "rows.jsonl"
    asked = {"prompt": "Which colour is Elsa's boat?"}
    given = ({"answers": ["It is white.", "It is hard to say."]}, {"answer": "It is white."})
    file.write_text("".join(json.dumps(asked | each) + "\n" for each in given))
    return file


def test_answers_are_ranked_and_written(run: Run, trained: Path, rows: Path) -> None:
    found = run("score", "helpful@1", rows, "--registry", trained, "-o", "scored.jsonl")
    assert found.out.startswith("ROW  RANK  REWARD")
    assert "Every row is in scored.jsonl." in found.out
    data = run("score", "helpful", rows, "--registry", trained, "--json").data
    assert [sorted(each["rank"] for each in row["answers"]) for row in data["rows"]] == [
        [1, 2],
        [1],
    ]
    written = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
    assert [len(each["rewards"]) for each in written] == [2, 1]


def test_the_best_of_several_stands_first(run: Run, trained: Path) -> None:
    asked = ("-p", "Which colour is Elsa's boat?", "--max-new-tokens", 12, "--registry", trained)
    data = run("generate", "--best-of", 3, "--by", "helpful", *asked, "--json").data
    (answered,) = data["answers"]
    assert data["terms"] == []
    assert answered["answer"] == answered["ranked"][0]["answer"]
    rewards = [each["reward"] for each in answered["ranked"]]
    assert len(rewards) == 3
    assert rewards == sorted(rewards, reverse=True)


def test_a_checkpoint_is_read_by_its_axes(run: Run, trained: Path) -> None:
    made = run("compose", "helpful:0.6", "-o", "tuned", "--registry", trained)
    assert made.code == 0
    asked = ("--checkpoint", "tuned", "--registry", trained)
    data = run("audit", *asked, "--no-functional", "--json").data
    read = {each["axis"]: each for each in data["axes"]}
    assert read["helpful"]["eta"]["value"] == pytest.approx(0.6, abs=1e-3)
    assert read["verbosity"]["eta"]["value"] == pytest.approx(0, abs=1e-3)
    assert data["share"] == pytest.approx(1, abs=1e-3)
    assert data["verdict"].startswith("It moves toward helpful like η ≈ 0.6; 100.00% of")
    few = ("--prompts", 8, "--max-new-tokens", 8)
    text = run("audit", "helpful", *asked, *few).out
    assert "IN PREDICTIONS" in text
    assert "1.000" in text  # a change along φ alone has its angle in predictions too


@pytest.mark.parametrize(
    ("code", "arguments", "reason"),
    [
        (1, ("score", "kindness", "rows.jsonl"), "kindness"),
        (2, ("score", "helpful", "rows.jsonl", "-o", "rows.jsonl"), "is there already"),
        (2, ("score", "helpful", "rows.jsonl", "--plus", "x"), "give both --plus and --minus"),
        (2, ("generate", "-p", "Who?", "--best-of", "3"), "give both --best-of and --by"),
        (2, ("generate", "-p", "Who?", "--best-of", "3", "--by", "helpful", "--temperature", "0"),
         "is the only answer"),
        (1, ("audit", "--checkpoint", "gone"), "gone"),
        (1, ("audit", "--checkpoint", "pocket"), "nothing was changed"),
        (2, ("check-axis", "helpful", "--base", "pocket"), "are those of --audit"),
        (2, ("check-axis", "helpful", "--audit", "-o", "rows.jsonl"), "is there already"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(
    refuse: Refuse, trained: Path, rows: Path, code: int, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refuse(code, *arguments, "--registry", trained)


def test_labels_are_audited(run: Run, trained: Path) -> None:
    small = ("--limit", 120, "--set", "max_steps=4", "--base", "pocket", "-o", "found.jsonl")
    found = run("check-axis", "helpful", "--audit", *small, "--registry", trained, "--json")
    data = found.data
    assert data["axis"] == "helpful"
    audited = data["audited"]
    assert audited["pairs"] > 80
    assert 0 < audited["agreeing"] <= 1
    written = Path("found.jsonl").read_text().splitlines()
    assert len(written) == len(audited["suspicious"])


def test_a_vector_is_moved_to_a_near_base(run: Run, refuse: Refuse, own: Path) -> None:
    near = disturbed(Path("near"), 1e-3)
    asked = ("transport", "helpful@1", "--to", near, "--registry", own, "--pairs", 24)
    data = run(*asked, "--json").data
    assert (data["axis"], data["version"]) == ("helpful", 2)
    assert data["transport"]["of"] == "helpful@1"
    assert "nothing was stored" in refuse(3, *asked, "--least", 9)
