import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from prefreg.checkpoints.checkpoint import INDEX_FILE, Checkpoint, companions
from prefreg.errors import BaseModelError


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "sharded", tmp_path / "model"))


def edit_index(folder: Path, name: str, shard: object) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"][name] = shard
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_a_single_file_is_opened(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved / "llama")
    assert checkpoint.shards == ("model.safetensors",)
    assert not checkpoint.indexed
    assert checkpoint.tensors["lm_head.weight"].spec.shape == (64, 32)
    assert not checkpoint.tied


def test_shards_hold_together_what_a_single_file_holds(saved: Path) -> None:
    single, sharded = Checkpoint.open(saved / "llama"), Checkpoint.open(saved / "sharded")
    assert len(sharded.shards) > 2
    assert sharded.indexed
    assert sharded.tensors.keys() == single.tensors.keys()


def test_companions_are_the_tokenizer_and_the_generation_defaults(
    saved: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").touch()
    for name in ("README.md", "LICENSE", "train.log", "pytorch_model.bin", "vocab.json"):
        (folder / name).touch()
    assert [path.as_posix() for path in companions(folder)] == [
        "additional_chat_templates/rag.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({}, True),
        ({"text_config": {"tie_word_embeddings": False}}, False),
    ],
)
def test_a_head_counts_as_tied_unless_the_configuration_denies_it(
    tmp_path: Path, config: dict[str, object], tied: bool
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Checkpoint.open(tmp_path).tied is tied


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "model.bin", 3]
)
def test_an_index_may_name_only_files_in_its_folder(sharded: Path, shard: object) -> None:
    edit_index(sharded, "lm_head.weight", shard)
    with pytest.raises(BaseModelError, match="as a shard; a shard is a"):
        Checkpoint.open(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / Checkpoint.open(sharded).shards[1]).unlink()
    with pytest.raises(BaseModelError, match="lacks 'model-00002-of-0000"):
        Checkpoint.open(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    edit_index(sharded, "ghost.weight", Checkpoint.open(sharded).shards[0])
    with pytest.raises(BaseModelError, match=r"names 'ghost\.weight', which its shards lack"):
        Checkpoint.open(sharded)


def test_a_copy_in_a_shard_that_the_index_does_not_name_is_passed_over(sharded: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(1)}, sharded / "extra.safetensors")
    edit_index(sharded, "extra", "extra.safetensors")
    save_file(
        {"lm_head.weight": torch.zeros(1), "extra": torch.zeros(1)}, sharded / "extra.safetensors"
    )
    tensor = Checkpoint.open(sharded).tensors["lm_head.weight"]
    assert tensor.spec.shape == (64, 32)


def test_a_tensor_in_two_shards_and_not_in_the_index_is_refused(sharded: Path) -> None:
    for shard in ("x.safetensors", "y.safetensors"):
        save_file({shard: torch.zeros(1), "both": torch.zeros(1)}, sharded / shard)
        edit_index(sharded, shard, shard)
    with pytest.raises(BaseModelError, match="holds 'both' in two shards"):
        Checkpoint.open(sharded)


def test_folders_without_usable_weights_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"absent does not exist\. Name the folder"):
        Checkpoint.open(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(BaseModelError, match="is a file, not a folder"):
        Checkpoint.open(tmp_path / "file")
    with pytest.raises(BaseModelError, match="holds no weights"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        BaseModelError, match=r"'pytorch_model\.bin'; prefreg reads safetensors only"
    ):
        Checkpoint.open(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(BaseModelError, match="holds a LoRA adapter, not a model"):
        Checkpoint.open(tmp_path)


def test_the_configuration_must_be_there_and_be_json(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="is not JSON"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BaseModelError, match="not a JSON object"):
        Checkpoint.open(tmp_path)


def test_a_weight_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="without a single tensor"):
        Checkpoint.open(tmp_path)


def test_a_truncated_weight_file_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(BaseModelError, match="not a sound safetensors file"):
        Checkpoint.open(folder)


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"quant_method": "fp8"}},
        {"compression_config": {"quant_method": "fp8"}},
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
    ],
)
def test_a_quantised_model_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    configure(folder, **changes)
    with pytest.raises(BaseModelError, match=r"is a quantised model \(fp8\).* Use the unquantised"):
        Checkpoint.open(folder)


def test_code_is_a_companion_where_a_configuration_names_it(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    (folder / "modeling_small.py").touch()
    assert Path("modeling_small.py") not in companions(folder)
    configure(folder, auto_map={"AutoModelForCausalLM": "modeling_small.SmallForCausalLM"})
    assert Path("modeling_small.py") in companions(folder)


def test_every_file_that_a_tokenizer_of_transformers_is_made_of_is_a_companion(
    tmp_path: Path,
) -> None:
    models = Path(transformers.__file__).parent / "models"
    declared = "".join(path.read_text() for path in models.glob("*/tokenization_*.py"))
    tables = re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", declared, re.DOTALL)
    names = {name for table in tables for name in re.findall(r': "([^"]+)"', table)}
    assert {"tokenizer.json", "spiece.model", "source.spm", "bpe.codes"} <= names
    for name in names:
        (tmp_path / name).write_text("{}")
    assert {path.name for path in companions(tmp_path)} == names


def test_a_configuration_that_is_no_file_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(BaseModelError, match="no regular file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("layers", [-1, 10**6, 10**400])
def test_layers_without_end_are_refused(saved: Path, tmp_path: Path, layers: int) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(BaseModelError, match="layers, and the weights are"):
        Checkpoint.open(folder)
