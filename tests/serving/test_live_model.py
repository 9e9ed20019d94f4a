"""Many answers at once, each with dials of its own: the same as a composition gives alone."""

import functools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import prefreg
from asked import ask
from low_rank import add_dense, add_low_rank
from prefreg import BaseModelError, RegistryError, Term, UsageError, VectorError
from prefreg.axes.axis import Message
from prefreg.checkpoints import resolve_base
from prefreg.errors import BusyError
from prefreg.models.generation import generate, generation_config
from prefreg.models.loading import load_model
from prefreg.registry import Access
from prefreg.serving.live_model import Ask, LiveModel
from prefreg.terms import as_terms

PROMPT = "Which colour is Elsa's boat?"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry of random vectors for the bundled model."""
    path = tmp_path_factory.mktemp("live") / "registry.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(path.parent / "cache"))
        base = resolve_base("pocket")
        add_low_rank(path, base, "warm", seed=1, size=0.7)
        add_low_rank(path, base, "terse", seed=2, rank=4, size=1.0, only=("q_proj", "down_proj"))
        add_low_rank(path, base, "wild", seed=3, rank=2, size=0.7)
        add_low_rank(path, base, "words", seed=4, only=("embed_tokens", "up_proj"))
        add_dense(path, base, "heavy", seed=5, size=0.03)
        add_dense(path, base, "huge", seed=7, size=5.0)
        add_dense(path, base, "light", seed=6, size=0.03)
    return path


@pytest.fixture(scope="module")
def live(registry: Path) -> Iterator[LiveModel]:
    with LiveModel.load(Access(registry), "pocket") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def composed(registry: Path) -> Callable[..., PreTrainedModel]:
    """Return what makes a model with the weights of a composition."""
    steered = prefreg.open(registry).load("pocket")

    @functools.cache
    def compose(*terms: str) -> PreTrainedModel:
        model = load_model(resolve_base("pocket")).eval()
        model.load_state_dict(steered.set(as_terms(terms)).model.state_dict())
        return model

    return compose


@pytest.fixture(scope="module")
def alone(live: LiveModel, composed: Callable[..., PreTrainedModel]) -> Callable[..., list[int]]:
    """Return what answers a prompt greedily with composed weights, by transformers' own loop."""

    def answer(prompt, *terms: str, max_tokens: int = 24) -> list[int]:
        model = composed(*terms)
        config = generation_config(model, live.tokenizer, max_new_tokens=max_tokens, temperature=0)
        with torch.inference_mode():
            return generate(model, [list(prompt)], config, seed=0)[0]

    return answer


SETTINGS = [
    (),
    ("warm:1",),
    ("warm:-0.7", "terse:1.5"),
    ("wild:0.9", "terse:-1"),
    ("warm:0.4", "wild:0.5", "terse:0.8"),
    ("words:1",),
    ("heavy:1",),
    ("heavy:1", "warm:0.6"),
    ("light:-0.8", "heavy:0.3", "wild:-0.5"),
]


def prompts(count: int, *, seed: int) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [
        tuple(draw.randrange(3, 438) for _ in range(draw.randrange(2, 70))) for _ in range(count)
    ]


def test_sixteen_mixed_answers_are_those_of_their_compositions(
    live: LiveModel, alone: Callable[..., list[int]]
) -> None:
    asked = []
    for place, prompt in enumerate(prompts(22, seed=1)):
        terms = SETTINGS[place % len(SETTINGS)]
        limit = 60 if place % 5 == 0 else 3 + place
        asked.append((prompt, terms, limit, ask(live, prompt, *terms, max_tokens=limit)))
        if place == 12:  # the others join when some have ended, and some have not
            asked[0][-1].wait()
            asked[5][-1].running.cancel()
    others = 0
    for place, (prompt, terms, limit, answer) in enumerate(asked):
        wanted = alone(prompt, *terms, max_tokens=limit)
        others += wanted != alone(prompt, max_tokens=limit)
        if answer.wait().finish == "cancelled":
            assert place == 5
            assert answer.ids == wanted[: len(answer.ids)]
        else:
            assert answer.ids == wanted, (place, terms)
            assert answer.finish == ("length" if wanted[-1] not in (2,) else "stop")
    assert others >= 8  # the dials do something
    state = live.state()
    assert (state.waiting, state.running, state.failed) == (0, 0, 0)


