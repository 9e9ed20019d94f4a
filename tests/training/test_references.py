import multiprocessing
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worded
from axis_runs import train
from prefreg.axes.axis import Axis, PreferencePair
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.errors import BaseModelError
from prefreg.models.loading import load_model
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.training.references import Origin, References
from prefreg.training.settings import Settings


def tokens() -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(12), worded.tokenizer(), max_length=48).pairs


@pytest.fixture
def references(base: BaseModel, tmp_path: Path) -> References:
    return References(base, "float32", rows=True, folder=tmp_path / "references")


def score(references: References, pairs: tuple[TokenPair, ...]) -> tuple[PairLogProbs, Origin]:
    found = references.score(load_model(references.base), pairs)
    assert found.whole is found.trained
    return found.trained, found.origin


def kept(references: References) -> list[Path]:
    assert references.folder is not None
    return sorted(references.folder.iterdir())


def test_what_was_computed_is_found_again_bit_for_bit(references: References) -> None:
    first, computed = score(references, tokens())
    again, cached = score(references, tokens())
    assert (computed, cached) == ("computed", "cached")
    expected = answer_log_probs(load_model(references.base), tokens())
    torch.testing.assert_close(first.chosen, expected.chosen, rtol=0, atol=1e-4)
    torch.testing.assert_close(first.rejected, expected.rejected, rtol=0, atol=1e-4)
    assert torch.equal(first.chosen, again.chosen)
    assert torch.equal(first.rejected, again.rejected)
    assert torch.equal(again.chosen_tokens, expected.chosen_tokens)
    assert torch.equal(again.rejected_tokens, expected.rejected_tokens)


def test_the_order_of_pairs_is_no_part_of_what_is_kept(references: References) -> None:
    """Another seed shuffles them: what it finds is what it would have computed."""
    first, _ = score(references, tokens())
    turned, origin = score(references, tokens()[::-1])
    assert origin == "cached"
    assert torch.equal(turned.chosen, first.chosen.flip(0))
    alone = replace(references, folder=kept(references)[0].parent / "other")
    assert torch.equal(score(alone, tokens()[::-1])[0].chosen, turned.chosen)


def test_switched_labels_find_the_same_numbers(references: References) -> None:
    """So φ of switched labels is −φ to the last bit."""
    first, _ = score(references, tokens())
    other, origin = score(references, tuple(pair.switched() for pair in tokens()))
    assert origin == "cached"
    assert torch.equal(other.chosen, first.rejected)
    assert torch.equal(other.rejected, first.chosen)
    mixed = tuple(p.switched() if i % 2 else p for i, p in enumerate(tokens()))
    assert torch.equal(score(references, mixed)[0].chosen[1::2], first.rejected[1::2])


def test_other_content_is_computed(references: References, tmp_path: Path) -> None:
    score(references, tokens())
    changed = (*tokens()[:-1], TokenPair(array("i", [4]), array("i", [9]), array("i", [10, 2])))
    assert score(references, changed)[1] == "computed"
    assert score(references, tokens()[:-1])[1] == "computed"
    assert score(replace(references, rows=False), tokens())[1] == "computed"
    folder = worded.save(tmp_path / "other", tied=False)
    assert score(replace(references, base=resolve_base(str(folder))), tokens())[1] == "computed"
    assert len(kept(references)) == 5


def test_tails_that_count_less_are_kept_beside_the_whole(references: References) -> None:
    """LD-DPO: of 3 and 6 tokens the last three count for half in the loss."""
    model, pairs = load_model(references.base), tokens()
    found = replace(references, tail=0.5).score(model, pairs)
    halved = answer_log_probs(model, pairs, tail=0.5)
    whole = answer_log_probs(model, pairs)
    torch.testing.assert_close(found.trained.rejected, halved.rejected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.whole.rejected, whole.rejected, rtol=0, atol=1e-4)
    assert (found.trained.rejected > found.whole.rejected + 0.1).all()
    torch.testing.assert_close(found.trained.chosen, found.whole.chosen)
    assert score(references, pairs)[1] == "cached"


