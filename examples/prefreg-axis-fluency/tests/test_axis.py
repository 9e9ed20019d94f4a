"""The axis by itself, against prefreg's conformance kit, and as prefreg finds it."""

import math
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import prefreg_axis_fluency
from prefreg import DataError, SourceRequest, pocket
from prefreg.authoring.conformance import assert_conforms
from prefreg_axis_fluency import judge, label, scramble
from prefreg_axis_fluency.judge import mean_log_prob

(AXIS,) = prefreg_axis_fluency.prefreg_register_axes()


def test_scrambling_keeps_the_words_and_repeats_itself() -> None:
    text = "Elsa sails a white boat."
    assert scramble(text) != text
    assert sorted(scramble(text).split()) == sorted(text.split())
    assert scramble(text) == scramble(text)


@pytest.mark.parametrize("answer", ["White.", "", "no no no"])
def test_what_has_no_other_order_is_a_tie(answer: str) -> None:
    assert label({"prompt": "Why?", "answer": answer}) is None


def test_several_turns_are_left_out() -> None:
    prompt = "Hello\n<extra_id_1>Assistant\nHi\n<extra_id_1>User\nWhy?"
    assert label({"prompt": prompt, "answer": "Because it is so."}) is None


def test_the_judge_prefers_order() -> None:
    for row in AXIS.sources["pocket"](SourceRequest(limit=20)):
        pair = label(row)
        if pair is not None:
            prompt, chosen, rejected = (
                row["prompt"],
                *(text[0].content for text in (pair.chosen, pair.rejected)),
            )
            assert mean_log_prob(prompt, chosen) > mean_log_prob(prompt, rejected)


def test_an_empty_answer_is_a_guess_among_all_tokens() -> None:
    model, _ = judge._load(str(pocket.model_dir()), "cpu")
    assert mean_log_prob("Why?", "") == -math.log(model.config.vocab_size)


def test_a_text_longer_than_the_judge_reads_is_scored_all_the_same() -> None:
    assert math.isfinite(mean_log_prob("Why? " * 300, "It is white. " * 200))


def test_the_judge_is_loaded_once() -> None:
    judge._load.cache_clear()
    for _ in range(3):
        mean_log_prob("Why?", "It is white.")
    assert judge._load.cache_info().misses == 1


def test_a_judge_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(judge.MODEL, str(tmp_path))
    with pytest.raises(DataError, match=r"The judge '.*' cannot be loaded on 'cpu': .* Set PREF"):
        mean_log_prob("Why?", "It is white.")


def test_listing_the_axis_loads_no_torch() -> None:
    code = "import sys, prefreg_axis_fluency; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_axis_conforms() -> None:
    # The smoke run is left to `prefreg check-axis fluency`.
    assert_conforms(AXIS, limit=200, train=False)


def test_prefreg_finds_the_installed_axis() -> None:
    (found,) = entry_points(group="prefreg", name="fluency")
    assert found.load() is prefreg_axis_fluency