def test_low_rank_vectors_need_no_other_weights(live: LiveModel) -> None:
    before = live.state().switches
    for each in [ask(live, PROMPT, f"warm:{eta}", f"wild:{-eta}") for eta in (1, 0.5, -0.5)]:
        each.wait()
    assert live.state().switches <= before + 1  # back to the base, at most


def test_a_seed_draws_the_same_alone_and_in_a_crowd(live: LiveModel) -> None:
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 11, "max_tokens": 40}
    first = ask(live, PROMPT, "warm:1", **options).ids
    crowd = [
        ask(live, prompt, *SETTINGS[place % 5], temperature=1.5, max_tokens=30)
        for place, prompt in enumerate(prompts(9, seed=2))
    ]
    again = ask(live, PROMPT, "warm:1", **options)
    other = ask(live, PROMPT, "warm:1", **(options | {"seed": 12}))
    assert again.ids == first
    assert other.ids != first
    assert all(each.wait().error is None for each in crowd)


def test_terms_act_on_a_part_of_the_answer(
    live: LiveModel, composed: Callable[..., PreTrainedModel]
) -> None:
    prompt = prompts(5, seed=3)[4]

    def wanted(parts: list[tuple[int, tuple[str, ...]]], count: int) -> list[int]:
        """Draw with one cache, its tokens read with the weights of the part that they are in."""
        cache, ids, found, first = None, list(prompt), list[int](), len(prompt) - 1
        for at in range(first + count):
            terms = next(terms for since, terms in reversed(parts) if at >= first + since)
            model = composed(*terms)
            with torch.inference_mode():
                output = model(torch.tensor([[ids[at]]]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            if at >= first:
                found.append(int(output.logits[0, -1].argmax()))
                ids.append(found[-1])
        return found

    start = -len(prompt)
    for asked, parts in {
        ("warm:1[answer]",): [(start, ()), (0, ("warm:1",))],
        ("heavy:1[answer]",): [(start, ()), (0, ("heavy:1",))],
        ("warm:1[3:]", "terse:1"): [(start, ("terse:1",)), (3, ("terse:1", "warm:1"))],
        ("heavy:1[2:]", "light:1[5:]", "warm:1"): [
            (start, ("warm:1",)),
            (2, ("heavy:1", "warm:1")),
            (5, ("heavy:1", "light:1", "warm:1")),
        ],
    }.items():
        crowd = [ask(live, PROMPT, "heavy:1"), ask(live, PROMPT, "wild:1", max_tokens=50)]
        got = ask(live, prompt, *asked, max_tokens=9).ids
        assert got == wanted(parts, 9)[: len(got)], asked
        assert got != ask(live, prompt, *(each.split("[")[0] for each in asked), max_tokens=9).ids
        assert all(each.wait().error is None for each in crowd)


def test_a_prompt_is_scored_as_the_model_scores_it(
    live: LiveModel, composed: Callable[..., PreTrainedModel]
) -> None:
    prompt = prompts(1, seed=4)[0]
    answer = ask(live, prompt, "warm:1", max_tokens=2, echo=True, top_logprobs=3).wait()
    echoed, *rest = answer.pieces
    model = composed("warm:1")
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *answer.ids]])
        scores = torch.log_softmax(model(ids).logits[0], -1)
    tokens = [*echoed.tokens, *(each for piece in rest for each in piece.tokens)]
    assert echoed.echoed
    assert [each.id for each in echoed.tokens] == list(prompt)
    assert tokens[0].logprob is None
    for place, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(float(scores[place, token.id]), abs=1e-4)
        best = scores[place].topk(3)
        assert [each.id for each in token.top] == best.indices.tolist()
    only = ask(live, prompt, max_tokens=0, echo=True, top_logprobs=0).wait()
    assert [piece.finish for piece in only.pieces] == ["length"]
    assert only.ids == []