def test_reduced_precision_computes_as_training_does_and_is_kept_apart(
    references: References,
) -> None:
    exact, _ = score(references, tokens())
    reduced, origin = score(replace(references, precision="bfloat16"), tokens())
    assert origin == "computed"
    assert not torch.equal(reduced.chosen, exact.chosen)
    torch.testing.assert_close(reduced.chosen, exact.chosen, rtol=0.05, atol=0)


def test_another_configuration_of_the_same_weights_is_computed(
    references: References, tmp_path: Path
) -> None:
    folder = worded.save(tmp_path / "one")
    one = replace(references, base=resolve_base(str(folder)))
    score(one, tokens())
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-03"))
    assert "1e-03" in config.read_text()
    other = replace(references, base=resolve_base(str(folder)))
    assert other.base.fingerprint.weights == one.base.fingerprint.weights
    assert score(other, tokens())[1] == "computed"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_file_is_computed_again(references: References, damage: str) -> None:
    first, _ = score(references, tokens())
    [file] = kept(references)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    damaged = {"flipped": content, "cut": content[:-9], "empty": b"", "foreign": b"{" * 99}
    file.write_bytes(damaged[damage])
    again, origin = score(references, tokens())
    assert origin == "computed"
    assert torch.equal(again.chosen, first.chosen)
    assert score(references, tokens())[1] == "cached"


def test_a_folder_that_cannot_be_written_only_costs_time(
    references: References, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    closed = replace(references, folder=tmp_path / "file" / "references")
    assert [score(closed, tokens())[1] for _ in range(2)] == ["computed", "computed"]


def test_figures_that_are_not_finite_are_refused_and_not_kept(references: References) -> None:
    model = load_model(references.base)
    torch.nn.init.constant_(model.model.embed_tokens.weight, torch.nan)
    with pytest.raises(BaseModelError, match=r"NaN or infinity stands in '.*embed_tokens.weight'"):
        references.score(model, tokens())
    assert not references.folder or not references.folder.exists()


def _write(references: References, results: "multiprocessing.Queue[list[float]]") -> None:
    torch.set_num_threads(1)
    results.put(score(references, tokens())[0].chosen.tolist())


# A fork needs no second import of torch, and the children use one thread.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_write_at_once_agree(references: References) -> None:
    fork = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[float]] = fork.Queue()
    writers = [fork.Process(target=_write, args=(references, results)) for _ in range(3)]
    for writer in writers:
        writer.start()
    found = [results.get(timeout=120) for _ in writers]
    for writer in writers:
        writer.join()
    assert found[0] == found[1] == found[2]
    [file] = kept(references)
    assert file.suffix == ".safetensors"


def test_both_poles_and_another_seed_take_one_pass(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    def origins_of(axis: Axis, seed: int) -> dict[str, str]:
        stages: list[str] = []
        made = train(
            base=base,
            axis=axis,
            pairs=pairs,
            settings=Settings({**settings.values, "max_steps": 1}, frozenset()),
            seed=seed,
            keep_anyway=True,
            progress=lambda stage, *_: stages.append(stage),
        )
        origins: dict[str, str] = {pole: each.origin for pole, each in made.references.items()}
        computed = "computed" in origins.values()
        assert any(stage.startswith("reference") for stage in stages) == computed
        return origins

    assert origins_of(axis, 0) == {"positive": "computed", "negative": "switched"}
    assert origins_of(axis, 1) == {"positive": "cached", "negative": "switched"}
    own = replace(axis, switch=lambda pair: pair.switched())
    assert origins_of(own, 1) == {"positive": "cached", "negative": "switched"}

    def turn(pair: PreferencePair) -> PreferencePair:
        return replace(pair.switched(), chosen=pair.chosen, rejected=pair.rejected)

    other = replace(axis, switch=turn)
    assert origins_of(other, 1) == {"positive": "cached", "negative": "cached"}
