import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.tensor_names import match_pole, on_disk_names, tied_copies, weight_shapes
from prefreg.errors import BaseModelError


def parameter_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint.open(folder)


@pytest.fixture
def old_gpt2(saved: Path, tmp_path: Path) -> Path:
    """Return a GPT-2 as the first checkpoints were: no prefix, with the masks of attention."""
    folder = Path(shutil.copytree(saved / "gpt2", tmp_path / "old"))
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 32, 32))
    rewrite(folder, bare)
    return folder


@pytest.mark.parametrize("kind", ["llama", "sharded", "tied", "gpt2"])
def test_names_of_a_saved_model_are_those_in_memory(saved: Path, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved / kind)
    shapes = parameter_shapes(model)
    names = on_disk_names(shapes, model.base_model_prefix, Checkpoint.open(saved / kind))
    assert names == {name: name for name in shapes}


def test_the_prefix_is_stripped_for_a_checkpoint_of_the_bare_model(old_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(old_gpt2)
    names = on_disk_names(parameter_shapes(model), "transformer", Checkpoint.open(old_gpt2))
    assert names["transformer.h.0.attn.c_attn.bias"] == "h.0.attn.c_attn.bias"
    assert "h.0.attn.bias" not in names.values()
    stored = load_file(old_gpt2 / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[names[name]])


def test_the_prefix_is_added_for_a_bare_model(saved: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved / "gpt2").transformer
    names = on_disk_names(parameter_shapes(model), "transformer", Checkpoint.open(saved / "gpt2"))
    assert names["wte.weight"] == "transformer.wte.weight"


def test_a_stored_copy_of_tied_embeddings_is_no_weight_of_its_own(
    saved: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved / "tied", tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    checkpoint = rewrite(folder, {**tensors, "lm_head.weight": embeddings.clone()})
    assert tied_copies(checkpoint) == {"lm_head.weight": "model.embed_tokens.weight"}
    model = AutoModelForCausalLM.from_pretrained(folder)
    names = on_disk_names(parameter_shapes(model), "model", checkpoint)
    assert "lm_head.weight" not in names.values()

    apart = rewrite(folder, {**tensors, "lm_head.weight": embeddings + 1})
    assert tied_copies(apart) == {}
    assert "lm_head.weight" in weight_shapes(apart)


def test_tied_copies_are_found_among_many_each_read_once(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(saved / "tied", tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    shape = tensors["model.embed_tokens.weight"].shape
    for place in range(40):
        tensors[f"a{place}.wte.weight"] = torch.full(shape, float(place))
        tensors[f"b{place}.lm_head.weight"] = torch.full(shape, float(2 * place))
    checkpoint = rewrite(folder, tensors)
    opened = Counter[str]()
    really = Path.open

    def counted(self: Path, *args: Any, **options: Any) -> Any:
        opened[self.name] += 1
        return really(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    copies = tied_copies(checkpoint)
    assert copies == {f"b{place}.lm_head.weight": f"a{2 * place}.wte.weight" for place in range(20)}
    assert opened == {"model.safetensors": 81}


def test_equal_weights_of_an_untied_model_stay_two(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "llama", tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    assert tied_copies(rewrite(folder, tensors)) == {}


def test_names_without_a_partner_are_listed(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved / "llama")
    shapes = weight_shapes(checkpoint)
    del shapes["lm_head.weight"]
    shapes["model.norm.weight"] = (31,)
    shapes["model.extra.weight"] = (1,)
    with pytest.raises(BaseModelError) as caught:
        on_disk_names(shapes, "model", checkpoint)
    message = str(caught.value)
    assert "it lacks 'model.extra.weight'" in message
    assert "it alone has 'lm_head.weight'" in message
    assert "of another shape are 'model.norm.weight [31] against [32]'" in message


def test_fused_experts_are_said_to_be_unsupported(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved / "llama")
    shapes = {**weight_shapes(checkpoint), "model.layers.0.mlp.experts.gate_up_proj": (2, 3, 4)}
    with pytest.raises(BaseModelError, match="stores other tensors than it trains; it is not supp"):
        on_disk_names(shapes, "model", checkpoint)


def test_two_parameters_cannot_share_a_stored_name(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved / "gpt2")
    shapes = weight_shapes(checkpoint)
    shapes["wte.weight"] = shapes["transformer.wte.weight"]
    with pytest.raises(BaseModelError, match="two parameters share one stored name"):
        on_disk_names(shapes, "transformer", checkpoint)


def test_a_saved_pole_finds_the_names_of_an_old_base(old_gpt2: Path, saved: Path) -> None:
    base, pole = Checkpoint.open(old_gpt2), Checkpoint.open(saved / "gpt2")
    assert match_pole(pole, base)["wte.weight"] == "transformer.wte.weight"
    assert match_pole(pole, base).keys() == weight_shapes(base).keys()
    assert match_pole(base, pole)["transformer.wte.weight"] == "wte.weight"


def test_a_pole_of_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(BaseModelError, match="was not trained from"):
        match_pole(Checkpoint.open(saved / "gpt2"), Checkpoint.open(saved / "llama"))


def test_names_without_a_dot_need_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    checkpoint = rewrite(tmp_path, {"w": torch.zeros(2)})
    assert match_pole(checkpoint, checkpoint) == {"w": "w"}


def test_quantised_tensors_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    checkpoint = rewrite(
        tmp_path, {"a.weight": torch.zeros(2, dtype=torch.int8), "a.scale": torch.ones(1)}
    )
    assert weight_shapes(checkpoint) == {"a.scale": (1,)}
    with pytest.raises(BaseModelError, match=r"it lacks 'a\.weight'"):
        on_disk_names({"a.weight": (2,), "a.scale": (1,)}, "model", checkpoint)


@pytest.mark.parametrize(
    "packed",
    [
        {"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)},
        {"a.qweight": torch.zeros(2, 2, dtype=torch.int32)},
    ],
)
def test_a_pole_that_is_quantised_without_saying_so_is_refused(
    tmp_path: Path, packed: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    checkpoint = rewrite(tmp_path, {"norm.weight": torch.ones(2), **packed})
    with pytest.raises(BaseModelError, match="holds quantised weights: 'a"):
        match_pole(checkpoint, checkpoint)


def test_a_pole_of_many_names_is_matched_in_time(tmp_path: Path) -> None:
    """Once each first part of a name was tried on all names."""
    (tmp_path / "config.json").write_text("{}")
    checkpoint = rewrite(tmp_path, {f"a{i}.w": torch.zeros(0) for i in range(5000)})
    other = replace(checkpoint, tensors=dict(list(checkpoint.tensors.items())[1:]))
    started = time.process_time()
    with pytest.raises(BaseModelError, match="was not trained from"):
        match_pole(checkpoint, other)
    assert time.process_time() - started < 5
