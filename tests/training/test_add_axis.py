import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

import prefreg
import worded
from prefreg.checkpoints import resolve_base
from prefreg.errors import AxisError, BaseModelError, DataError
from prefreg.evaluation.pole_curves import plot_version
from prefreg.registry import Access, VersionRecord
from prefreg.training.add_axis import own_defaults, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import find_stored

FAST = ("per_device_train_batch_size=8", "gradient_accumulation_steps=1", "learning_rate=1e-3")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(worded.save(tmp_path / "base"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"is the {word} {thing} ", "chosen": "it is red", "rejected": f"a {word}"}
        for word in worded.WORDS
        for thing in ("boat", "house")
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def add(tmp_path: Path, base: str, data: str, **options: Any) -> VersionRecord:
    settings = (*FAST, "max_steps=4", *options.pop("settings", ()))
    return prefreg.open(tmp_path / "registry.db").add_axis(
        "verbosity", base=base, data=data, settings=settings, keep_anyway=True, **options
    )


def test_what_was_cut_is_told_and_recorded(tmp_path: Path, base: str, data: str) -> None:
    notes: list[str] = []
    record = add(tmp_path, base, data, max_length=12, tell=notes.append)
    audit = record.metadata["data"]["audit"]
    assert audit["truncated"] == audit["pairs"] - audit["indistinct"] > 0
    assert any(f"{audit['truncated']} were cut, 0 left out" in note for note in notes)
    assert record.metadata["data"]["too_long"] == "truncate"


def test_long_pairs_can_be_refused(tmp_path: Path, base: str, data: str) -> None:
    with pytest.raises(DataError, match="pairs are longer than 12 tokens"):
        add(tmp_path, base, data, max_length=12, too_long="refuse")
    assert not (tmp_path / "registry.db").exists()


def test_a_base_whose_weights_could_not_be_stored_is_not_trained(
    tmp_path: Path, base: str, data: str
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "more"))
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "more.weight": torch.ones(2)}, folder / "model.safetensors")
    registry = prefreg.open(tmp_path / "registry.db")
    for step in (registry.preview_axis, registry.plan_axis, registry.add_axis):
        with pytest.raises(BaseModelError, match=r"it alone has 'more\.weight'.*not supported yet"):
            step("verbosity", base=str(folder), data=data, settings=FAST)


def test_a_version_of_another_configuration_is_not_found_again(
    tmp_path: Path, base: str, data: str
) -> None:
    def found(folder: Path) -> VersionRecord | None:
        settings = (*FAST, "max_steps=4")
        request = AxisRequest("verbosity", base=str(folder), data=data, settings=settings)
        return find_stored(Access(tmp_path / "registry.db"), prepare(Access(), request))

    add(tmp_path, base, data)
    folder = Path(shutil.copytree(base, tmp_path / "edited"))
    assert str(found(folder)) == "verbosity@1"
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    assert found(folder) is None


def test_a_checkpoint_as_a_pole_stands_in_the_record(tmp_path: Path, base: str, data: str) -> None:
    first = add(tmp_path, base, data)
    registry = prefreg.open(tmp_path / "registry.db")
    pole = tmp_path / "pole"
    registry.compose(["verbosity:0.5"], pole)
    notes: list[str] = []
    second = add(tmp_path, base, data, plus=str(pole), tell=notes.append)
    found = second.metadata["poles"]["positive"]
    assert (found["kind"], found["curve"]) == ("checkpoint", [])
    assert found["checkpoint"]["name"] == "pole"
    assert len(found["checkpoint"]["weights"]) == 64
    assert "kind" not in second.metadata["poles"]["negative"]
    assert (
        first.metadata["poles"]["negative"]["curve"]
        == (second.metadata["poles"]["negative"]["curve"])
    )
    assert any("only the other one is trained" in note for note in notes)
    plan = registry.plan_axis("verbosity", base=base, data=data, plus=str(pole), settings=FAST)
    assert plan.poles == 1


