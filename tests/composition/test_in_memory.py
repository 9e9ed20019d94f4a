"""Models with live dials, from the registry to the weights."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

import prefreg
import tiny
from prefreg import BaseModelError, RegistryError, Sampling, UsageError, VectorError, pocket
from prefreg.checkpoints import resolve_base
from prefreg.composition.in_memory import VectorShelf, make_dials
from prefreg.models.loading import load_model
from prefreg.registry import Access
from prefreg.terms import Term
from prefreg.vectors.tensors import MemoryTensors

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    # As bytes: 0.0 and -0.0 would be equal numbers.
    return all(
        torch.equal(first[name].view(torch.int32), second[name].view(torch.int32)) for name in first
    )


@pytest.fixture
def loaded() -> PreTrainedModel:
    """Return the bundled model as a user of transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(pocket.model_dir())


@pytest.fixture
def base(loaded: PreTrainedModel) -> dict[str, torch.Tensor]:
    return weights(loaded)


def test_a_dial_turns_the_weights_and_back_bit_for_bit(trained: Path, base) -> None:
    steered = prefreg.open(trained).load("pocket")
    assert equal(weights(steered.model), base)
    once = weights(steered.set(helpful=1).model)
    assert not equal(once, base)
    for eta in (0.3, -2, 0.7, 1):
        steered.set(helpful=eta, verbose=-eta)
    assert equal(weights(steered.set(helpful=1).model), once)
    assert equal(weights(steered.set().model), base)
    assert equal(weights(steered.set(helpful=0, verbose=0.0).model), base)


def test_a_composed_folder_has_exactly_the_weights_of_the_dials(trained: Path) -> None:
    terms = {"helpful": 0.7, "verbosity@1": -0.3}
    registry = prefreg.open(trained)
    registry.compose(terms, "out")
    composed = AutoModelForCausalLM.from_pretrained("out")
    assert equal(weights(composed), weights(registry.load(terms=terms).model))


@pytest.mark.parametrize("finer", [("norm.weight", "q_proj"), ("experts.", "gate")])
def test_what_is_stored_finer_than_it_is_loaded_is_turned_from_what_is_stored(
    tmp_path: Path, finer: tuple[str, ...]
) -> None:
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    stored = load_file(file)
    chosen = {n for n in stored if any(part in n for part in finer)}
    mixed = {n: torch.randn(e.shape) if n in chosen else e for n, e in stored.items()}
    save_file(mixed, file, {"format": "pt"})
    base = resolve_base(str(tmp_path / "base"))
    phi = tiny.random_phi(base, seed=0)
    registry = prefreg.open(tmp_path / "registry.db")
    save_file(phi, tmp_path / "phi.safetensors")
    registry.import_vector("kind", task_vector="phi.safetensors", of_pair=True, base=str(base.path))
    registry.compose({"kind": 0.7}, "composed")
    model = load_model(base, "auto")
    with prefreg.steer(model, registry=registry, base=str(base.path), kind=0.7):
        turned = weights(model)
    expected = weights(load_model(resolve_base("composed"), "auto"))
    assert {each.dtype for each in expected.values()} == {torch.bfloat16}
    assert turned.keys() == expected.keys()
    assert all(torch.equal(turned[name], expected[name]) for name in expected)
    rounded = 0
    for name in chosen:
        by_hand = mixed[name] + torch.tensor(0.7) * phi[name]
        twice = mixed[name].bfloat16().float() + torch.tensor(0.7) * phi[name]
        rounded += int((by_hand.bfloat16() != twice.bfloat16()).sum())
    assert rounded > 10  # they would not be equal otherwise


def test_dials_refuse_what_the_loaded_model_has_not(loaded: PreTrainedModel, base) -> None:
    dials = make_dials(loaded, resolve_base("pocket"))
    phi = {"model.norm.weight": torch.ones(base["model.norm.weight"].shape), "tower": torch.ones(2)}
    with pytest.raises(VectorError, match="changes 'tower', which the loaded model has not"):
        dials.apply([(0.5, MemoryTensors(phi))])
    assert equal(weights(loaded), base)
    dials.apply([(0.5, MemoryTensors(phi | {"tower": torch.zeros(2)}))])
    assert torch.equal(weights(loaded)["model.norm.weight"], base["model.norm.weight"] + 0.5)