def test_one_failure_harms_nobody_else(live: LiveModel, alone: Callable[..., list[int]]) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("the reader has left")

    errors = list[BaseException]()
    told = threading.Event()

    def on_error(error: BaseException) -> None:
        errors.append(error)
        told.set()
        raise RuntimeError("and does not listen")

    prompt = live.encode(PROMPT)
    sound = [ask(live, PROMPT, *terms, max_tokens=30) for terms in SETTINGS]
    overflowing = ask(live, PROMPT, "huge:3e38")
    exploding = ask(live, PROMPT, "wild:1e30")
    live.submit(Ask(prompt=prompt, max_tokens=9), broken, on_error)
    for terms, each in zip(SETTINGS, sound, strict=True):
        assert each.ids == alone(prompt, *terms, max_tokens=30)
    assert isinstance(overflowing.wait().error, VectorError)
    assert isinstance(exploding.wait().error, BaseModelError)
    assert told.wait(30)
    assert str(errors[0]) == "the reader has left"
    assert ask(live, PROMPT, "heavy:1").ids == alone(prompt, "heavy:1")


@pytest.mark.parametrize(
    ("terms", "error", "said"),
    [
        (("warmth:1",), RegistryError, "Did you mean 'warm'?"),
        (("warm@7:1",), RegistryError, "warm"),
        (("warm:1", "warm@1:2"), UsageError, "named twice"),
        (("warm:1e39",), UsageError, "does not fit float32"),
    ],
)
def test_settings_are_refused_at_once(
    live: LiveModel, terms: tuple[str, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace("?", r"\?")):
        ask(live, PROMPT, *terms)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ()},
        {"prompt": (5000,)},
        {"prompt": (5,) * 300},
        {"max_tokens": 0},
        {"max_tokens": 256},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"seed": -1},
        {"stop": ("",)},
        {"top_logprobs": 1000},
        {"terms": (Term("warm", float("nan")),)},
    ],
)
def test_malformed_asks_are_refused(live: LiveModel, changes: dict) -> None:
    with pytest.raises(UsageError):
        live.submit(Ask(**({"prompt": (5, 6), "max_tokens": 5} | changes)), print, print)


def test_a_dialogue_is_written_by_the_template(live: LiveModel) -> None:
    turns = [Message("user", PROMPT)]
    assert live.tokenizer.decode(live.render(turns)).startswith("<")
    with pytest.raises(UsageError, match="reads no option"):
        live.render(turns, {"enable_thinking": False})
    with pytest.raises(UsageError, match="no messages"):
        live.render([])


def test_what_is_in_use_outlives_the_registry(registry: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    prefreg.open(registry).backup(copy)
    with LiveModel.load(Access(copy), "pocket") as model:
        before = ask(model, PROMPT, "warm:1").ids
        copy.unlink()
        assert ask(model, PROMPT, "warm:1").ids == before
        assert ask(model, PROMPT, "warm:0.5").wait().error is None
        with pytest.raises(RegistryError, match="copy"):
            ask(model, PROMPT, "terse:1")


def test_too_many_are_refused_and_the_cancelled_make_room(registry: Path) -> None:
    model = LiveModel.load(Access(registry), "pocket", rows=2, max_waiting=3)
    hold, reached = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        reached.set()
        hold.wait(30)

    running = model.submit(Ask(prompt=(5, 6), max_tokens=200, temperature=3.0), wait, print)
    assert reached.wait(30)
    waiting = [ask(model, (7, 8), max_tokens=5) for _ in range(3)]
    with pytest.raises(BusyError, match="3 answers wait"):
        ask(model, (7, 8))
    for each in (running, waiting[0].running, waiting[2].running):
        each.cancel()
        each.cancel()
    hold.set()
    assert [each.finish for each in waiting] == ["cancelled", "length", "cancelled"]
    assert model.state().running == 0
    model.close()
    with pytest.raises(BusyError, match="closing"):
        ask(model, (7, 8))


def test_closing_finishes_what_runs(registry: Path) -> None:
    model = LiveModel.load(Access(registry), "pocket", rows=1)
    begun = ask(model, (5, 6), "warm:1", max_tokens=20)
    while not (begun.pieces or begun.done.is_set()):
        begun.done.wait(0.01)
    waiting = ask(model, (5, 6), max_tokens=20)
    model.close()
    assert begun.finish in ("length", "stop")
    assert waiting.finish == "cancelled"
