from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

import worded
from prefreg.axes.axis import PreferencePair
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.training.guards import Thresholds
from prefreg.training.sample_answers import (
    DataAnswers,
    Opening,
    Sample,
    SampledAnswers,
    SampledPrompts,
    choose_prompts,
    choose_steps,
    find_collapse,
    find_warnings,
    measure_data,
)

SOUND = Sample(0, length=6.0, unended=0.1, empty=0.0, repetition=0.05, refusals=0.0)
DATA = DataAnswers((4.0, 9.0), refusing=False)


@pytest.fixture(scope="module")
def tokens() -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(24), worded.tokenizer(), max_length=48).pairs


def prompts_of(
    tokens: tuple[TokenPair, ...], *, count: int = 8, context: int | None = 48
) -> SampledPrompts | None:
    return choose_prompts(
        worded.pairs(24),
        tokens,
        worded.tokenizer(),
        count=count,
        benign=["is it red ?"],
        context=context,
    )


def sampled(tokens: tuple[TokenPair, ...], *, data: DataAnswers = DATA) -> SampledAnswers:
    asked = prompts_of(tokens)
    assert asked is not None
    return SampledAnswers(Opening.of(asked, worded.llama()), data, {4, 8}, Thresholds())


def certain(token: int) -> LlamaForCausalLM:
    """Return a model that says one token, whatever it is asked."""
    model = worded.llama(tied=False)
    with torch.no_grad():
        # All that the head sees is a constant: the embedding of the token of each place.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[token].fill_(10.0)
    return model


def test_the_prompts_are_distinct_held_out_ones_and_fit(tokens: tuple[TokenPair, ...]) -> None:
    found = prompts_of(tokens)
    assert found is not None
    assert len(found.tokens) == 9
    assert len(set(found.texts)) == 9
    assert found.texts[-1] == "is it red ?"
    assert all(found.benign)
    longest = max(len(pair.rejected_ids) for pair in tokens)
    assert (found.room, found.roomy) == (2 * longest, True)
    assert prompts_of(tokens, count=0) is None
    assert prompts_of(tokens, context=2 * longest + 4) is None


def test_a_prompt_with_an_answer_that_refuses_is_not_benign(tokens: tuple[TokenPair, ...]) -> None:
    refused = PreferencePair.from_texts(
        prompt="is it a big boat ?", chosen="i cannot say .", rejected="it is a old boat ."
    )
    found = choose_prompts(
        [*worded.pairs(8), refused],
        tokens,
        worded.tokenizer(),
        count=9,
        benign=(),
        context=None,
    )
    assert found is not None
    assert dict(zip(found.texts, found.benign, strict=True))["is it a big boat ?"] is False
    taught = [refused, *worded.pairs(3)]
    assert measure_data(taught, tokens).refusing
    assert not measure_data([pair.switched() for pair in taught], tokens).refusing


def test_what_a_model_answers_is_counted(tokens: tuple[TokenPair, ...]) -> None:
    asked = prompts_of(tokens)
    assert asked is not None
    model = worded.llama()
    first, _ = asked.answer(model, 3)
    assert first == asked.answer(model, 3)[0]
    assert first.step == 3
    assert 1 <= first.length <= asked.room
    assert first.refusals == 0.0
    assert first.unchanged is None
    assert asked.answer(certain(9), 4)[0].repetition > 0.6
    assert asked.answer(certain(9), 4)[0].unended == 1.0
    assert asked.answer(certain(9), 4)[0].looping == 1.0
    assert first.looping == 0.0
    ended, answers = asked.answer(certain(2), 4, Opening.of(asked, model))
    assert answers == [[2]] * len(asked.texts)
    assert ended.unchanged == 0.0
    assert (ended.empty, ended.length, ended.unended) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (replace(SOUND, repetition=0.4), "40% of the runs of tokens in its answers repeat"),
        (replace(SOUND, looping=0.3), "30% of its answers say the same again and again, 0% with"),
        (replace(SOUND, empty=0.6), "60% of its answers are empty"),
        (replace(SOUND, unended=0.7), "70% of its answers do not end, 10% with the base"),
        (replace(SOUND, refusals=0.6), "60% of the benign prompts are refused"),
    ],
)
def test_answers_that_fall_apart_are_a_collapse(
    tokens: tuple[TokenPair, ...], found: Sample, reason: str
) -> None:
    asked = prompts_of(tokens)
    assert asked is not None
    said = find_collapse(found, SOUND, asked, DATA, Thresholds())
    assert said is not None
    assert said.startswith(reason)
    assert find_collapse(SOUND, SOUND, asked, DATA, Thresholds()) is None