def test_dials_are_named_in_every_way_a_term_is(trained: Path) -> None:
    steered = prefreg.open(trained).load()
    expected = weights(steered.set(helpful=1).model)
    for terms in ({"help": 1}, {"helpful@1": 1.0}, ["helpfulness:1"], [prefreg.Term("help", 1.0)]):
        assert equal(weights(steered.set(terms).model), expected)
    assert [str(term) for term in steered.set({"helpful@1": 0.5}, verbose=-1).terms] == [
        "helpful@1:0.5",
        "verbose:-1",
    ]


def test_a_dial_that_does_not_exist_changes_nothing(trained: Path) -> None:
    steered = prefreg.open(trained).load("pocket").set(helpful=1)
    before = weights(steered.model)
    with pytest.raises(RegistryError, match="harmless"):
        steered.set(harmless=1)
    with pytest.raises(UsageError, match="named twice"):
        steered.set({"help": 1}, helpful=1)
    with pytest.raises(UsageError, match="not finite"):
        steered.set(helpful=float("nan"))
    assert equal(weights(steered.model), before)
    assert [str(term) for term in steered.terms] == ["helpful:1"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_a_sum_that_overflows_gives_the_base_back(trained: Path, device: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(pocket.model_dir(), dtype=torch.float16)
    model.to(device)
    before = weights(model)
    with (
        pytest.raises(prefreg.VectorError, match="overflows"),
        prefreg.steer(model, registry=trained, helpful=1e15),
    ):
        pytest.fail("the block must not run")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_a_coefficient_beyond_float32_is_refused(trained: Path, base) -> None:
    steered = prefreg.open(trained).load("pocket")
    with pytest.raises(UsageError, match="does not fit float32"):
        steered.set(helpful=1e300)
    assert equal(weights(steered.model), base)


def test_a_base_without_terms_needs_no_registry(tmp_path: Path, base) -> None:
    assert equal(weights(prefreg.open(tmp_path / "missing.db").load("pocket").model), base)


def test_a_shelf_sees_what_changes_in_its_registry_and_outlives_it(
    trained: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copyfile(trained, tmp_path / "own.db"))
    registry = prefreg.open(own)
    shelf = VectorShelf(resolve_base("pocket"), Access(own))
    best = [Term("helpful", 0.5, "best"), Term("verbose", 2.0)]
    with pytest.raises(RegistryError, match="no version alias 'best'"):
        shelf.find(best)
    registry.alias("helpful", 1, "best")
    for _ in range(2):  # looked up, then remembered
        assert [(str(each.record), each.eta) for each in shelf.find(best)] == [
            ("helpful@1", 0.5),
            ("verbosity@1", 2.0),
        ]
    with pytest.raises(UsageError, match="named twice"):
        shelf.find([*best, Term("helpful", 1.0)])
    registry.unalias("helpful", "best")
    with pytest.raises(RegistryError, match="no version alias 'best'"):
        shelf.find(best)
    known = shelf.find([Term("helpful", 1.0)])
    own.unlink()
    assert shelf.find([Term("helpful", 1.0)]) == known
    with pytest.raises(RegistryError, match="no registry"):
        shelf.find([Term("harmless", 1.0)])


def test_a_steered_model_answers(trained: Path) -> None:
    steered = prefreg.open(trained).load("pocket", {"helpful": 1})
    answer = steered.generate("What colour is the boat?", max_new_tokens=12)
    assert answer
    assert steered.generate("What colour is the boat?", max_new_tokens=12) == answer
    with pytest.raises(UsageError, match="Sampling needs"):
        steered.generate("What?", temperature=-1)
    with pytest.raises(UsageError, match="no option 'temprature'"):
        steered.generate("What?", temprature=1)


def test_a_dial_far_beyond_its_poles_is_warned_of(trained: Path, loaded) -> None:
    steered = prefreg.open(trained).load("pocket")
    with pytest.warns(prefreg.RangeWarning, match=r"helpful@1 at 100 is .* times as far"):
        steered.set(helpful=100)
    (told,) = steered.warnings
    with (
        pytest.warns(prefreg.RangeWarning, match=told[:20]),
        prefreg.steer(loaded, registry=trained, helpful=100),
    ):
        pass
    assert steered.set(helpful=1).warnings == ()


def test_a_prompt_is_a_text_or_messages_and_many_are_a_list(trained: Path) -> None:
    steered = prefreg.open(trained).load("pocket")
    question = "What colour is the boat?"
    turns = [{"role": "user", "content": question}]
    answer = steered.generate(question, max_new_tokens=8)
    assert steered.generate(turns, max_new_tokens=8) == answer
    assert steered.generate([question, turns], max_new_tokens=8) == [answer, answer]
    assert steered.generate([turns], Sampling(max_new_tokens=8)) == [answer]
    assert steered.generate([], max_new_tokens=8) == []


@pytest.mark.parametrize("prompt", [3, [3], {"role": "user", "content": "x"}, [{"role": "user"}]])
def test_what_is_no_prompt_is_refused(trained: Path, prompt) -> None:
    with pytest.raises(UsageError, match="a text, or a list of messages such as"):
        prefreg.open(trained).load("pocket").generate(prompt)


def test_a_dialled_model_is_saved_as_it_is_composed(trained: Path) -> None:
    registry = prefreg.open(trained)
    registry.compose({"helpful": 0.7, "verbosity": -0.3}, "composed")
    steered = registry.load("pocket", {"verbosity": -0.3}).set(helpful=0.7, verbosity=-0.3)
    steered.save_pretrained("saved")
    written = [
        {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        for folder in ("composed", "saved")
    ]
    assert written[0] == written[1]
    assert repr(steered) == "<SteeredModel of pocket: helpful:0.7 verbosity:-0.3>"
    with pytest.raises(UsageError, match="nothing to write but the base"):
        steered.set().save_pretrained("base")


def test_steering_ends_with_the_block(trained: Path, loaded, base) -> None:
    with prefreg.steer(loaded, registry=trained, helpful=1) as model:
        assert model is loaded
        turned = weights(loaded)
    assert not equal(turned, base)
    assert equal(weights(loaded), base)
    assert equal(turned, weights(prefreg.open(trained).load("pocket").set(helpful=1).model))


def test_steering_ends_also_with_an_exception(trained: Path, loaded, base) -> None:
    with pytest.raises(KeyboardInterrupt), prefreg.steer(loaded, registry=trained, helpful=1):
        raise KeyboardInterrupt
    assert equal(weights(loaded), base)


def test_a_changed_model_is_not_steered(trained: Path, loaded) -> None:
    with torch.no_grad():
        next(loaded.parameters()).view(-1)[0] += 1
    before = weights(loaded)
    with (
        pytest.raises(BaseModelError, match="is not the base"),
        prefreg.steer(loaded, registry=trained, helpful=1),
    ):
        pytest.fail("the block must not run")
    assert equal(weights(loaded), before)


def test_steering_needs_an_axis(trained: Path, loaded) -> None:
    with (
        pytest.raises(UsageError, match="at least one axis"),
        prefreg.steer(loaded, registry=trained),
    ):
        pytest.fail("the block must not run")


def test_steering_by_an_unknown_axis_leaves_the_model(trained: Path, loaded, base) -> None:
    with pytest.raises(RegistryError), prefreg.steer(loaded, registry=trained, harmless=1):
        pytest.fail("the block must not run")
    assert equal(weights(loaded), base)


def test_a_model_that_forgot_its_origin_needs_a_base(trained: Path, loaded, base) -> None:
    loaded.config.name_or_path = ""
    with (
        pytest.raises(UsageError, match="base="),
        prefreg.steer(loaded, registry=trained, helpful=1),
    ):
        pytest.fail("the block must not run")
    with prefreg.steer(loaded, registry=trained, base="pocket", helpful=1):
        assert not equal(weights(loaded), base)


def test_a_model_in_bfloat16_is_steered_and_restored(trained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pocket.model_dir(), dtype=torch.bfloat16)
    before = weights(model)
    with prefreg.steer(model, registry=trained, helpful=2):
        turned = weights(model)
        assert model.dtype == torch.bfloat16
    after = weights(model)
    assert any(not torch.equal(before[name], turned[name]) for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)


@GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dials_on_a_gpu_have_the_bits_of_those_on_the_cpu(
    trained: Path, dtype: torch.dtype
) -> None:
    turned = []
    for device in ("cpu", "cuda"):
        model = AutoModelForCausalLM.from_pretrained(pocket.model_dir(), dtype=dtype).to(device)
        with prefreg.steer(model, registry=trained, helpful=-0.3):
            # Once with vectors from the disk, and once with those that stay on the GPU.
            with prefreg.steer(model, registry=trained, helpful=1, verbosity=0.7):
                turned.append({name: each.cpu() for name, each in weights(model).items()})
            turned.append({name: each.cpu() for name, each in weights(model).items()})
    assert all(
        torch.equal(cpu[name].view(torch.uint8), gpu[name].view(torch.uint8))
        for cpu, gpu in zip(turned[:2], turned[2:], strict=True)
        for name in cpu
    )


@GPU
def test_what_answers_and_is_measured_is_on_the_gpu(trained: Path) -> None:
    registry = prefreg.open(trained)
    steered = registry.load("pocket").set(helpful=1)
    assert steered.model.device.type == "cuda"
    assert steered.generate("Which colour is Elsa's boat?")
    assert registry.evaluate({"helpful": 1}, prompts=20).figures.find("helpful.accuracy")


def test_steering_a_dialled_model_adds_to_its_dials(trained: Path, base) -> None:
    registry = prefreg.open(trained)
    steered = registry.load("pocket")
    both = weights(steered.set(helpful=1, verbosity=0.5).model)
    more = weights(steered.set(helpful=1.5, verbosity=0.5).model)
    alone = weights(steered.set(helpful=1).model)
    with prefreg.steer(steered.model, registry=registry, verbosity=0.5):
        assert equal(weights(steered.model), both)
        with prefreg.steer(steered.model, registry=registry, helpful=0.5):
            assert equal(weights(steered.model), more)
        assert equal(weights(steered.model), both)
    assert equal(weights(steered.model), alone)
    assert equal(weights(steered.set().model), base)


def test_nested_steering_is_undone_step_by_step_after_an_exception(
    trained: Path, loaded: PreTrainedModel, base
) -> None:
    seen = {}
    with prefreg.steer(loaded, registry=trained, helpful=1):
        outer = weights(loaded)
        with suppress(ZeroDivisionError), prefreg.steer(loaded, registry=trained, help=-1):
            seen = weights(loaded)
            raise ZeroDivisionError
        assert equal(weights(loaded), outer)
    assert equal(seen, base)  # 1 and -1 of the same vector are nothing
    assert equal(weights(loaded), base)


def test_dials_that_are_set_within_a_block_end_with_it(trained: Path) -> None:
    registry = prefreg.open(trained)
    steered = registry.load("pocket").set(helpful=1)
    before = weights(steered.model)
    with prefreg.steer(steered.model, registry=registry, verbosity=1):
        steered.set(verbosity=-1)
    assert equal(weights(steered.model), before)


def test_a_model_that_was_trained_on_after_steering_is_another_one(
    trained: Path, loaded: PreTrainedModel
) -> None:
    with prefreg.steer(loaded, registry=trained, helpful=1):
        pass
    with torch.no_grad():
        next(loaded.parameters()).add_(1)
    with (
        pytest.raises(BaseModelError, match="differs"),
        prefreg.steer(loaded, registry=trained, helpful=1),
    ):
        pass


def test_a_part_of_an_answer_is_no_matter_of_weights(trained: Path) -> None:
    registry = prefreg.open(trained)
    for act in (registry.compose, registry.load("pocket").set, registry.evaluate):
        with pytest.raises(UsageError, match=r"leave \[answer\] out"):
            act(["helpful:1[answer]"])
