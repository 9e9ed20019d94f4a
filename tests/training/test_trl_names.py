"""The names of trl and transformers that are not public, or whose inside prefreg relies on.

trl may rename them in any minor version, so that it is capped below the next one. Each has a test
that fails when the name goes or comes to mean something else.
"""

import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import FusedCausalLMOutput, disable_dropout_in_model

import worded
from prefreg.data.tokens import tokenise_pairs
from prefreg.models.log_probs import answer_log_probs
from prefreg.training.settings import dpo_config, resolve_settings
from prefreg.training.trainer import PairTrainer, pair_dataset, write_rows

Examples = list[dict[str, Any]]
FILLED = {"log_probs", "log_sum_sq_probs", "entropy", "mean_logits", "is_top1"}
"""What the trainer fills in of the output of trl's fused head."""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> PairTrainer:
    model = worded.llama()
    pairs = tokenise_pairs(worded.pairs(6), worded.tokenizer(), max_length=48).pairs
    settings = resolve_settings(assignments=["per_device_train_batch_size=2", "max_steps=1"])
    folder = str(tmp_path_factory.mktemp("trainer"))
    return PairTrainer(
        model=model,
        args=dpo_config(settings, output_dir=folder, seed=0, max_length=48),
        train_dataset=pair_dataset(pairs, answer_log_probs(worded.llama(seed=1), pairs)),
        processing_class=worded.tokenizer(),
    )


@pytest.fixture
def examples(trainer: PairTrainer) -> Examples:
    return [trainer.train_dataset[place] for place in range(4)]


@pytest.fixture
def batch(examples: Examples) -> dict[str, Any]:
    found: dict[str, Any] = DataCollatorForPreference(pad_token_id=0)(examples)
    return found


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_prepare_dataset", ["self", "dataset", "processing_class", "args", "dataset_name"]),
        ("_precompute_ref_logps", ["self", "dataset", "name", "batch_size"]),
    ],
)
def test_methods_that_are_overridden_are_called_with_the_data_set(
    name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(DPOTrainer, name)).parameters) == parameters
    assert f"self.{name}(" in inspect.getsource(DPOTrainer.__init__)


def test_checkpoints_would_get_a_card_from_the_method_that_is_overridden() -> None:
    assert "self.create_model_card(" in inspect.getsource(DPOTrainer._save_checkpoint)


def test_figures_gather_by_name_one_a_batch_until_they_are_logged(
    trainer: PairTrainer, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_metrics` is exchanged for every part, and each figure is the mean of what gathers there."""
    kept: dict[str, list[float]] = defaultdict(list)
    monkeypatch.setitem(trainer._metrics, "train", kept)
    trainer.model.train()
    DPOTrainer.compute_loss(trainer, trainer.model, batch)
    means = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
    means |= {"logps/chosen", "logps/rejected"}
    assert {name for name in kept if name.startswith(("rewards/", "logps/"))} == means
    assert all(len(values) == 1 for values in kept.values())
    kept["rewards/margins"] = [1.0, 2.0]
    logs: dict[str, float] = {}
    monkeypatch.setattr("transformers.Trainer.log", lambda self, logs, start: None)
    trainer.log(logs)
    assert logs["rewards/margins"] == 1.5
    assert not kept


def test_the_loss_reads_only_what_is_filled_in_of_the_fused_output() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    # The router's loss is for models that get trl's own batches.
    assert set(re.findall(r"\boutputs\.(\w+)", source)) == FILLED | {"aux_loss"}
    assert set(FusedCausalLMOutput.__dataclass_fields__) > FILLED


def test_the_loss_hands_the_model_whatever_else_a_batch_has(
    trainer: PairTrainer, batch: dict[str, Any]
) -> None:
    """So rows come through, and labels say which tokens are an answer's."""
    seen: dict[str, Any] = {}

    def model(**given: Any) -> FusedCausalLMOutput:
        seen.update(given)
        shape = given["labels"][:, 1:].shape
        nothing = torch.zeros(shape)
        return FusedCausalLMOutput(
            log_probs=nothing, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    loss = DPOTrainer.compute_loss(trainer, model, batch | {"rows": "ours"})
    assert torch.isfinite(loss)
    assert seen["rows"] == "ours"
    assert not {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"} & set(seen)
    answered = batch["completion_mask"] == 1
    assert (seen["labels"][answered] == batch["input_ids"][answered]).all()
    assert (seen["labels"][~answered] == -100).all()


def test_a_batch_of_rows_has_the_keys_of_trl_s(examples: Examples, batch: dict[str, Any]) -> None:
    rows = write_rows(examples)
    assert set(rows) == {*batch, "rows"}
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        torch.testing.assert_close(rows[name], batch[name])
    # First all chosen answers, then all rejected ones, as the loss takes them apart.
    assert rows["completion_mask"].sum(1).tolist() == batch["completion_mask"].sum(1).tolist()


def test_dropout_is_switched_off_as_trl_does() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    disable_dropout_in_model(model)
    assert model[1].p == 0
    assert "disable_dropout_in_model(model)" in inspect.getsource(DPOTrainer.__init__)


def test_weighting_is_known_to_the_trainer_by_its_name(trainer: PairTrainer) -> None:
    assert trainer.use_weighting is trainer.args.use_weighting is False


def test_labels_of_instructions_are_padded_with_what_no_loss_counts() -> None:
    collate = DataCollatorForLanguageModeling(pad_token_id=7)
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    batch = collate(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]


def test_checkpoints_lie_where_they_are_looked_for(tmp_path: Path) -> None:
    assert PREFIX_CHECKPOINT_DIR == "checkpoint"


@pytest.mark.parametrize(
    ("name", "parameters", "caller"),
    [
        ("_save_checkpoint", ["self", "model", "trial"], "_maybe_log_save_evaluate"),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"], "train"),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"], "_prepare_for_training"),
        ("_save_rng_state", ["self", "output_dir"], "_save_checkpoint"),
        ("_save_scaler", ["self", "output_dir"], "_save_checkpoint"),
    ],
)
def test_checkpoints_are_saved_and_loaded_by_these_methods(
    name: str, parameters: list[str], caller: str
) -> None:
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters
    assert f"self.{name}(" in inspect.getsource(getattr(Trainer, caller))


def test_models_are_hashed_by_a_name_that_can_be_exchanged() -> None:
    assert "hash_module(self.ref_model or self.model)" in inspect.getsource(DPOTrainer.__init__)
    assert callable(inspect.getmodule(DPOTrainer).hash_module)  # type: ignore[union-attr]
