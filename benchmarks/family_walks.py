"""Every walk on a tiny random model of a family, against plain TRL, PEFT, transformers and sums.

`families.py` makes the models and keeps the figures.
"""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
)
from trl import DPOConfig, DPOTrainer

import prefreg
from prefreg.checkpoints import Checkpoint, resolve_base
from prefreg.registry import VersionRecord
from prefreg.vectors import open_vector
from prefreg.vectors.lora_layers import LoraLayers

AXIS, ETA, RANK, PAIRS = "parity", 0.7, 4, 8
SETTINGS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
}
MAX_LENGTH = 96
WORDS = tuple("red blue old boat tree sky cat dog sun sea hill road bird fish leaf".split())  # noqa: SIM905
SPECIALS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
"""The first tokens, in the order of the ids of the tiny configurations."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Weights = dict[str, torch.Tensor]
Row = dict[str, list[dict[str, str]]]


@dataclass(slots=True)
class Training:
    """Poles of add-axis beside two plain runs of TRL."""

    cosine: float
    """Of φ and θ₊ − θ₋ of the plain runs, over all weights."""
    losses: float
    """The largest difference of a loss, in nats; a step is the mean of its pairs."""
    shared_prompt: bool
    """Whether both answers stood in one row here."""


@dataclass(slots=True)
class Walks:
    """What was found of a family."""

    family: str
    full: Training
    lora: Training
    margin: float
    """eval's margin less that by plain transformers, in nats."""
    composition: bool
    """Loaded again it is what the sum by hand is, bit for bit, full and LoRA."""
    dials: bool
    """In memory they are what is composed, bit for bit, full and LoRA."""
    checkpoint: bool
    """Exported and imported again, φ is that of the sums by hand, bit for bit."""
    adapter: float
    """PEFT's merge of the exported adapter against the composition: ‖difference‖ / ‖φ‖."""
    imported: bool
    """The adapter that is imported again is the same φ, bit for bit."""
    left_out: list[str] = field(default_factory=list)
    """Linear layers that PEFT puts no factors on in this architecture."""

    @property
    def holds(self) -> bool:
        """Whether all is as it must be."""
        trained = all(each.cosine >= 0.9999 for each in (self.full, self.lora))
        exact = self.composition and self.dials and self.checkpoint and self.imported
        return trained and exact and abs(self.margin) < 1e-5 and self.adapter < 1e-6

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "family": self.family,
            "cosine_full": round(self.full.cosine, 8),
            "cosine_lora": round(self.lora.cosine, 8),
            "losses_full_nats": float(f"{self.full.losses:.2g}"),
            "losses_lora_nats": float(f"{self.lora.losses:.2g}"),
            "shared_prompt": self.full.shared_prompt,
            "margin_nats": float(f"{self.margin:.2g}"),
            "composition": self.composition,
            "dials": self.dials,
            "checkpoint": self.checkpoint,
            "adapter": float(f"{self.adapter:.2g}"),
            "imported": self.imported,
            "without_lora": self.left_out,
        }


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes, in the form that every family's own class can read."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)


def walk(family: str, base: Path, folder: Path, settings: Mapping[str, Any] | None = None) -> Walks:
    """Take every walk on a base of a family."""
    disable_progress_bars()
    rows = write_rows(folder / "rows.jsonl")
    registry = prefreg.open(folder / "registry.db")
    asked = {**SETTINGS, **(settings or {})}
    full = add_axis(registry, base, folder, settings=asked)
    lora = add_axis(
        registry, base, folder, settings=asked, lora=RANK, lora_targets=lora_targets(base)
    )
    found = [compare(registry, record, base, rows, folder) for record in (full, lora)]
    bits = [check_bits(registry, record, base, folder) for record in (full, lora)]
    adapter, imported = exchange_adapter(registry, lora, base, folder)
    return Walks(
        family,
        *found,
        margin=compare_margins(registry, full, base, rows, folder),
        composition=all(composed for composed, _ in bits),
        dials=all(turned for _, turned in bits),
        checkpoint=exchange_checkpoint(registry, full, base, folder),
        adapter=adapter,
        imported=imported,
        left_out=sorted({n.rpartition(".")[2] for n in LoraLayers(checkpoint(base)).refused}),
    )


def lora_targets(base: Path) -> list[str]:
    """Name all linear layers but the head, and the stacks of experts."""
    found = LoraLayers(checkpoint(base))
    linear = {name for name, layer in found.text.items() if not layer.output}
    stacks = found.experts.keys() - found.refused.keys()
    return sorted({name.rpartition(".")[2] for name in linear | stacks})


