import hashlib
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.fingerprint import fingerprint
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.composition.rounding import Kept
from prefreg.errors import BaseModelError, VectorError

MakePlan = Callable[..., Plan]
KINDS = ["llama", "sharded", "bf16", "fp16"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


def rounded_to_bfloat16(values: numpy.ndarray) -> bytes:
    # To the nearest, ties to even, on the upper half of the bits.
    whole = values.view(numpy.uint32).astype(numpy.uint64)
    upper = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    return upper.astype(numpy.uint16).tobytes()


def reference_bits(plan: Plan, name: str) -> bytes:
    """Compose a tensor by the documented rule, with numpy and another rounding."""
    stored = weights(plan.base.path)[name]
    total = stored.float().numpy().copy()
    for term in sorted(plan.terms, key=lambda term: term.record.axis):
        if term.eta != 0:
            assert isinstance(term.source, Path)
            phi = load_file(term.source)[name].numpy()
            total = total + numpy.float32(term.eta) * phi
    if stored.dtype == torch.bfloat16:
        return rounded_to_bfloat16(total)
    return total.astype(numpy.float16 if stored.dtype == torch.float16 else total.dtype).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_eta_returns_the_base_bit_for_bit(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path, kind: str
) -> None:
    base = bases[kind]
    plan = make_plan(base, helpful=0.0, harmless=1e-60)
    composed = write_composition(plan, tmp_path / "out")
    for shard in base.checkpoint.shards:
        assert (tmp_path / "out" / shard).read_bytes() == (base.path / shard).read_bytes()
    assert fingerprint(Checkpoint.open(tmp_path / "out")) == base.fingerprint
    assert (composed.formula, composed.survival) == ("base", None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_the_reference_sum_byte_for_byte(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path, kind: str
) -> None:
    plan = make_plan(bases[kind], verbosity=-0.3, helpful=1.0, harmless=0.5)
    write_composition(plan, tmp_path / "out")
    for name, tensor in weights(tmp_path / "out").items():
        assert bits(tensor) == reference_bits(plan, name), name


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_the_output_and_answers_as_in_memory(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path, kind: str
) -> None:
    base = bases[kind]
    plan = make_plan(base, helpful=1.0, verbosity=-0.5)
    write_composition(plan, tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    in_memory = AutoModelForCausalLM.from_pretrained(base.path)
    in_memory.load_state_dict(tiny.compose_state(plan), strict=False)
    tokens = torch.tensor([[1, 5, 9, 33]])
    assert written.dtype == in_memory.dtype
    assert torch.equal(written(tokens).logits, in_memory(tokens).logits)
    original = AutoModelForCausalLM.from_pretrained(base.path)
    assert not torch.equal(written(tokens).logits, original(tokens).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_weights_is_copied_byte_for_byte(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path, kind: str
) -> None:
    plan = make_plan(bases[kind], helpful=1.0)
    composed = write_composition(plan, tmp_path / "out", hashed=True)
    before, after = files(bases[kind].path), files(tmp_path / "out")
    assert after.keys() == before.keys() | {"prefreg.json", "README.md"}
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        assert after[name] == before[name]
    assert composed.files == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in after.items()
        if name not in ("prefreg.json", "README.md")
    }


def test_equal_plans_give_equal_folders_whatever_the_order_of_terms(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["bf16"], helpful=1.0, harmless=0.5, verbosity=-0.3)
    shuffled = list(plan.terms)
    random.Random(1).shuffle(shuffled)
    write_composition(plan, tmp_path / "one")
    write_composition(Plan(plan.base, shuffled), tmp_path / "other")
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_inline_vectors_give_what_files_give(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["bf16"], helpful=1.0)
    (term,) = plan.terms
    assert isinstance(term.source, Path)
    inline = PlannedTerm(term.record, term.eta, term.source.read_bytes())
    write_composition(plan, tmp_path / "one")
    write_composition(Plan(plan.base, [inline]), tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("kind", ["sharded", "llama"])
def test_sharding_changes_no_weight(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path, kind: str
) -> None:
    plan = make_plan(bases[kind], helpful=1.0)
    write_composition(plan, tmp_path / "one")
    write_composition(plan, tmp_path / "cut", max_shard_size="20KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == 3
    shards = [Checkpoint.open(tmp_path / name) for name in ("one", "cut")]
    assert fingerprint(shards[0]).weights == fingerprint(shards[1]).weights
    AutoModelForCausalLM.from_pretrained(tmp_path / "cut")


def test_another_dtype_is_rounded_from_the_float32_sum(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["llama"], helpful=1.0, harmless=0.3)
    composed = write_composition(plan, tmp_path / "out", dtype="bfloat16")
    exact = tiny.compose_state(plan, dtype="float32")
    for name, tensor in weights(tmp_path / "out").items():
        assert torch.equal(tensor, exact[name].bfloat16())
    before = json.loads((bases["llama"].path / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after == {**before, "dtype": "bfloat16"}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert composed.survival is not None
    assert 0.9 < composed.survival.gain < 1.1


def test_the_dtype_of_the_base_leaves_its_configuration_alone(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(bases["bf16"], helpful=1.0)
    write_composition(plan, tmp_path / "one")
    write_composition(plan, tmp_path / "two", dtype="bf16")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {name for name in one if one[name] != two[name]} == {"prefreg.json", "README.md"}


def test_a_legacy_dtype_key_is_changed_in_place(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(tied=False), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    config["torch_dtype"] = "float32"
    config["text_config"] = {"torch_dtype": "float32", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    write_composition(Plan(resolve_base(str(folder)), []), tmp_path / "out", dtype="float16")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (after["torch_dtype"], after["text_config"]["torch_dtype"]) == ("float16", "float16")
    assert "dtype" not in after


def test_both_copies_of_tied_embeddings_move_together(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama(tied=True), tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    base = resolve_base(str(folder))
    phi = tiny.random_phi(base, seed=0)
    assert "lm_head.weight" not in phi
    term = PlannedTerm(tiny.record("helpful", base), 1.0, tiny.store(phi, tmp_path / "phi"))
    write_composition(Plan(base, [term]), tmp_path / "out")
    after = weights(tmp_path / "out")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(after["lm_head.weight"], tensors["lm_head.weight"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings


def mixed_base(folder: Path, **tensors: torch.Tensor) -> BaseModel:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "none"}')
    return resolve_base(str(folder))


def one_term(base: BaseModel, path: Path, eta: float = 1.0, **phi: torch.Tensor) -> Plan:
    return Plan(base, [PlannedTerm(tiny.record("helpful", base), eta, tiny.store(phi, path))])


def test_tensors_without_a_vector_pass_through_untouched(tmp_path: Path) -> None:
    base = mixed_base(
        tmp_path / "base",
        w=torch.ones(2),
        frozen=torch.tensor([math.nan, -0.0]),
        packed=torch.tensor([1, -2], dtype=torch.int8),
        scale=torch.ones(2).to(torch.float8_e4m3fn),
    )
    write_composition(one_term(base, tmp_path / "phi", w=torch.ones(2)), tmp_path / "out")
    before, after = weights(base.path), weights(tmp_path / "out")
    assert after["w"].tolist() == [2.0, 2.0]
    for name in ("frozen", "packed", "scale"):
        assert bits(after[name]) == bits(before[name])


def test_a_vector_on_quantised_weights_is_refused(tmp_path: Path) -> None:
    base = mixed_base(tmp_path / "base", w=torch.tensor([1, 2], dtype=torch.int8))
    with pytest.raises(VectorError, match="the base is quantised or holds integers in 'w'"):
        write_composition(one_term(base, tmp_path / "phi", w=torch.ones(2)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_of_infinities_is_not_blamed_on_the_vector(tmp_path: Path) -> None:
    base = mixed_base(tmp_path / "base", w=torch.tensor([1.0, math.inf]))
    with pytest.raises(BaseModelError, match="'w' of the base holds NaN or infinity"):
        write_composition(one_term(base, tmp_path / "phi", w=torch.ones(2)), tmp_path / "out")


def test_an_overflow_is_refused_in_memory_and_on_disk(tmp_path: Path) -> None:
    base = mixed_base(tmp_path / "base", w=torch.tensor([1.0, 3e38]))
    plan = one_term(base, tmp_path / "phi", 1e38, w=torch.ones(2))
    with pytest.raises(VectorError, match="'w' overflows float32"):
        write_composition(plan, tmp_path / "out")
    with pytest.raises(VectorError, match="'w' overflows float32"):
        tiny.compose_state(plan)
    assert not (tmp_path / "out").exists()


def test_large_tensors_are_composed_block_by_block(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 100_001, generator=generator).bfloat16()
    phi = torch.randn(3, 100_001, generator=generator) * 0.01
    plan = one_term(mixed_base(tmp_path / "base", w=w), tmp_path / "phi", 0.3, w=phi)
    write_composition(plan, tmp_path / "out")
    assert bits(weights(tmp_path / "out")["w"]) == reference_bits(plan, "w")
    assert torch.equal(weights(tmp_path / "out")["w"], tiny.compose_state(plan)["w"])


def test_changes_below_the_rounding_are_reported(tmp_path: Path) -> None:
    # A hundredth of the step of bfloat16 at 1 leaves nothing.
    base = mixed_base(tmp_path / "base", w=torch.ones(8, dtype=torch.bfloat16))
    plan = one_term(base, tmp_path / "phi", w=torch.full((8,), 2.0**-14))
    composed = write_composition(plan, tmp_path / "out")
    assert composed.survival is not None
    assert composed.survival.total == Kept(changed=0.0, gain=0.0, norm_ratio=0.0, cosine=0.0)
    assert not composed.survival.faithful
    assert "or a wider dtype is nearer to the request" in (tmp_path / "out/README.md").read_text()


def test_survival_is_measured_against_the_base_in_the_same_dtype(tmp_path: Path) -> None:
    # bfloat16 makes 1 of 1 + 2⁻¹⁰; the requested step of 2⁻⁷ arrives whole.
    base = mixed_base(tmp_path / "base", w=torch.full((4,), 1 + 2.0**-10))
    plan = one_term(base, tmp_path / "phi", w=torch.full((4,), 2.0**-7))
    composed = write_composition(plan, tmp_path / "out", dtype="bfloat16")
    assert composed.survival is not None
    assert composed.survival.total == Kept(changed=1.0, gain=1.0, norm_ratio=1.0, cosine=1.0)


def test_the_recipe_tells_all_that_went_in(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    base = bases["llama"]
    plan = make_plan(base, helpful=1.0, verbosity=-0.3, harmless=0.0)
    composed = write_composition(plan, tmp_path / "out", hashed=True)
    assert composed.survival is not None
    assert composed.files is not None
    assert json.loads((tmp_path / "out" / "prefreg.json").read_text()) == {
        "schema": 1,
        "formula": "base + 1·helpful@1 - 0.3·verbosity@1",
        "method": "linear",
        "options": {},
        "rule": "Σ ηᵢ·φᵢ",
        "dtype": None,
        "max_shard_size": None,
        "rounding": {"kind": "nearest", "seed": 0},
        "base": {
            "name": base.name,
            "revision": None,
            "weights": base.fingerprint.weights,
            "tokenizer": base.fingerprint.tokenizer,
            "template": base.fingerprint.template,
        },
        "terms": [
            {"axis": axis, "version": 1, "eta": eta, "rules": [], "sha256": f"{1:064x}"}
            for axis, eta in [("harmless", 0.0), ("helpful", 1.0), ("verbosity", -0.3)]
        ],
        "licences": {
            "parts": [
                {"what": what, "licence": None, "gated": False, "concerns": ["unknown"]}
                for what in (
                    "base llama",
                    "what helpful@1 was made of",
                    "what verbosity@1 was made of",
                )
            ],
            "warnings": {
                "unknown": "not recorded: base llama, what helpful@1 was made of, what "
                "verbosity@1 was made of"
            },
        },
        "survival": composed.survival.to_json(),
        "files": composed.files,
        "contents": sorted({*composed.files, "README.md"}),
    }


def test_the_card_is_one_the_hub_reads_and_tells_no_path(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    base = bases["llama"]
    composed = write_composition(make_plan(base, helpful=1.0), tmp_path / "out", hashed=True)
    assert composed.files is not None
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model_relation": "merge",
        "tags": ["prefreg", "preference-vectors", "merge"],
    }
    assert card.text.startswith("\n# base + 1·helpful@1\n")
    assert base.fingerprint.weights in card.text
    assert composed.files["model.safetensors"] in card.text
    assert str(base.path.parent) not in card.text


def test_the_card_names_a_base_of_the_hub(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    local = bases["llama"]
    base = BaseModel("org/tiny", "0" * 40, local.path, local.fingerprint, local.checkpoint)
    write_composition(Plan(base, []), tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "org/tiny"
    assert "Base: `org/tiny@000000000000`" in card.text


def test_the_card_inherits_the_licence_of_the_base(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bases["llama"].path, tmp_path / "base"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: a\n---\n# Base\n")
    write_composition(Plan(resolve_base(str(folder)), []), tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.license_link) == ("apache-2.0", "a")
    endless = "---\nlicense: mit\nmore: [" + "1, " * 200_000
    for place, broken in enumerate(
        ["---\n: : [\n", endless + "]\n---\n", "---\na: !!int x\n---\n"]
    ):
        (folder / "README.md").write_text(broken)
        write_composition(Plan(resolve_base(str(folder)), []), tmp_path / f"{place}")
        assert ModelCard.load(tmp_path / f"{place}" / "README.md").data.license is None


def test_progress_ends_with_every_byte_written(
    bases: dict[str, BaseModel], make_plan: MakePlan, tmp_path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []
    write_composition(
        make_plan(bases["bf16"], helpful=1.0),
        tmp_path / "out",
        progress=lambda *call: calls.append(call),
    )
    total = 2 * bases["bf16"].fingerprint.parameters
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert calls[-1][1:] == (total, total)
    assert {call[0] for call in calls} == set(bases["bf16"].checkpoint.tensors)
