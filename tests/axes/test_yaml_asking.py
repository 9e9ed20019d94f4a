"""What a YAML axis may say of metrics and of sources that ask the base."""

from pathlib import Path
from typing import Any

import pytest

import prefreg
from prefreg import (
    Axis,
    AxisError,
    ContrastSource,
    DataError,
    LicensedSource,
    Message,
    OnPolicySource,
    RankedSource,
    SourceRequest,
)
from prefreg.axes.asking_sources import read_questions

THREE_LINES = """\
name: pirate
summary: Talks like a pirate.
contrast: {positive: Be a pirate., negative: Be plain.}
"""
FULL = """\
name: tone
summary: Warm wording.
metric: count(answer, 'love') - count(answer, 'hate')
sources:
  - contrast:
      positive:
        - {role: user, content: "Hello?"}
        - {role: assistant, content: "Hello, my love!"}
      negative: Be cold.
      prompts: asked.txt
      count: 50
      n: 2
      keep: metric(chosen) > metric(rejected)
      max_new_tokens: 64
      temperature: 0.5
      top_p: 0.9
      seed: 3
  - name: best
    licence: MIT
    sample:
      n: 16
      by: words
      min_gap: 5
      system: [Be warm., Be cold.]
      prompts: ["How are you?", "Who is there?"]
  - file: rows.jsonl
    on_policy: rejected
    columns: {chosen: answer}
  - name: reverse
    file: rows.jsonl
    on_policy: {side: chosen, system: Be warm., keep: words(chosen) > 3}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "asked.txt").write_text("How are you?\n")

    def call(content: str) -> Axis:
        (tmp_path / "tone.yaml").write_text(content)
        return prefreg.axis_from_yaml("tone.yaml")

    return call


def test_three_lines_are_an_axis(write) -> None:
    axis = write(THREE_LINES)
    wanted = ContrastSource(positive="Be a pirate.", negative="Be plain.")
    assert (dict(axis.sources), axis.metric) == ({"contrast": wanted}, None)


def test_the_example_is_an_axis() -> None:
    examples = Path(__file__).parents[2] / "examples"
    for path in examples.glob("*.yaml"):
        assert isinstance(prefreg.axis_from_yaml(path).sources["contrast"], ContrastSource)


def test_every_key_arrives(write) -> None:
    axis = write(FULL)
    assert axis.metric is not None
    assert axis.metric("love ?", "I love what I hate, LOVE") == 2 - 1
    assert list(axis.sources) == ["contrast", "best", "rows", "reverse"]
    turns = Message("user", "Hello?"), Message("assistant", "Hello, my love!")
    assert axis.sources["contrast"] == ContrastSource(
        positive=turns,
        negative="Be cold.",
        prompts=Path("asked.txt"),
        count=50,
        n=2,
        keep="metric(chosen) > metric(rejected)",
        metric=axis.metric,
        max_new_tokens=64,
        temperature=0.5,
        top_p=0.9,
        seed=3,
    )
    best = axis.sources["best"]
    assert isinstance(best, LicensedSource)
    ranked: Any = best.load
    assert isinstance(ranked, RankedSource)
    assert (ranked.n, ranked.min_gap, ranked.temperature) == (16, 5, 1.0)
    assert (ranked.system, ranked.by("a ?", "b c d")) == (("Be warm.", "Be cold."), 3)
    assert ranked.prompts == ("How are you?", "Who is there?")
    rows, reverse = axis.sources["rows"], axis.sources["reverse"]
    assert isinstance(rows, OnPolicySource)
    assert isinstance(reverse, OnPolicySource)
    assert (rows.side, rows.system, rows.verbatim) == ("rejected", None, False)
    assert (reverse.side, reverse.system, reverse.keep) == (
        "chosen",
        "Be warm.",
        "words(chosen) > 3",
    )


def test_of_rows_the_side_that_the_base_writes_is_not_asked_for(write, tmp_path: Path) -> None:
    rows = write(FULL).sources["rows"]
    assert isinstance(rows, OnPolicySource)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Who?", "answer": "I."}\n')
    (row,) = rows.source(SourceRequest()).rows  # type: ignore[union-attr]
    assert row == {"prompt": "Who?", "chosen": "I.", "place": "rows.jsonl:1"}


CHANGED = [
    ("      negative: Be cold.\n", "", 6, "'contrast' needs the key 'negative'"),
    ("negative: Be cold.", "negativ: Be cold.", 9, "unknown key 'negativ'; did you mean 'negati"),
    ("negative: Be cold.", "negative: ''", 9, "'negative' is empty"),
    ("negative: Be cold.", "negative: []", 9, "'negative' is an empty list"),
    ("{role: user, content: ", "{role: user, text: ", 7, "unknown key 'text'"),
    ('{role: user, content: "Hello?"}', "{role: user}", 7, "a message needs 'role' and 'content'"),
    ("prompts: asked.txt", "prompts: none.txt", 10, "there is no file none.txt"),
    ("prompts: asked.txt", "prompts: asked.doc", 10, "must be 'everyday', AXIS:SOURCE, a list of"),
    ("prompts: asked.txt", "prompts: []", 10, "'prompts' is an empty list"),
    ("count: 50", "count: 0", 11, "count is 0, and must be 1 or more"),
    ("count: 50", "count: 1.5", 11, "'count' must be a whole number, not 1.5"),
    ("n: 2", "n: many", 12, "'n' must be a number, not 'many'"),
    ("temperature: 0.5", "temperature: -1", 15, "temperature is -1.0, and must be 0 or more"),
    ("temperature: 0.5", "temperature: 0", 12, "n is 2, and at temperature 0 all"),
    ("keep: metric(chosen)", "keep: mtric(chosen)", 13, "there is no function 'mtric'"),
    ("keep: metric(chosen) > metric(rejected)", "keep: 1 < 2", 13, "it looks at no answer"),
    ("> metric(rejected)", "> __import__('os').getpid()", 13, "is not taken (there are the texts"),
    ("metric: count(answer, 'love')", "metric: count(chosen, 'love')", 3, "count() is of prompt"),
    (
        "metric: count(answer, 'love') - count(answer, 'hate')",
        "metric: words(prompt)",
        3,
        "'metric' is 'words(prompt)': it looks at no answer",
    ),
    ("by: words", "by: chosen > 1", 22, "'by' is 'chosen > 1': there is no 'chosen'"),
    ("n: 16", "n: 1", 21, "n is 1, and must be 2 or more"),
    ("min_gap: 5", "min_gap: -5", 23, "min_gap is -5.0, and must be 0 or more"),
    ("on_policy: rejected", "on_policy: both", 27, "the side is 'chosen' or 'rejected'"),
    ("{side: chosen, ", "{", 31, "'on_policy' needs the key 'side'"),
    ("sources:", "rule: longer\nsources:", 7, "'contrast' says itself which answer is chosen"),
    ("sources:", "contrast: {}\nsources:", 4, "beside 'sources', 'contrast' stands in one of them"),
    ("    licence: MIT", "    split: a", 19, "'split' belongs to a source of rows, not to 'sam"),
    ("    licence: MIT", "    on_policy: chosen", 19, "'on_policy' belongs to a source of rows"),
]


@pytest.mark.parametrize(("old", "new", "line", "words"), CHANGED)
def test_each_mistake_is_told_with_its_line(
    write, old: str, new: str, line: int, words: str
) -> None:
    assert old in FULL
    with pytest.raises(AxisError) as caught:
        write(FULL.replace(old, new, 1))
    message = str(caught.value)
    assert words.casefold() in message.casefold(), message
    assert message.startswith(f"tone.yaml:{line}: "), message
    assert "\n" not in message


def test_an_axis_without_sources_still_needs_them(write) -> None:
    with pytest.raises(AxisError, match="key 'sources' is missing"):
        write("name: a\nsummary: b\n")
    with pytest.raises(AxisError, match=r"tone\.yaml:3: 'sample' needs 'by', or the axis a"):
        write("name: a\nsummary: b\nsample: {n: 4}\n")


def test_the_metric_of_an_installed_axis_is_looked_for_when_it_is_asked(write) -> None:
    axis = write(THREE_LINES + "metric: verbosity\n")
    assert axis.metric is not None
    assert axis.metric("Who?", "one two three") == 3
    missing = write(THREE_LINES + "metric: nowhere\n")
    assert missing.metric is not None
    with pytest.raises(AxisError, match=r"tone\.yaml:4: 'metric' is 'nowhere': No axis 'nowhere'"):
        missing.metric("Who?", "one")


def prompts_of(axis: Axis, count: int = 3) -> tuple[list[str], str]:
    source = axis.sources["contrast"]
    assert isinstance(source, ContrastSource)
    found, origin, _ = read_questions(source.prompts, SourceRequest(), count)
    return [str(each.prompt[0][1]) for each in found], origin


def test_prompts_may_be_those_of_another_axis(write) -> None:
    given = "name: a\nsummary: b\ncontrast: {positive: c, negative: d, prompts: 'verbosity:pocket'}"
    found, origin = prompts_of(write(given))
    assert origin == "verbosity:pocket"
    assert len(set(found)) == 3
    with pytest.raises(AxisError, match="the axis 'verbosity' has no source 'none': helpsteer2, p"):
        prompts_of(write(given.replace(":pocket", ":none")))


def test_prompts_under_a_licence_are_taken_under_it(write) -> None:
    given = (
        "name: a\nsummary: b\ncontrast: {positive: c, negative: d, prompts: 'helpful:pku-saferlhf'}"
    )
    with pytest.raises(
        AxisError, match=r"is under CC-BY-NC-4\.0: say so by 'licence: CC-BY-NC-4\.0'"
    ):
        prompts_of(write(given))
    licensed = write(given + "\nlicence: CC-BY-NC-4.0\n").sources["contrast"]
    assert isinstance(licensed, LicensedSource)
    with pytest.raises(DataError, match="it asks the base model, and here there is none"):
        licensed(SourceRequest())
