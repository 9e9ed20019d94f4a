import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prefreg
from prefreg import Axis, DataError, PreferencePair, UsageError, pocket
from prefreg.errors import AxisError, BaseModelError
from prefreg.evaluation.candidates import opened_vectors
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_evaluator
from prefreg.models.log_probs import answer_log_probs, margins
from prefreg.registry import Access
from prefreg.terms import as_terms

pytestmark = pytest.mark.slow
SMALL = EvaluationRequest(prompts=40, max_new_tokens=24)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what this test measures to itself."""
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


@pytest.fixture(scope="module")
def evaluator(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """Return an evaluator whose model is loaded once for the tests that share it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(tmp_path_factory.mktemp("measured")))
        return open_evaluator(Access(trained), as_terms(["helpful:1", "verbosity:1"]), SMALL)


def test_a_composition_is_measured_beside_its_base(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(evaluator.candidate(as_terms(["helpful:8", "verbosity:-2"])))
    assert found.candidate.formula == "base + 8·helpful@1 − 2·verbosity@1"
    names = [each.name for each in found.figures.measured]
    for axis in ("helpful", "verbosity"):
        assert {axis, f"{axis}.margin", f"{axis}.accuracy", f"{axis}.margin_per_token"} <= {*names}
    kl = found.figures.find("kl")
    assert kl.value.low > 0
    assert found.figures.find("helpful.margin").value.value > 0
    assert found.figures.find("verbosity").words == found.figures.find("verbosity").value.value
    assert found.prompts == 40
    assert not found.cached


def test_the_base_is_at_0_from_itself(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(evaluator.candidate(as_terms(["helpful:0"])))
    assert found.candidate.formula == "base"
    for name in ("kl", "helpful.margin", "verbosity.margin_per_token"):
        figure = found.figures.find(name)
        assert (figure.value.value, figure.value.low, figure.value.high) == (0, 0, 0)
    assert found.figures.find("helpful").change.value == 0
    assert found.figures.find("helpful.accuracy").value.value == 0.5


def test_margins_are_those_of_the_composed_model(evaluator: Evaluator) -> None:
    from prefreg.data.tokens import tokenise_pairs

    candidate = evaluator.candidate(as_terms(["helpful:3"]))
    found = evaluator.evaluate(candidate).figures.find("helpful.margin").value.value
    pairs = evaluator.pairs["helpful"].pairs
    steered = prefreg.open(evaluator.access.location).load("pocket")
    tokens = tokenise_pairs(pairs, steered.tokenizer, max_length=256).pairs
    base = margins(answer_log_probs(steered.model, tokens))
    turned = margins(answer_log_probs(steered.set(helpful=3).model, tokens))
    assert found == pytest.approx(float((turned - base).mean()), abs=1e-4)


def test_the_pairs_of_the_bundled_model_are_of_its_test_split(evaluator: Evaluator) -> None:
    rows = list(pocket.rows("helpful", split="test", limit=40))
    prompts = {row["prompt"] for row in rows}
    assert {pair.prompt[0].content for pair in evaluator.pairs["helpful"].pairs} <= prompts


def test_the_pristine_base_comes_back_bit_for_bit(evaluator: Evaluator) -> None:
    base = evaluator.candidate(())
    before = {n: p.clone() for n, p in evaluator.model(base).named_parameters()}
    evaluator.model(evaluator.candidate(as_terms(["helpful:3"])))
    after = dict(evaluator.model(base).named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_vectors_by_themselves_are_measured_as_their_composition_is(evaluator: Evaluator) -> None:
    candidate = evaluator.candidate(as_terms(["helpful:4"]))
    ((eta, record),) = candidate.versions
    with evaluator.access.reading() as store:
        source = store.vector_source(record)
    with opened_vectors([(record, source)]) as (vector,):
        scored = evaluator.log_probs("helpful", evaluator.turn([(eta, vector)]))
    assert (margins(scored).numpy() == evaluator.margins(candidate, "helpful")).all()
    # The next composition is made anew, from the pristine base.
    base = evaluator.log_probs("helpful", evaluator.model(evaluator.plain))
    assert (margins(base).numpy() == evaluator.margins(evaluator.plain, "helpful")).all()


def test_an_axis_is_measured_by_its_metric_or_else_by_its_margin(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluator.effect("verbosity").name == "verbosity"
    monkeypatch.setitem(
        evaluator.axes, "verbosity", replace(evaluator.axes["verbosity"], metric=None)
    )
    assert evaluator.effect("verbosity").name == "verbosity.margin"
    assert evaluator.effect("harmless") is None


def test_a_key_is_of_the_weights_alone(evaluator: Evaluator) -> None:
    key = {
        text: evaluator.candidate(as_terms(text.split())).key
        for text in (
            "helpful:1", "helpful@1:1", "help:1.00000000001", "helpful:1 verbosity:0",
            "helpful:1 verbosity:1", "verbosity:1 helpful:1", "helpful:-1", "helpful:0",
        )
    }  # fmt: skip
    assert len({key[text] for text in list(key)[:4]}) == 1
    assert key["helpful:1 verbosity:1"] == key["verbosity:1 helpful:1"]
    assert key["helpful:0"] == evaluator.candidate(()).key
    assert len(set(key.values())) == 4


def test_a_repeated_question_needs_no_model(trained: Path, cache: Path) -> None:
    registry = prefreg.open(trained)
    first = registry.evaluate(["helpful:1"], SMALL)
    assert list(cache.rglob("answers-*.json"))
    opened = open_evaluator(registry.access, as_terms(["helpful:1"]), SMALL)
    again = opened.evaluate(opened.candidate(as_terms(["helpful:1"])))
    assert again.cached
    assert again.figures == first.figures
    assert opened.seconds["loading"] == 0
    other = registry.evaluate(["helpful:1"], prompts=40, max_new_tokens=24, seed=1)
    assert not other.cached


def test_the_base_is_measured_once_for_every_composition(trained: Path, cache: Path) -> None:
    opened = open_evaluator(Access(trained), as_terms(["helpful:1"]), SMALL)
    opened.evaluate(opened.candidate(as_terms(["helpful:1"])))
    assert opened.computed == 4
    opened.evaluate(opened.candidate(as_terms(["helpful:2"])))
    assert opened.computed == 6


def with_metric(evaluator: Evaluator, metric: object) -> Axis:
    return replace(evaluator.axes["helpful"], metric=metric, owner="a plugin")


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (lambda prompt, answer: math.nan, "it returned nan, not a finite number"),
        (lambda prompt, answer: {}[prompt], "KeyError"),
        (lambda prompt, answer: "1", "it returned '1', not a finite number"),
    ],
)
def test_a_metric_that_fails_names_the_prompt(
    evaluator: Evaluator, metric: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = evaluator.asked[0].text[:60]
    monkeypatch.setitem(evaluator.axes, "helpful", with_metric(evaluator, metric))
    with pytest.raises(DataError, match=reason) as caught:
        evaluator.evaluate(evaluator.plain)
    assert f"the metric of axis 'helpful' (a plugin) failed on the prompt {prompt!r}" in str(
        caught.value
    ).lower().replace(prompt.lower(), prompt)


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_own_prompts_and_own_pairs(trained: Path, cache: Path, tmp_path: Path) -> None:
    prompts = write(
        tmp_path / "prompts.jsonl",
        *({"prompt": f"What colour is boat {n}?", "kind": "safe"} for n in range(8)),
    )
    rows = [
        {"prompt": f"Where is {n}?", "chosen": f"By the sea {n}.", "rejected": "I do not know."}
        for n in range(9)
    ]
    pairs = write(tmp_path / "pairs.jsonl", *rows)
    found = prefreg.open(trained).evaluate(
        ["helpful:1"], prompts_file=Path(prompts), data=(f"help={pairs}",), max_new_tokens=16
    )
    assert found.prompts == 8
    assert found.sources == {"helpful": "pairs.jsonl"}
    assert found.figures.find("helpful.margin").groups == 9
    assert found.figures.find("refuses_safe").groups == 8
    assert found.figures.missing["helpful"] == "its metric applies to none of the answers"
    assert "refuses_unsafe" in found.figures.missing


def test_data_for_an_axis_that_is_not_scored_is_refused(trained: Path, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    registry = prefreg.open(trained)
    with pytest.raises(UsageError, match="names 'harmless', which is not scored; scored are help"):
        registry.evaluate(["helpful:1"], data=(f"harmless={pairs}",))
    with pytest.raises(UsageError, match="cannot be the pairs of 2 axes: write AXIS=FILE"):
        registry.evaluate(["helpful:1", "verbosity:1"], data=(pairs,))
    with pytest.raises(DataError, match="There is no data file"):
        registry.evaluate(["helpful:1"], data=("helpful=gone.jsonl",))


def test_an_axis_that_is_not_installed_says_which_is_meant(trained: Path) -> None:
    with pytest.raises(AxisError, match="Did you mean 'harmless'"):
        prefreg.open(trained).evaluate(["helpful:1"], axes=("harmles",))


def test_a_vector_outlives_its_axis(
    trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_LOAD_PLUGINS", "")
    found = prefreg.open(trained).evaluate(["helpful:1"], SMALL)
    assert found.figures.missing["helpful"].startswith("the axis is not installed")
    assert found.figures.find("kl") is not None


def test_a_prompt_that_does_not_fit_the_context_is_told(
    trained: Path, cache: Path, tmp_path: Path
) -> None:
    long = write(tmp_path / "prompts.jsonl", {"prompt": "boat " * 300})
    with pytest.raises(BaseModelError, match="do not fit the model's context of 256"):
        prefreg.open(trained).evaluate(["helpful:1"], prompts_file=Path(long))
    with pytest.raises(BaseModelError, match="do not fit the model's context of 256"):
        prefreg.open(trained).evaluate(["helpful:1"], max_new_tokens=250)
    assert not list(cache.rglob("answers*"))


def test_a_gate_scores_the_axes_that_it_names(trained: Path, cache: Path) -> None:
    registry = prefreg.open(trained)
    found = registry.gate(["helpful:1"], "verbose>=0, kl<=5, helpful.accuracy>=0", SMALL)
    assert found.met
    assert [each.requirement.name for each in found.verdicts] == [
        "verbosity", "kl", "helpful.accuracy",
    ]  # fmt: skip
    assert not registry.gate(["helpful:1"], "verbosity>=1000", SMALL, strict=True).met
    with pytest.raises(AxisError, match="No axis 'fluency' is installed"):
        registry.gate(["helpful:1"], "fluency>=1", SMALL)


def test_pairs_of_a_version_from_a_file_are_read_again_or_given(tmp_path: Path) -> None:
    people = (*pocket.VILLAGE.she, *pocket.VILLAGE.he)
    rows = [
        {"prompt": f"Where does {name} live?", "chosen": "On the hill.", "rejected": "A baker."}
        for name in people
    ]
    pairs = write(tmp_path / "pairs.jsonl", *rows)
    base = shutil.copytree(pocket.model_dir(), tmp_path / "base")
    registry = prefreg.open(tmp_path / "own.db")
    registry.add_axis(
        "helpful", base=str(base), data=pairs, settings=["max_steps=4"], keep_anyway=True
    )
    held = registry.show("helpful").metadata["data"]["audit"]["heldout"]
    found = registry.evaluate(["helpful:1"], SMALL, max_new_tokens=8)
    assert found.sources == {"helpful": "held out of helpful@1"}
    assert found.prompts == held
    moved = Path(pairs).rename(tmp_path / "moved.jsonl")
    with pytest.raises(DataError, match=r"nothing to ask.*pairs\.jsonl is gone; give"):
        registry.evaluate(["helpful:1"], SMALL)
    found = registry.evaluate(
        ["helpful:1"], data=(f"helpful={moved}",), prompts=12, max_new_tokens=8
    )
    assert found.prompts == 12
    assert found.figures.find("helpful.margin").groups == 12


def test_the_held_out_pairs_of_a_run_are_read_again(trained: Path) -> None:
    from prefreg.training.heldout import heldout_pairs

    record = prefreg.open(trained).show("helpful")
    found = heldout_pairs(record)
    assert len(found) == record.metadata["data"]["audit"]["heldout"]
    assert all(isinstance(pair, PreferencePair) for pair in found)