def test_the_same_run_is_not_stored_twice_unless_it_is_asked_for(
    tmp_path: Path, base: str, data: str
) -> None:
    notes: list[str] = []
    first = add(tmp_path, base, data)
    assert add(tmp_path, base, data, tell=notes.append) == first
    assert any("verbosity@1 is there already" in note and "--again" in note for note in notes)
    assert not any("Each pole" in note for note in notes)
    again = add(tmp_path, base, data, again=True)
    assert (again.number, again.sha256) == (2, first.sha256)
    others = [add(tmp_path, base, data, dtype="bfloat16"), add(tmp_path, base, data, seed=1)]
    assert [each.number for each in others] == [3, 4]
    unwatched = add(tmp_path, base, data, watch=False)
    stricter = add(tmp_path, base, data, guards=["accuracy=0.6"])
    unasked = add(tmp_path, base, data, answers=0)
    assert [each.number for each in (unwatched, stricter, unasked)] == [5, 6, 7]
    assert add(tmp_path, base, data, watch=False) == unwatched


def test_a_run_that_leaves_a_setting_out_is_not_one_that_set_it(
    tmp_path: Path, base: str, data: str
) -> None:
    giving = add(tmp_path, base, data, poles="sft", answers=0)
    assert giving.metadata["training"]["poles"] == "sft"
    assert giving.metadata["training"]["settings"]["loss_type"] == ["sft"]
    assert {point["margin"] for point in giving.metadata["poles"]["negative"]["curve"]} == {None}
    plot_version(giving, tmp_path / "giving.png")
    assert add(tmp_path, base, data, poles="sft", answers=0) == giving
    preferring = add(tmp_path, base, data, answers=0)
    assert (preferring.number, preferring.metadata["training"]["poles"]) == (2, "dpo")
    assert add(tmp_path, base, data, answers=0, settings=["loss_type=sigmoid"]) == preferring


def test_the_schedule_is_told_and_warned_of_before_anything_is_trained(
    tmp_path: Path, base: str, data: str
) -> None:
    notes: list[str] = []
    record = add(tmp_path, base, data, settings=["learning_rate=1e-6"], tell=notes.append)
    assert any(note.startswith("Each pole: 4 steps of 8 pairs, 32 pairs, ") for note in notes)
    assert any("move a weight by 4e-06 at most" in note for note in notes)
    for pole in record.metadata["poles"].values():
        assert [each["figure"] for each in pole["warnings"]] == ["unchanged"]


def test_experts_that_memory_fuses_are_trained_and_stored_apart(tmp_path: Path, data: str) -> None:
    config = MixtralConfig(
        vocab_size=len(worded.tokenizer()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    base = tmp_path / "mixture"
    MixtralForCausalLM(config).save_pretrained(base)
    worded.tokenizer().save_pretrained(base)
    record = add(tmp_path, str(base), data, answers=0)
    registry, expert = prefreg.open(tmp_path / "registry.db"), "block_sparse_moe.experts.1.w3"
    registry.compose({record.axis: 0.5}, tmp_path / "out")
    before, after = (load_file(each / "model.safetensors") for each in (base, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert f"model.layers.0.{expert}.weight" in changed
    turned = registry.load(terms={record.axis: 0.5}, base=str(base)).model.state_dict()
    loaded = MixtralForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(turned[name], loaded[name]) for name in loaded)


def tone(**training: Any) -> prefreg.Axis:
    return prefreg.Axis(
        "tone", "How it sounds.", {"none": lambda _: []}, lambda _: None, training=training
    )


def test_an_axis_says_how_it_is_trained_on_a_base_and_gives_way_to_what_is_asked() -> None:
    axis, base = tone(pocket={"poles": "sft", "max_steps": 3}), resolve_base("pocket")
    others = dict(base.bundled.training) if base.bundled else {}

    def found(**asked: Any) -> tuple[str, dict[str, object]]:
        return own_defaults(AxisRequest("tone", **asked), axis, base, None)

    assert found() == found(poles="sft") == ("sft", {**others, "max_steps": 3})
    # What suits other poles does not suit these, and a preset is taken as it is.
    assert found(poles="dpo") == found(preset="quick") == ("dpo", others)
    notes: list[str] = []
    own_defaults(AxisRequest("tone"), axis, base, notes.append)
    assert notes == ["As tone has it on pocket by default: --poles sft, max_steps=3."]


def test_training_that_is_none_is_refused() -> None:
    with pytest.raises(AxisError, match="training of axis 'tone' is no mapping"):
        tone(pocket=["sft"])
    axis = tone(pocket={"poles": "ppo"})
    with pytest.raises(AxisError, match="has poles 'ppo' on pocket, not dpo or sft"):
        own_defaults(AxisRequest("tone"), axis, resolve_base("pocket"), None)
