"""Whose turn it is, and kinds of models that keep other things than keys and values."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

import prefreg
import tiny
from low_rank import add_dense, add_low_rank
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.in_memory import VectorShelf
from prefreg.models.loading import load_model
from prefreg.registry import Access
from prefreg.serving.answer import Answer
from prefreg.serving.asking import Ask
from prefreg.serving.engine import TURN, Engine, Row
from prefreg.terms import as_terms

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(
        MistralConfig(**SMALL, **HEADS, sliding_window=20, max_position_embeddings=64)
    )


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(**SMALL, state_size=4, intermediate_size=64))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    )


def saved(make, folder: Path) -> BaseModel:
    torch.manual_seed(0)
    return tiny.in_base(make, folder)


def run(engine: Engine, base: BaseModel, registry: Path, asked) -> dict[int, list[int]]:
    """Let answers run to their end; return the tokens of each."""
    shelf = VectorShelf(base, Access(registry), phases=True)
    tokens: dict[int, list[int]] = defaultdict(list)
    with torch.inference_mode():
        for place, (prompt, terms, count) in enumerate(asked):

            def keep(token: int, place: int = place) -> int:
                tokens[place].append(token)
                return token

            answer = Answer(Ask(prompt=prompt, max_tokens=count), _Silent(), frozenset())
            draw = answer.draw
            answer.draw = lambda logits, draw=draw, keep=keep: keep(draw(logits))  # type: ignore
            terms = tuple(shelf.find(as_terms(terms)))
            engine.admit(
                Row(prompt=prompt, answer=answer, terms=terms, on_piece=_drop, on_error=_raise)
            )
            engine.step()
        while engine.rows:
            engine.step()
    return tokens


class _Silent:
    """Writes nothing."""

    def text(self, _: object) -> str:
        return ""

    def bytes(self, _: object) -> bytes:
        return b""


def _drop(_: object) -> None:
    pass


def _raise(error: BaseException) -> None:
    raise AssertionError from error


@pytest.mark.parametrize(
    ("make", "together", "carries"),
    [(gpt2, True, True), (mistral, True, True), (mamba, False, True)],
)
def test_every_kind_of_model_answers_as_it_does_with_composed_weights(
    make, together: bool, carries: bool, tmp_path: Path
) -> None:
    base = saved(make, tmp_path / "base")
    registry = tmp_path / "registry.db"
    only = ("proj", "c_attn", "c_fc")
    add_low_rank(registry, base, "warm", seed=1, rank=2, size=1.0, only=only)
    add_dense(registry, base, "heavy", seed=2, size=0.1)
    engine = Engine(load_model(base).eval(), base)
    assert (engine.together, engine.carries) == (together, carries)
    prompts = [(5, 6, 7), tuple(range(20, 35)), (9,) * 9]
    settings = [(), ("warm:1",), ("warm:-1.5", "heavy:0.5"), ("heavy:1",)]
    asked = [(p, s, 8) for p in prompts for s in settings]
    found = run(engine, base, registry, asked)
    assert engine.counts["failed"] == 0
    steered = prefreg.open(registry)
    answers = set()
    for place, (prompt, terms, count) in enumerate(asked):
        model = _composed(base, steered, terms)
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(count):
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        assert found[place] == ids[len(prompt) :], (prompt, terms, logits[0, -1].topk(3))
        answers.add(tuple(found[place]))
    assert len(answers) > 5


_models: dict[tuple, PreTrainedModel] = {}


def _composed(base: BaseModel, registry, terms: tuple[str, ...]) -> PreTrainedModel:
    key = base.fingerprint.weights, terms
    if key not in _models:
        if terms:
            folder = Path(f"composed-{len(_models)}")
            registry.compose(as_terms(terms), folder, base=str(base.path))
            _models[key] = load_model(resolve_base(str(folder))).eval()
        else:
            _models[key] = load_model(base).eval()
    return _models[key]


def test_no_setting_waits_longer_than_its_bound(tmp_path: Path) -> None:
    base = saved(mistral, tmp_path / "base")
    registry = tmp_path / "registry.db"
    add_dense(registry, base, "heavy", seed=2)
    engine = Engine(load_model(base).eval(), base)
    shelf = VectorShelf(base, Access(registry))
    settings = [(), ("heavy:1",), ("heavy:2",), ("heavy:3",)]
    steps: dict[int, list[int]] = defaultdict(list)
    now = 0
    with torch.inference_mode():
        for place in range(8):
            ask = Ask(prompt=(5, 6), max_tokens=60)
            answer = Answer(ask, _Silent(), frozenset())
            terms = tuple(shelf.find(as_terms(settings[place % 4])))
            row = Row(prompt=(5, 6), answer=answer, terms=terms, on_piece=_drop, on_error=_raise)
            row.place = place
            engine.admit(row)
        drawn = {row: 0 for row in engine.rows}
        while engine.rows:
            engine.step()
            now += 1
            for row, before in drawn.items():
                if row.answer.count > before:
                    steps[row.place].append(now)
                    drawn[row] = row.answer.count
    for times in steps.values():
        gaps = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
        assert max(gaps) <= 3 * TURN + 1
    assert engine.counts["switches"] <= 4 * (60 // TURN + 1)
    assert len(steps) == 8
