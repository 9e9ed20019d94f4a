from pathlib import Path

import pytest

from prefreg.errors import UsageError
from prefreg.training.settings import PRESETS, config_types, dpo_config, resolve_settings

DEFAULT = {"max_steps": 80, "learning_rate": 6e-5, "max_length": 160}


def test_the_users_word_beats_the_file_the_preset_and_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("learning_rate: 2e-6\nweight_decay: 0.1\nbeta: 0.3\n")
    made = resolve_settings(
        assignments=["beta=0.2"], config=file, preset="quick", default=DEFAULT
    ).values
    assert made["beta"] == 0.2
    assert made["learning_rate"] == 2e-6
    assert made["max_steps"] == PRESETS["quick"]["max_steps"]
    assert made["warmup_steps"] == 0.1


def test_a_mapping_says_what_assignments_say() -> None:
    made = resolve_settings(assignments={"max_steps": 20, "beta": 0.2})
    assert made == resolve_settings(assignments=["max_steps=20", "beta=0.2"])
    with pytest.raises(UsageError, match="Did you mean 'max_steps'"):
        resolve_settings(assignments={"max_stepz": 20})


def test_the_bases_default_lies_over_the_papers() -> None:
    made = resolve_settings(default=DEFAULT).values
    assert made["max_steps"] == 80
    assert made["adam_beta2"] == 0.95
    assert resolve_settings().values == PRESETS["paper"]


def test_the_paper_trains_128_pairs_a_step() -> None:
    paper = PRESETS["paper"]
    assert paper["per_device_train_batch_size"] * paper["gradient_accumulation_steps"] == 4 * 4 * 8


def test_epochs_replace_the_steps_of_a_lower_layer() -> None:
    made = resolve_settings(assignments=["num_train_epochs=3"], default=DEFAULT).values
    assert (made["num_train_epochs"], made["max_steps"]) == (3.0, -1)


def test_a_default_length_gives_way_to_the_context_and_a_given_one_does_not() -> None:
    assert resolve_settings(default=DEFAULT).max_length(100) == 100
    assert resolve_settings(default=DEFAULT).max_length(None) == 160
    assert resolve_settings(default=DEFAULT, max_length=120).max_length(100) == 120
    assert resolve_settings(assignments=["max_length=64"], max_length=64).max_length(100) == 64


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate=1e-6", "learning_rate", 1e-6),
        ("learning_rate=1", "learning_rate", 1.0),
        ("loss_type=[sigmoid, sft]", "loss_type", ["sigmoid", "sft"]),
        ("loss_type=ipo", "loss_type", ["ipo"]),
        ("optim=adafactor", "optim", "adafactor"),
        ("activation_checkpointing=true", "activation_checkpointing", True),
        ("gradient_checkpointing=true", "gradient_checkpointing", True),
        ("lr_scheduler_kwargs={num_cycles: 1}", "lr_scheduler_kwargs", {"num_cycles": 1}),
    ],
)
def test_values_are_yaml(text: str, name: str, value: object) -> None:
    assert resolve_settings(assignments=[text]).values[name] == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_steps", "'max_steps' is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("beta=[", "is not YAML"),
        ("learnig_rate=1", "no setting 'learnig_rate'. Did you mean 'learning_rate'?"),
        ("xyzzy=1", "no setting 'xyzzy'."),
        ("max_steps=1.5", "max_steps=1.5 is not a whole number"),
        ("max_steps=true", "max_steps=True is not a whole number"),
        ("beta=high", "beta='high' is not a number"),
        ("disable_dropout=1", "is not true or false"),
        ("learning_rate=nan", "is not finite"),
        ("learning_rate=0", "must be above zero"),
        ("max_steps=0", "must be at least 1"),
        ("max_length=1", "leaves no room"),
        ("adam_beta1=1.0", "must lie in [0, 1)"),
        ("lr_scheduler_type=foo", "DPOConfig refuses these settings: foo is not a valid"),
        ("output_dir=x", "'output_dir' is prefreg's own setting: nothing but the vector"),
        ("report_to=wandb", "prefreg records every step"),
        ("precompute_ref_log_probs=true", "one reference pass serves both poles"),
        ("seed=3", "it follows from `seed=`"),
        ("save_steps=3", "nothing but the vector is kept"),
        ("truncation_mode=keep_end", "prefreg writes the tokens itself"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(assignments=[text])
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cpu_takes_bfloat16_and_no_float16() -> None:
    made = resolve_settings(assignments=["bf16=true", "use_cpu=true"])
    assert made.values["bf16"] is True
    assert dpo_config(made, output_dir="unused", seed=0, max_length=8).bf16 is True
    with pytest.raises(UsageError, match="a CPU trains in float32, or in bfloat16"):
        resolve_settings(assignments=["fp16=true", "use_cpu=true"])


def test_contrastive_fine_tuning_fixes_the_loss_and_takes_no_setting_of_preferences() -> None:
    made = resolve_settings(poles="sft", default={**DEFAULT, "beta": 0.3})
    assert made.values["loss_type"] == ["sft"]
    assert made.values["beta"] == 0.3
    with pytest.raises(UsageError, match="leave 'beta', 'loss_type' out"):
        resolve_settings(poles="sft", assignments=["beta=0.2", "loss_type=ipo"])


def test_two_lengths_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        resolve_settings(assignments=["max_length=64"], max_length=32)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no preset 'papers'\. There are: paper, quick"):
        resolve_settings(preset="papers")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"- 1", "not a YAML mapping"), (b"a: [", "is not YAML"), (b"\xff", "cannot be read")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"settings.yaml {reason}|settings.yaml is {reason}"):
        resolve_settings(config=file)


def test_a_missing_file_is_named_and_an_empty_one_sets_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*none\.yaml"):
        resolve_settings(config=tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert resolve_settings(config=tmp_path / "empty.yaml").values == PRESETS["paper"]


def test_every_preset_uses_settings_that_dpo_config_has() -> None:
    known = set(config_types())
    for preset in PRESETS.values():
        assert set(preset) <= known
    assert set(PRESETS["paper"]) == set(PRESETS["quick"])


@pytest.mark.parametrize(
    ("assignments", "preset", "batch", "accumulated"),
    [
        (["per_device_train_batch_size=16"], "paper", 16, 8),
        (["gradient_accumulation_steps=2"], "paper", 64, 2),
        (["per_device_train_batch_size=24"], "paper", 24, 5),  # 120 pairs are next to 128
        (["per_device_train_batch_size=500"], "paper", 500, 1),
        (["per_device_train_batch_size=4"], "quick", 4, 4),
        (["per_device_train_batch_size=16", "gradient_accumulation_steps=1"], "paper", 16, 1),
        (["max_steps=5"], "paper", 4, 32),
    ],
)
def test_a_step_keeps_its_pairs_unless_both_numbers_are_given(
    assignments: list[str], preset: str, batch: int, accumulated: int
) -> None:
    made = resolve_settings(assignments=assignments, preset=preset).values
    found = made["per_device_train_batch_size"], made["gradient_accumulation_steps"]
    assert found == (batch, accumulated)
