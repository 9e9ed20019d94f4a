"""The base as sources ask it: the same answers again, kept batch by batch."""

from pathlib import Path

import pytest

import worded
from prefreg.axes.axis import BaseAnswer, Message, Text
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.errors import BaseModelError, Interrupted, UsageError
from prefreg.models.answering_base import BATCH, AnsweringBase
from prefreg.models.generation import sample
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.models.sampling import Sampling

PROMPTS = [(Message("user", f"is the {word} big ?"),) for word in worded.WORDS]
GROUPS: list[list[Text]] = [[prompt] * 3 for prompt in PROMPTS]
"""60 answers of 20 groups: two batches, of ten groups each."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return resolve_base(str(worded.save(tmp_path_factory.mktemp("base") / "model")))


def ask(base: BaseModel, **options: object) -> list[list[BaseAnswer]]:
    asked = {"max_new_tokens": 6, "temperature": 1.0} | options
    return list(AnsweringBase(lambda: base).answers(GROUPS, **asked))  # type: ignore[arg-type]


def test_the_same_question_has_the_same_answers_and_needs_no_model(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(base)
    assert [len(group) for group in first] == [3] * len(GROUPS)
    assert len({answer.text for group in first for answer in group}) > len(GROUPS)
    with monkeypatch.context() as patch:
        patch.delattr("prefreg.models.answering_base.load_model")
        assert ask(base) == first
    assert ask(base, seed=1) != first
    assert ask(base, temperature=0.5) != first


def test_without_a_cache_the_answers_are_the_same(base: BaseModel, cache: Path) -> None:
    first = ask(base)
    for file in cache.glob("*/*"):
        file.unlink()
    assert ask(base) == first


def test_the_answers_are_those_of_the_model(base: BaseModel) -> None:
    with quiet():
        model, tokenizer = load_model(base), load_tokenizer(base)
    likeliest = sample(model, tokenizer, PROMPTS, Sampling(6))
    found = ask(base, temperature=0.0)
    assert [group[0] for group in found] == [(each.text, each.ended) for each in likeliest]
    assert all(group[0] == group[1] == group[2] for group in found)


def test_what_was_done_is_kept_when_it_is_interrupted(base: BaseModel, cache: Path) -> None:
    whole = ask(base)
    for file in cache.glob("*/*"):
        file.unlink()

    def ctrl_c(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        assert (stage, done, total) in (("answers", 0, 60), ("answers", 30, 60))
        if done:
            raise KeyboardInterrupt

    asked = AnsweringBase(lambda: base, progress=ctrl_c)
    with pytest.raises(Interrupted, match=r"30 of 60 answers are kept: the same command goes on"):
        next(asked.answers(GROUPS, max_new_tokens=6, temperature=1.0))
    again = AnsweringBase(lambda: base)
    assert list(again.answers(GROUPS, max_new_tokens=6, temperature=1.0)) == whole
    assert again.made == 30


def test_a_damaged_batch_is_made_again(base: BaseModel, cache: Path) -> None:
    whole = ask(base)
    files = sorted(cache.glob("*/*"))
    files[0].write_text(files[0].read_text().replace("red", "blue", 1) + " ")
    files[1].write_text("[]")
    assert ask(base) == whole


def test_a_preview_makes_one_batch(base: BaseModel) -> None:
    few = AnsweringBase(lambda: base, few=True)
    options = {"max_new_tokens": 6, "temperature": 1.0}
    found = list(few.answers(GROUPS, **options))  # type: ignore[arg-type]
    assert (len(found), few.made) == (10, 30)
    assert list(few.answers(GROUPS[10:], **options)) == []  # type: ignore[arg-type]
    assert ask(base)[:10] == found  # what it made is used


def test_a_group_is_never_parted(base: BaseModel) -> None:
    groups = [[PROMPTS[0]] * (BATCH + 5), [PROMPTS[1]], [], [PROMPTS[2]]]
    found = list(AnsweringBase(lambda: base).answers(groups, max_new_tokens=2, temperature=0.0))
    assert list(map(len, found)) == [BATCH + 5, 1, 0, 1]


def test_bad_sampling_and_long_prompts_are_told(base: BaseModel) -> None:
    with pytest.raises(UsageError, match="Sampling needs a finite temperature"):
        ask(base, temperature=-1.0)
    with pytest.raises(BaseModelError, match="do not fit the model's context of 48"):
        ask(base, max_new_tokens=48)


def test_the_template_is_told_what_the_run_tells_it(tmp_path: Path) -> None:
    template = "{% if mood %}<system> {{ mood }}{% endif %}" + worded.TEMPLATE
    base = resolve_base(str(worded.save_taught(tmp_path / "model", template=template)))

    def said(**options: str) -> str:
        asked = AnsweringBase(lambda: base, options=options)
        groups = [[(Message("user", worded.ASKED[0]),)]]
        return next(asked.answers(groups, max_new_tokens=12, temperature=0.0))[0].text

    assert (said(mood="red"), said(mood="no")) == ("it is a red boat .", "no .")
    with pytest.raises(UsageError, match="modd"):
        said(modd="red")
