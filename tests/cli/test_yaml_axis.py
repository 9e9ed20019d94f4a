"""An axis without code, from the command line."""

import gzip
import json
import re
from pathlib import Path

import pytest

from prefreg import pocket

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "data.md"
TONE = """\
name: tone
summary: Polite wording.
rule: higher-rating
columns: {rating_0: politeness_0, rating_1: politeness_1}
sources:
- file: rows.jsonl
"""
TRAIN = ("--base", "pocket", "--set", "max_steps=2", "--keep-anyway", "--registry", "new.db")


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Return a YAML axis on rows of the bundled world."""
    rows = pocket.rows("politeness", seed=0, limit=60)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tone.yaml").write_text(TONE)
    return tmp_path / "tone.yaml"


def test_a_yaml_axis_is_trained_kept_and_composed(run, tone: Path) -> None:
    result = run("add-axis", "./tone.yaml", *TRAIN, "--json")
    assert result.code == 0, result
    metadata = result.data["metadata"]
    assert metadata["declaration"]["text"] == TONE
    assert metadata["declaration"]["file"] == "tone.yaml"
    assert metadata["plugin"]["version"] == metadata["declaration"]["sha256"][:12]
    assert metadata["data"]["sources"][0]["origin"] == "rows.jsonl"
    tone.unlink()
    assert run("compose", "tone:1", "--plan", "--registry", "new.db").code == 0


def test_the_example_of_the_document_works(run, tmp_path: Path) -> None:
    text = DOCUMENT.read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(# tone.yaml\n.*?)```", text, re.DOTALL)
    (row,) = map(json.loads, re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    letters = [{**row, "question": f"{row['question']} {n}"} for n in range(60)]
    calls = [{**row, "said": row["question"], "first": f"Fine, {n}!"} for n in range(20)]
    (tmp_path / "tone.yaml").write_text(example)
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(each) + "\n" for each in letters))
    packed = gzip.compress("".join(json.dumps(each) + "\n" for each in calls).encode())
    (tmp_path / "calls.jsonl.gz").write_bytes(packed)
    data = run("add-axis", "tone.yaml", "--base", "pocket", "--dry-run", "--json").data
    assert data["axis"] == "tone"
    assert data["source"] == "letters.jsonl + calls.jsonl.gz"
    assert [part["share"] for part in data["sources"]] == [0.75, 0.25]


def test_every_key_and_rule_is_documented() -> None:
    from prefreg.axes.yaml_axes import KEYS, RULES, SOURCE_KEYS

    text = DOCUMENT.read_text("utf-8")
    for word in (*KEYS, *SOURCE_KEYS, *RULES):
        assert f"`{word}`" in text, word


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("columns:", "colum:", "tone.yaml:4: unknown key 'colum'; did you mean 'columns'?"),
        ("politeness_0", "warmth", "rows.jsonl:1: column 'warmth' is missing (found: prompt, "),
        ("rule", "licence: CC-BY-NC-4.0\nrule", "rows.jsonl is under CC-BY-NC-4.0"),
        ("rule", "min_gap: 9\nrule", "The label rule of axis 'tone' never decides: all 60 rows"),
        ("tone", "helpful", "tone.yaml: the name 'helpful' is taken by the installed axis helpful"),
        ("politeness_0", "prompt", "rows.jsonl:1: column 'rating_0' holds "),
    ],
)
def test_what_is_wrong_with_it_is_told_in_one_line(
    refuse, tone: Path, old: str, new: str, words: str
) -> None:
    tone.write_text(TONE.replace(old, new, 1))
    message = refuse(1, "add-axis", "tone.yaml", "--base", "pocket", "--dry-run")
    assert words in message
    assert "\n" not in message


def test_a_licence_is_accepted_and_recorded(run, tone: Path) -> None:
    tone.write_text(TONE + "  licence: CC-BY-NC-4.0\n")
    command = ("add-axis", "tone.yaml", "--base", "pocket", "--dry-run", "--json")
    result = run(*command, "--accept-licence")
    assert "tone: rows.jsonl is under CC-BY-NC-4.0, which forbids commercial use" in result.err
    (part,) = result.data["sources"]
    assert (part["licence"], part["licence_accepted"]) == ("CC-BY-NC-4.0", True)


def test_it_can_be_checked_before(run, refuse, tone: Path) -> None:
    result = run("check-axis", "tone.yaml", "--no-train", "--json")
    assert result.code == 0
    assert result.data["axis"] == "tone"
    tone.write_text(TONE + "  licence: CC-BY-NC-4.0\n")
    assert "--accept-licence" in refuse(1, "check-axis", "tone.yaml", "--no-train")
    assert run("check-axis", "tone.yaml", "--no-train", "--accept-licence").code == 0