def checkpoint(base: Path) -> Checkpoint:
    """Open the files of a base."""
    return resolve_base(str(base)).checkpoint


def write_rows(file: Path) -> list[Row]:
    """Write pairs of random words."""
    draw = random.Random(3)

    def text(start: str, least: int, most: int) -> str:
        return " ".join([start, *draw.choices(WORDS, k=draw.randint(least, most))])

    rows = [
        {
            "prompt": [{"role": "user", "content": text("what", 1, 8)}],
            "chosen": [{"role": "assistant", "content": text("yes", 1, 5)}],
            "rejected": [{"role": "assistant", "content": text("no", 1, 5)}],
        }
        for _ in range(PAIRS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def add_axis(registry: prefreg.Registry, base: Path, folder: Path, **options: Any) -> VersionRecord:
    """Train the pair, whatever the guards say of so few steps."""
    return registry.add_axis(
        AXIS,
        base=str(base),
        data=str(folder / "rows.jsonl"),
        new=True,
        max_length=MAX_LENGTH,
        keep_anyway=True,
        watch=False,
        answers=0,
        **options,
    )


def compare(
    registry: prefreg.Registry, record: VersionRecord, base: Path, rows: list[Row], folder: Path
) -> Training:
    """Train both poles by TRL alone, and hold θ₊ − θ₋ against the composition."""
    training = record.metadata["training"]
    settings, lora = training["settings"], training.get("lora")
    modules = {each.weight: n for n, each in LoraLayers(checkpoint(base)).linear.items()}
    adapter = lora and LoraConfig(
        r=RANK,
        lora_alpha=lora["alpha"],
        target_modules=[modules[weight] for weight in lora["weights"]],
        target_parameters=lora["experts"] or None,
        task_type="CAUSAL_LM",
    )
    switched = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    plus, ups = train_plainly(base, rows, folder, settings, adapter)
    minus, downs = train_plainly(base, switched, folder, settings, adapter)
    before = weights_of(load_plainly(base))
    after = weights_of(load_plainly(composed(registry, record, 1.0, folder)))
    product = ours = theirs = 0.0
    for name, weight in before.items():
        phi = (after[name].double() - weight.double()).flatten()
        plain = (plus[name].double() - minus[name].double()).flatten()
        product += float(phi @ plain)
        ours += float(phi @ phi)
        theirs += float(plain @ plain)
    poles = record.metadata["poles"]
    curves = [[each["loss"] for each in poles[pole]["curve"]] for pole in ("positive", "negative")]
    pairs = zip([*curves[0], *curves[1]], [*ups, *downs], strict=True)
    return Training(
        cosine=product / (ours * theirs) ** 0.5,
        losses=max(abs(one - other) for one, other in pairs),
        shared_prompt=training["shortcuts"]["shared_prompt"]["on"],
    )


def train_plainly(
    base: Path,
    rows: list[Row],
    folder: Path,
    settings: Mapping[str, Any],
    adapter: LoraConfig | None,
) -> tuple[Weights, list[float]]:
    """Train one pole as TRL's documentation says; return its weights and losses."""
    args = DPOConfig(
        output_dir=str(folder / "trl"),
        report_to=[],
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        seed=0,
        data_seed=0,
        disable_tqdm=True,
        **settings,
    )
    trainer = DPOTrainer(
        model=load_plainly(base),
        ref_model=None if adapter else load_plainly(base),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=adapter,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    model = trainer.model.merge_and_unload() if adapter else trainer.model
    return weights_of(model), losses


def compare_margins(
    registry: prefreg.Registry, record: VersionRecord, base: Path, rows: list[Row], folder: Path
) -> float:
    """Return how far eval's margin is from that of plain transformers."""
    data = (str(folder / "rows.jsonl"),)
    term = f"{AXIS}@{record.number}:1"
    found = registry.evaluate([term], data=data, prompts=PAIRS, max_new_tokens=4)
    figure = found.figures.find(f"{AXIS}.margin")
    assert figure is not None, found.figures.missing
    tokenizer = AutoTokenizer.from_pretrained(base)
    after, before = map(load_plainly, (composed(registry, record, 1.0, folder), base))

    def score(model: PreTrainedModel, row: Row, answer: str) -> float:
        def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
            return tokenizer.apply_chat_template(messages, tokenize=True, **options)["input_ids"]

        start = len(ids(row["prompt"], add_generation_prompt=True))
        whole = torch.tensor([ids(row["prompt"] + row[answer])])
        with torch.no_grad():
            scores = model(input_ids=whole).logits[0, :-1].double().log_softmax(-1)
        return float(scores.gather(1, whole[0, 1:, None])[start - 1 :].sum())

    def margin(model: PreTrainedModel, row: Row) -> float:
        return score(model, row, "chosen") - score(model, row, "rejected")

    change = sum(margin(after, row) - margin(before, row) for row in rows) / len(rows)
    return figure.value.value - change


def check_bits(
    registry: prefreg.Registry, record: VersionRecord, base: Path, folder: Path
) -> tuple[bool, bool]:
    """Hold a composition, and dials, against the sum by hand."""
    stored = load_file(base / "model.safetensors")
    eta = torch.tensor(ETA)
    for name, phi in phi_of(registry, record).items():
        stored[name] = (stored[name].float() + eta * phi).to(stored[name].dtype)
    by_hand = folder / "by-hand"
    shutil.copytree(base, by_hand, dirs_exist_ok=True)
    save_file(stored, by_hand / "model.safetensors", {"format": "pt"})
    expected = weights_of(load_plainly(by_hand), buffers=True)
    written = weights_of(load_plainly(composed(registry, record, ETA, folder)), buffers=True)
    model = load_plainly(base)
    term = f"{AXIS}@{record.number}:{ETA}"
    with prefreg.steer(model, registry=registry, base=str(base), terms=[term]):
        turned = weights_of(model, buffers=True)
    return same(written, expected), same(turned, expected)


def exchange_checkpoint(
    registry: prefreg.Registry, record: VersionRecord, base: Path, folder: Path
) -> bool:
    """Write θ_base ± φ for other tools, and import their difference."""
    for sign in ("plus", "minus"):
        registry.export(str(record), form="checkpoint", output=folder / sign, sign=sign)
    back = registry.import_vector(
        "back", plus=folder / "plus", minus=folder / "minus", base=str(base)
    )
    stored = load_file(base / "model.safetensors")
    expected = {
        name: (stored[name] + phi) - (stored[name] - phi)
        for name, phi in phi_of(registry, record).items()
    }
    found = phi_of(registry, back)
    return same({name: found[name] for name in expected}, expected) and not any(
        found[name].any() for name in found.keys() - expected.keys()
    )


def exchange_adapter(
    registry: prefreg.Registry, record: VersionRecord, base: Path, folder: Path
) -> tuple[float, bool]:
    """Write an adapter; let PEFT merge it, and import it again."""
    registry.export(str(record), form="adapter", output=folder / "adapter")
    model: Any = PeftModel.from_pretrained(load_plainly(base), folder / "adapter")
    merged = weights_of(model.merge_and_unload())
    before = weights_of(load_plainly(base))
    expected = weights_of(load_plainly(composed(registry, record, 1.0, folder)))
    lost = sum(float((merged[name] - expected[name]).double().square().sum()) for name in expected)
    size = sum(float((before[name] - expected[name]).double().square().sum()) for name in expected)
    back = registry.import_vector(
        "adapted", plus=folder / "adapter", base=str(base), positive_only=True
    )
    return (lost / size) ** 0.5, same(phi_of(registry, back), phi_of(registry, record))


def composed(registry: prefreg.Registry, record: VersionRecord, eta: float, folder: Path) -> Path:
    """Compose one version."""
    place = folder / f"composed-{record.number}-{eta}"
    if not place.exists():
        registry.compose([f"{AXIS}@{record.number}:{eta}"], place)
    return place


def phi_of(registry: prefreg.Registry, record: VersionRecord) -> Weights:
    """Read φ whole, by the names on disk."""
    with registry.access.reading() as store:
        source = store.vector_source(record)
    with open_vector(source, kind=record.kind) as vector:
        return {name: vector.tensor(name) for name in vector.names}


def load_plainly(folder: Path) -> PreTrainedModel:
    """Load a model in float32, by the class that transformers has for its configuration."""
    causal = type(AutoConfig.from_pretrained(folder)) in MODEL_FOR_CAUSAL_LM_MAPPING
    factory: Any = AutoModelForCausalLM if causal else AutoModelForMultimodalLM
    model: PreTrainedModel = factory.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def weights_of(model: Any, *, buffers: bool = False) -> Weights:
    """Copy the parameters of a model, and all that its state holds beside them."""
    named = {name: each.detach().clone() for name, each in model.named_parameters()}
    return named | ({n: e.clone() for n, e in model.named_buffers()} if buffers else {})


def same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether names, dtypes and bits are equal."""
    if found.keys() != expected.keys():
        return False
    return all(
        (found[name].dtype, found[name].shape) == (each.dtype, each.shape)
        and torch.equal(
            *(tensor.contiguous().flatten().view(torch.uint8) for tensor in (found[name], each))
        )
        for name, each in expected.items()
    )
