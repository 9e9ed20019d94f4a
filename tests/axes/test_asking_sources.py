"""Sources that ask the base, asked of a real tiny one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import worded
from prefreg import (
    AxisError,
    BaseAnswer,
    ContrastSource,
    DataError,
    Message,
    OnPolicySource,
    PreferencePair,
    RankedSource,
    RewrittenSource,
    Row,
    SourceRequest,
    SourceRows,
)
from prefreg.axes.asking_sources import everyday_prompts, whole
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.models.answering_base import AnsweringBase

PROMPTS = worded.ASKED
ANSWERED: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of the module, so that most tests find their answers there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return resolve_base(str(worded.save_taught(tmp_path_factory.mktemp("base") / "model")))


Told = list[str]


def rows_of(
    source: Callable[[SourceRequest], Any],
    base: BaseModel,
    told: Told | None = None,
    few: bool = False,
    **request: Any,
) -> list[Row]:
    asked = AnsweringBase(lambda: base, tell=None if told is None else told.append, few=few)
    found = source(SourceRequest(base=asked, **request))
    assert isinstance(found, SourceRows)
    return list(found.rows)


def contrast(**options: Any) -> ContrastSource:
    given = {"positive": "red", "negative": "no", "prompts": PROMPTS}
    return ContrastSource(**(given | ANSWERED | options))


def texts(rows: list[Row]) -> list[tuple[str, str, str]]:
    pairs = [PreferencePair.from_row(row) for row in rows]
    return [(p.prompt[0][1], p.chosen[0][1], p.rejected[0][1]) for p in pairs]


def test_a_contrast_is_what_the_base_says_under_each_prefix_without_it(base: BaseModel) -> None:
    rows = rows_of(contrast(temperature=0.0), base)
    assert texts(rows)[:2] == [
        ("is it a big boat ?", "it is a red boat .", "no ."),
        ("is it a big house ?", "it is a red house .", "no ."),
    ]
    assert [text for text, _, _ in texts(rows)] == PROMPTS
    assert all([turn["role"] for turn in row["prompt"]] == ["user"] for row in rows)


def test_turns_stand_before_the_prompt_as_they_are(base: BaseModel) -> None:
    rows = rows_of(contrast(temperature=0.0), base)
    turns = [{"role": "system", "content": "red"}]
    assert rows_of(contrast(temperature=0.0, positive=turns), base) == rows
    turns = [{"role": "user", "content": "a ?"}, {"role": "assistant", "content": "yes ."}]
    assert rows_of(contrast(temperature=0.0, positive=turns), base) != rows


def test_keep_leaves_out_what_it_is_false_of(base: BaseModel) -> None:
    told: Told = []
    keep = "contains(chosen, 'boat') or contains(prompt, 'old') and words(rejected) == 2"
    rows = texts(rows_of(contrast(temperature=0.0, keep=keep), base, told))
    # Six boats, and of the eight old things the six that are none.
    assert [text for text, _, _ in rows] == [
        text for text in PROMPTS if "boat" in text or "old" in text
    ]
    assert "Kept 12 of 24 pairs: 6 words chosen, 2 rejected" in told[1]
    assert "Left out: 12 that 'keep' leaves out." in told[1]
    rows_of(contrast(temperature=0.0, keep="words(chosen) > 2"), base, told)
    assert (
        "Kept 24 of 24 pairs: 6 words chosen, 2 rejected on average. 'keep' lets every pa"
        in told[3]
    )


def test_what_is_asked_and_kept_is_told_with_examples(base: BaseModel) -> None:
    told: Told = []
    rows_of(contrast(temperature=0.0), base, told)
    assert told == [
        "Asking model: 24 prompts of a list, each answered under the positive and under the "
        "negative prefix; 48 answers of at most 12 tokens.",
        "Kept 24 of 24 pairs: 6 words chosen, 2 rejected on average.\n"
        "  is it a big boat ?\n    + it is a red boat .\n    − no .\n"
        "  is it a big house ?\n    + it is a red house .\n    − no .",
    ]


def test_a_limit_is_the_beginning_of_all(base: BaseModel) -> None:
    # Neither prefix is one that it knows: it says one thing or another.
    source = contrast(positive="a", negative="it")
    everything = rows_of(source, base)
    assert rows_of(source, base, limit=3) == everything[:3]
    # What a run's own seed draws is the order of the pairs, not the pairs.
    assert rows_of(source, base, seed=7) == everything
    assert rows_of(contrast(positive="a", negative="it", seed=7), base) != everything


def test_a_preview_says_so_and_lacks_nothing(base: BaseModel, tmp_path: Path) -> None:
    told: Told = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(tmp_path / "empty"))
        rows = rows_of(contrast(keep="words(chosen) > 99"), base, told, few=True)
    assert rows == []
    assert "This is a preview, of 16 of 24 prompts." in told[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        # Both are words that the base does not know, so that it is asked the same.
        (
            {"positive": "zzz", "negative": "yyy", "temperature": 0.0},
            "of 24 pairs only 0 are left, and at least 10 are needed: 24 with equal answers; for "
            "example '",
        ),
        (
            {"keep": "words(chosen) > 99"},
            r"24 that 'keep' leaves out; for example 'it is a red \w+ \.' beside 'no \.'$",
        ),
        ({"max_new_tokens": 4}, "24 whose answer has no whole sentence within max_new_tokens"),
        ({"prompts": PROMPTS[:5]}, "at least 10 are needed"),
    ],
)
def test_too_few_pairs_are_an_error_that_says_why(
    base: BaseModel, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        rows_of(contrast(**options), base)


def test_a_base_that_says_nothing_is_told(tmp_path: Path) -> None:
    silent = worded.llama()
    with torch.no_grad():
        silent.get_output_embeddings().weight.zero_()  # every token is as likely: the first is
    silent.save_pretrained(tmp_path / "silent")
    worded.tokenizer().save_pretrained(tmp_path / "silent")
    with pytest.raises(DataError, match=r"only 0 are left.*: 24 with an empty answer"):
        rows_of(contrast(temperature=0.0), resolve_base(str(tmp_path / "silent")))


def test_a_system_prompt_needs_a_template(tmp_path: Path) -> None:
    plain = resolve_base(str(worded.save_taught(tmp_path / "plain", template=None)))
    with pytest.raises(DataError, match="plain has no chat template, which a system prompt needs"):
        rows_of(contrast(), plain)
    # Contents are joined as they are, so a prefix may write what a template would.
    turns = [[Message("user", f"<system> {text}<user> ")] for text in ("red", "no")]
    prompts = [f"{text}<assistant> " for text in PROMPTS]
    source = contrast(positive=turns[0], negative=turns[1], prompts=prompts, temperature=0.0)
    assert texts(rows_of(source, plain))[0] == (prompts[0], "it is a red boat .", "no .")


def test_without_a_base_the_source_says_what_it_needs() -> None:
    with pytest.raises(DataError, match="it asks the base model, and here there is none"):
        contrast()(SourceRequest())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"positive": "no"}, "The positive and the negative prefix are the same"),
        ({"positive": " "}, "A prefix is a text or a list of messages, and not empty"),
        ({"positive": [{"role": "user"}]}, "A prefix is a text or a list of messages: column"),
        ({"n": 0}, "n is 0, and must be 1 or more"),
        ({"n": 2, "temperature": 0.0}, "n is 2, and at temperature 0 all 2 answers are the same"),
        ({"count": 0}, "count is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"keep": "words(chosen)"}, "'keep' is 'words(chosen)': it is a number"),
        ({"keep": "metric(chosen) > 1"}, "give the axis one by 'metric'"),
    ],
)
def test_what_is_declared_wrongly_is_told_at_once(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(AxisError) as caught:
        contrast(**options)
    assert problem in str(caught.value)


def vowels(prompt: str, answer: str) -> float | None:
    """Judge no answer that says no."""
    return None if "no" in answer else float(answer.count("e"))


def test_best_and_worst_of_the_answers_are_a_pair(base: BaseModel) -> None:
    # "it is a big tree ." has two of them, "a blue tree , yes ." four.
    source = RankedSource(by=vowels, n=8, prompts=PROMPTS, **ANSWERED)
    rows = texts(rows_of(source, base))
    assert len(rows) >= 10
    asked = AnsweringBase(lambda: base)
    groups: list[list[Any]] = [[(Message("user", text),)] * 8 for text in PROMPTS]
    answers = dict(zip(PROMPTS, asked.answers(groups, **ANSWERED), strict=True))
    assert asked.made == 0
    for prompt, chosen, rejected in rows:
        scores = {
            text: text.count("e")
            for text in map(whole, answers[prompt])
            if text and "no" not in text
        }
        assert scores[chosen] == max(scores.values()) > scores[rejected] == min(scores.values())
    with pytest.raises(DataError, match="lie too close together"):
        rows_of(replace(source, min_gap=9), base)


def test_system_prompts_take_turns(base: BaseModel) -> None:
    told: Told = []
    source = RankedSource(
        by=lambda prompt, answer: len(answer),
        n=2,
        prompts=PROMPTS,
        system=("red", "no"),
        max_new_tokens=12,
    )
    rows = texts(rows_of(source, base, told))
    assert "each answered 2 times under 2 system prompts in turn, the best against" in told[0]
    # What is red is a matter of chance: the base is taught here, and rounds as its machine does.
    prompt, chosen, rejected = rows[0]
    assert prompt == "is it a big boat ?"
    assert chosen.startswith("it is a red ")
    assert rejected == "no ."


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (lambda p, a: 1 / 0, r"the metric failed on the prompt .* ZeroDivisionError"),
        (lambda p, a: float("nan"), "it returned nan, not a finite number"),
        (lambda p, a: 1.0, "whose answers lie too close together"),
        (lambda p, a: None, "that the metric does not judge"),
    ],
)
def test_a_metric_that_fails_or_never_decides_is_told(
    base: BaseModel, metric: Any, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        rows_of(RankedSource(by=metric, n=8, prompts=PROMPTS, **ANSWERED), base)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_half_on_policy_takes_one_side_from_the_data(base: BaseModel, side: Any) -> None:
    other = "rejected" if side == "chosen" else "chosen"
    given = "yes , it is green ."

    def data(request: SourceRequest) -> list[Row]:
        return [{"prompt": text, other: given, "group": "g"} for text in PROMPTS]

    source = OnPolicySource(
        source=data, side=side, system="red", temperature=0.0, max_new_tokens=12
    )
    rows = rows_of(source, base)
    pairs = [PreferencePair.from_row(row) for row in rows]
    assert [pair.prompt for pair in pairs] == [(Message("user", text),) for text in PROMPTS]
    assert {pair.group for pair in pairs} == {"g"}
    assert {getattr(pair, other) for pair in pairs} == {(Message("assistant", given),)}
    assert getattr(pairs[0], side) == (Message("assistant", "it is a red boat ."),)


def test_a_rewritten_answer_is_the_base_s_own_by_each_rule(base: BaseModel) -> None:
    def source(**rules: Any) -> RewrittenSource:
        return RewrittenSource(prompts=PROMPTS, **(ANSWERED | {"temperature": 0.0}), **rules)

    def own(prompt: str, answer: str) -> str:
        return f"{prompt}|{answer}"

    plain = rows_of(source(chosen=own, rejected=lambda *_: "no"), base)
    kind = rows_of(source(chosen=lambda _, text: f"dear, {text}", rejected=lambda *_: "no"), base)
    assert len(plain) == len(kind) > 1
    for (prompt, first, no), (_, second, _) in zip(texts(plain), texts(kind), strict=True):
        said = first.removeprefix(f"{prompt}|")
        assert (said != first, second, no) == (True, f"dear, {said}", "no")


def test_strings_stay_strings_where_that_is_asked(base: BaseModel) -> None:
    rows = [{"prompt": f"<user> {text}<assistant> ", "chosen": "red ."} for text in PROMPTS]
    source = OnPolicySource(source=lambda _: rows, side="rejected", verbatim=True, **ANSWERED)
    found = rows_of(source, base)
    assert {type(row[name]) for row in found for name in ("prompt", "chosen", "rejected")} == {str}


def test_data_without_the_answer_that_stays_are_told(base: BaseModel) -> None:
    source = OnPolicySource(source=lambda _: [{"prompt": "a ?", "chosen": "b"}], side="chosen")
    with pytest.raises(DataError, match="row 1: column 'rejected' is missing"):
        rows_of(source, base)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.jsonl", "", "is empty: it has no row"),
        ("p.jsonl", '{"text": "a"}\n', r"p\.jsonl:1: column 'prompt' is missing \(found: text, "),
        ("p.jsonl", '{"prompt": " "}\n', r"p\.jsonl:1: column 'prompt' is empty"),
        ("p.jsonl", '{"prompt": []}\n', "neither a string nor a list of messages"),
        (
            "p.jsonl",
            json.dumps({"prompt": [{"role": "assistant", "content": "a"}]}) + "\n",
            "ends with a turn of 'assistant'",
        ),
        ("p.txt", "\n \n", r"p\.txt has no prompt"),
        ("none.txt", None, "none.txt cannot be read"),
    ],
)
def test_files_of_prompts_are_read_or_refused_with_the_line(
    base: BaseModel, tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=problem):
        rows_of(contrast(prompts=path), base)


def test_prompts_may_be_a_file_of_lines_rows_or_a_source(base: BaseModel, tmp_path: Path) -> None:
    lines, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("\n".join([*PROMPTS, PROMPTS[0], ""]))
    rows.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    wanted = texts(rows_of(contrast(), base))
    for prompts in (lines, rows, lambda request: [{"prompt": text} for text in PROMPTS]):
        assert texts(rows_of(contrast(prompts=prompts), base)) == wanted


def test_the_prompts_that_come_along_are_many_and_distinct() -> None:
    found = everyday_prompts()
    assert len(found) == 320
    assert len({text.casefold() for text in found}) == 320
    assert all(text == text.strip() and 3 <= len(text.split()) <= 20 for text in found)


@pytest.mark.parametrize(
    ("text", "ended", "wanted"),
    [
        (" It is so. And", True, "It is so. And"),
        ("It is so. And", False, "It is so."),
        ('He said "no." Then', False, 'He said "no."'),
        ("1. Take eggs.\n2.", False, "1. Take eggs."),
        ("- eggs\n- mi", False, "- eggs"),
        ("It weighs 3.5 ki", False, ""),
        ("no end", False, ""),
    ],
)
def test_an_answer_that_did_not_end_is_cut_behind_a_sentence(
    text: str, ended: bool, wanted: str
) -> None:
    assert whole(BaseAnswer(text, ended)) == wanted