def test_what_the_data_may_teach_is_no_collapse(tokens: tuple[TokenPair, ...]) -> None:
    asked = prompts_of(tokens)
    assert asked is not None
    refusing, limits = DataAnswers((4.0, 9.0), refusing=True), Thresholds()
    many = replace(SOUND, refusals=0.8)
    assert find_collapse(many, SOUND, asked, refusing, limits) is None
    assert list(find_warnings(many, SOUND, refusing, limits)) == ["refusals"]
    assert not find_warnings(many, SOUND, DATA, limits)
    # Where the answers of the data are long, one that is cut off says nothing.
    cut = replace(SOUND, unended=1.0)
    assert find_collapse(cut, SOUND, replace(asked, roomy=False), DATA, limits) is None


@pytest.mark.parametrize(("length", "strange"), [(1.9, True), (2.1, False), (18.1, True)])
def test_a_length_far_from_the_base_and_the_data_is_warned_of(length: float, strange: bool) -> None:
    found = find_warnings(replace(SOUND, length=length), SOUND, DATA, Thresholds())
    assert list(found) == ["length"] * strange
    if strange:
        told = f"have {length} tokens, the base's 6.0 and those of the data 4.0 and 9.0"
        assert told in found["length"]


def test_each_answer_is_kept_and_each_warning_once(tokens: tuple[TokenPair, ...]) -> None:
    asked = sampled(tokens, data=DataAnswers((30.0, 40.0), refusing=False))
    assert not asked.is_due(5)
    silent = certain(2)
    assert asked.check(silent, 4) is not None
    asked.check(silent, 8)
    assert [sample.step for sample in asked.samples] == [0, 4, 8]
    assert [(each.step, each.figure) for each in asked.warnings] == [(4, "length")]
    again = sampled(tokens)
    again.load(asked.to_json())
    assert (again.samples, again.warnings) == (asked.samples, asked.warnings)


def test_without_memory_the_training_goes_on(
    tokens: tuple[TokenPair, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prompts_of(tokens)
    assert found is not None
    model = worded.llama()

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(model, "generate", full)
    asked = SampledAnswers(Opening(found, SOUND, []), DATA, {4, 8}, Thresholds())
    assert asked.check(model, 4) is None
    assert not asked.is_due(8)
    assert [each.figure for each in asked.warnings] == ["memory"]


def test_how_often_it_asks_follows_from_the_tokens(tokens: tuple[TokenPair, ...]) -> None:
    asked = prompts_of(tokens)
    assert asked is not None
    assert choose_steps(asked, 1.0, interval=5, steps=60) == {60}
    few, many = (choose_steps(asked, work, interval=5, steps=60) for work in (2000.0, 1e6))
    assert {60} < few < many
    assert len(many) == 10
    assert all(step % 5 == 0 for step in many)


def test_a_pole_that_says_what_the_base_says_is_warned_of_at_its_end(
    tokens: tuple[TokenPair, ...],
) -> None:
    asked = sampled(tokens)
    asked.check(worded.llama(), 4)
    assert asked.warnings == []
    asked.check(worded.llama(), 8)
    assert [(each.step, each.figure) for each in asked.warnings] == [(8, "unchanged")]
    assert "are still the base's" in asked.warnings[0].reason
    assert asked.samples[-1].unchanged == 1.0
