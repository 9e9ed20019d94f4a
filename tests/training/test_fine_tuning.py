import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefreg
import worded
from prefreg.checkpoints import resolve_base
from prefreg.errors import (
    BaseModelError,
    DataError,
    OutputError,
    PrefregError,
    TrainingError,
    UsageError,
)
from prefreg.training.axis_request import SFTRequest
from prefreg.training.fine_tuning import SFTResult
from prefreg.training.settings import config_types
from prefreg.training.sft_trainer import SFT

FAST = ("max_steps=12", "learning_rate=3e-3", "warmup_steps=0.0")


def rows() -> list[dict[str, str]]:
    things, hues = ["boat", "house", "tree", "sky"], ["red", "blue", "green"]
    return [
        {"instruction": f"what is the colour of the {size} {thing} ?", "output": f"it is {hue} ."}
        for thing in things
        for size in ("big", "old", "a", "it")
        for hue in hues[: 1 + (thing == "sky")]
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return worded.save(tmp_path / "raw", template=None)


def tune(data: Path, output: str = "tuned", **options: Any) -> SFTResult:
    """Fine-tune with settings under which a tiny model moves within a second."""
    options = {"preset": "quick", "settings": FAST, "max_length": 48} | options
    registry = prefreg.open(data.parent / "registry.db")
    return registry.sft(SFTRequest(data.parent / output, data, **options))


def test_a_raw_model_learns_to_answer_and_becomes_the_last_base(raw: Path, data: Path) -> None:
    notes: list[str] = []
    registry = prefreg.open(data.parent / "registry.db")
    request = SFTRequest(data.parent / "tuned", data, base=str(raw), preset="quick", settings=FAST)
    found = registry.sft(request, tell=notes.append)
    loss = found.record["heldout_loss"]
    assert loss["after"] < 0.8 * loss["before"]
    assert [base.name for base in registry.bases()] == [str(data.parent / "tuned")]
    [base] = registry.bases()
    assert base.weights == found.identity.weights == found.record["weights"]
    assert base.weights != resolve_base(str(raw)).fingerprint.weights
    assert any("it gets a plain one" in note for note in notes)
    shown: list[str] = []
    preview = registry.preview_axis("verbosity", data=str(pairs(data.parent)), tell=shown.append)
    assert preview.base == base.name
    assert preview.renderings == ("chat",)
    assert shown[0].startswith(f"Base model: {base.name}")


def pairs(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    row = {"prompt": "is it red ?", "chosen": "yes", "rejected": "no"}
    turns = [{"role": "user", "content": row["prompt"]}]
    path.write_text(json.dumps(row | {"prompt": turns}) + "\n")
    return path


def test_the_folder_is_a_plain_checkpoint_with_its_record(raw: Path, data: Path) -> None:
    found = tune(data, base=str(raw))
    folder = data.parent / "tuned"
    record = json.loads((folder / "prefreg.json").read_text())
    assert record == found.record
    assert record["from"]["weights"] == resolve_base(str(raw)).fingerprint.weights
    assert record["chat_template"]["origin"] == "plain"
    assert record["data"]["audit"]["train"] + record["data"]["audit"]["heldout"] == 20
    assert record["training"]["settings"]["max_steps"] == record["training"]["steps"] == 12
    assert [point["step"] for point in record["curve"]] == list(range(1, 13))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = [{"role": "user", "content": "red ?"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert text == "<s>### User:\nred ?\n\n### Assistant:\n"
    assert (folder / "tokenizer.json").read_bytes() == (raw / "tokenizer.json").read_bytes()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(raw: Path, data: Path) -> None:
    weights = [
        tune(data, f"tuned-{run}", base=str(raw), seed=seed).identity.weights
        for run, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_the_models_own_template_and_dtype_are_kept(tmp_path: Path, data: Path) -> None:
    raw = worded.save(tmp_path / "raw")
    worded.llama().to(torch.bfloat16).save_pretrained(raw)
    found = tune(data, base=str(raw))
    assert found.record["chat_template"] == {"origin": "tokenizer", "file": None, "sha256": None}
    assert not (data.parent / "tuned" / "chat_template.jinja").exists() or (
        (raw / "chat_template.jinja").exists()
    )
    assert found.identity.dtype == "BF16"
    assert found.identity.template == resolve_base(str(raw)).fingerprint.template


def test_a_template_of_the_users_is_learnt_and_kept(raw: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(worded.TEMPLATE)
    found = tune(data, base=str(raw), chat_template=file)
    assert found.record["chat_template"]["origin"] == "file"
    assert (tmp_path / "tuned" / "chat_template.jinja").read_text() == worded.TEMPLATE
    assert AutoTokenizer.from_pretrained(tmp_path / "tuned").chat_template == worded.TEMPLATE


def test_plain_text_needs_no_template(raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(
            json.dumps({"prompt": f"the {word} ", "completion": "is red"}) + "\n"
            for word in worded.WORDS
        )
    )
    notes: list[str] = []
    request = SFTRequest(tmp_path / "tuned", data, base=str(raw), preset="quick", settings=FAST)
    found = prefreg.open(tmp_path / "r.db").sft(request, tell=notes.append)
    assert (found.record["chat_template"], found.record["data"]["renderings"]) == (None, ["text"])
    assert notes == []


def test_random_weights_of_a_configuration_are_a_start_too(raw: Path, data: Path) -> None:
    shutil.copytree(raw, raw.parent / "shape")
    (raw.parent / "shape" / "model.safetensors").unlink()
    one = tune(data, "one", from_config=raw.parent / "shape" / "config.json", preset=None)
    two = tune(data, "two", from_config=raw.parent / "shape", preset=None)
    assert one.identity.weights == two.identity.weights
    assert one.record["from"]["weights"] is None
    assert one.record["training"]["settings"]["weight_decay"] == 0.1  # that of scratch


def test_the_whole_text_is_learnt_where_that_is_asked_for(raw: Path, data: Path) -> None:
    answers = tune(data, "answers", base=str(raw))
    whole = tune(data, "whole", base=str(raw), settings=(*FAST, "completion_only_loss=false"))
    assert whole.record["curve"][0]["loss"] != pytest.approx(answers.record["curve"][0]["loss"])
    assert whole.record["heldout_loss"]["before"] == answers.record["heldout_loss"]["before"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"settings": ["beta=1"]}, UsageError, "SFTConfig has no setting 'beta'"),
        ({"settings": ["learnig_rate=1"]}, UsageError, "Did you mean 'learning_rate'"),
        ({"settings": ["packing=true"]}, UsageError, "'packing' is prefreg's own setting"),
        ({"settings": ["output_dir=x"]}, UsageError, "the model appears in the folder of -o"),
        ({"settings": ["max_steps=0"]}, UsageError, "must be at least 1"),
        ({"preset": "slow"}, UsageError, "There are: paper, quick, scratch"),
        ({"max_length": 49}, UsageError, "longer than the base model's context of 48"),
        ({"max_length": 3}, DataError, "No example of .* fits into 3 tokens"),
        ({"settings": ["max_steps=1"]}, TrainingError, "Training changed no weight of .*raw"),
        ({"base": None}, UsageError, "Give either `base=`"),
        ({"base": "/nowhere/at/all"}, BaseModelError, "There is no folder"),
        ({"data": Path("none.jsonl")}, DataError, "There is no data file none.jsonl"),
    ],
)
def test_what_cannot_work_is_said_and_leaves_nothing(
    raw: Path, data: Path, options: dict[str, Any], error: type[PrefregError], words: str
) -> None:
    before = sorted(data.parent.iterdir())
    wanted = {"base": str(raw), "data": data, "preset": "quick", "output": data.parent / "tuned"}
    with pytest.raises(error, match=words):
        prefreg.open(data.parent / "registry.db").sft(SFTRequest(**(wanted | options)))
    assert sorted(data.parent.iterdir()) == before


def test_a_folder_that_is_taken_is_left_alone(raw: Path, data: Path) -> None:
    (data.parent / "tuned").mkdir()
    (data.parent / "tuned" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"tuned is not empty\. Choose another folder\.$"):
        tune(data, base=str(raw))
    with pytest.raises(OutputError, match="contain one another"):
        tune(data, "raw", base=str(raw))


def test_an_interrupted_run_leaves_no_folder(raw: Path, data: Path) -> None:
    def stop(stage: str, step: int, total: int, loss: float | None = None, /) -> None:
        if loss is not None:
            raise KeyboardInterrupt

    before = sorted(data.parent.iterdir())
    request = SFTRequest(data.parent / "tuned", data, base=str(raw), preset="quick", settings=FAST)
    with pytest.raises(KeyboardInterrupt):
        prefreg.open(data.parent / "registry.db").sft(request, progress=stop)
    assert sorted(data.parent.iterdir()) == before


def test_what_prefreg_owns_exists_in_trls_configuration() -> None:
    """A renamed field would be open to the user in silence; `kept` ones are older names."""
    known = set(config_types(SFT))
    assert set(SFT.presets["paper"]) <= known
    for name in ("packing", "eos_token", "chat_template_path", "dataset_kwargs", "seed"):
        assert name in known
        assert SFT.refusal(name)


def test_generation_defaults_that_transformers_does_not_write_are_kept(
    raw: Path, data: Path
) -> None:
    defaults = {"do_sample": False, "temperature": 0.9}
    (raw / "generation_config.json").write_text(json.dumps(defaults | {"eos_token_id": 1}))
    config = raw / "config.json"  # where models of old have them
    config.write_text(json.dumps(json.loads(config.read_text()) | defaults))
    tune(data, base=str(raw))
    for name in ("config.json", "generation_config.json"):
        assert (data.parent / "tuned" / name).read_bytes() == (raw / name).read_bytes()


def test_a_configuration_of_quantised_weights_is_no_start(raw: Path, data: Path) -> None:
    config = raw / "config.json"
    quantised = {"quantization_config": {"quant_method": "gptq"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    with pytest.raises(BaseModelError, match=r"is a quantised model \(gptq\)"):
        tune(data, from_config=config)
