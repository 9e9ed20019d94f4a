"""Does every architecture keep the laws of names? `python benchmarks/families.py --output FILE`.

For each causal language model that the installed transformers knows, and for wrappers that also
take images or sound, a tiny random model is saved as people save theirs. Then:

- it loads, and every stored weight is found in memory, every parameter on disk;
- all of memory comes apart again into what was stored, bit for bit;
- dials in memory are, bit for bit, the composition that is written and loaded again.

A family that cannot be built tiny is told, and counts as not tried.

The families that people use most go every walk, too: add-axis against two plain runs of TRL (full
and LoRA, with experts), eval, compose, dials, export, import; see `family_walks.py`.

`--only NAME,…` chooses some, `--part names` or `--part walks` one of both.
"""

import argparse
import inspect
import json
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from family_walks import PAIRS, RANK, Walks, save_tokenizer, walk
from safetensors.torch import load_file
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.compose import compose
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.in_memory import make_dials
from prefreg.composition.resolve import identify
from prefreg.errors import PrefregError
from prefreg.models.conversion import find_conversion
from prefreg.models.loading import empty_model, load_model, quiet
from prefreg.registry import Access, NewVersion
from prefreg.terms import Term
from prefreg.vectors import open_vector
from prefreg.vectors.dense import write_dense
from prefreg.vectors.tensors import MemoryTensors

MOST = 20_000_000
"""Parameters; what cannot be made smaller is not tried."""
ETAS = {"one": 0.7, "two": -0.3}

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "sliding_window": 16,
}
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
}
STATES: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "chunk_size": 16,
    "n_groups": 1,
    "num_heads": 8,
    "lru_width": 32,
    "attention_window_size": 16,
}
OLDER: dict[str, Any] = {
    "d_model": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_layers": 2,
    "n_head": 4,
    "n_heads": 4,
    "n_positions": 128,
    "n_ctx": 128,
    "ffn_dim": 48,
    "num_layers": 2,
    "attention_heads": 4,
    "word_embed_proj_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dim_ff": 48,
    "dff": 48,
    "emb_dim": 32,
    "max_seq_len": 128,
}
TOWERS: dict[str, Any] = {
    "depth": 1,
    "embed_dim": 16,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 32,
    "attention_dim": 16,
    "linear_units": 16,
    "num_blocks": 1,
}
_ROPE_KINDS = {
    kind: {"rope_type": "default", "rope_theta": 10000.0}
    for kind in ("full_attention", "sliding_attention")
}
_BYTES = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 4}
_INDEX = {
    "num_key_value_heads": 4,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 4,
    "shared_experts_intermediate_size": 16,
}
_SHARING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "global_head_dim": 8,
}
MIXED: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "patcher_config": _BYTES,
        "encoder_config": _BYTES,
        "decoder_config": _BYTES,
        "global_config": _BYTES,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": _ROPE_KINDS,
    },
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v3": {"head_dim": 4, "num_key_value_heads": 4},
    "dots3_note": {"text_config": _INDEX},
    "dots3_note_text": _INDEX,
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma4_assistant": {
        "text_config": {"model_type": "gemma4_text", **_SHARING},
        "backbone_hidden_size": 32,
    },
    "gemma4_unified_assistant": {
        "text_config": {"model_type": "gemma4_unified_text", **_SHARING},
        "backbone_hidden_size": 32,
    },
    "gemma4_unified": {
        "vision_config": {"mm_embed_dim": 16, "mm_posemb_size": 16, "output_proj_dims": 32},
        "audio_config": {"audio_embed_dim": 16},
    },
    "got_ocr2": {
        "text_config": {"model_type": "qwen2"},
        "vision_config": {
            "output_channels": 16,
            "window_size": 2,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
        },
    },
    "longcat_flash": {
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "zero_expert_num": 2,
        "num_key_value_heads": 4,
    },
    "mllama": {
        "text_config": {"cross_attention_layers": [1]},
        "vision_config": {
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "attention_heads": 4,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
        },
    },
    "moshi": {"audio_encoder_config": {"model_type": "mimi"}},
    "moss_transcribe_diarize": {"text_config": {"model_type": "qwen3"}},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": [48, 48],
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "opt": {"dropout": 0.0},  # trl does not switch it off, and no two runs draw alike
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "qwen3_5_moe_text": MIXED,
    "qwen3_5_text": MIXED,
    "qwen3_next": MIXED,
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 16),
        "attn_layers": ("local", "lsh"),
        "attention_head_size": 8,
        "feed_forward_size": 48,
        "num_buckets": 4,
    },
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "zamba2": {"layer_types": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}

_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 14,
    "deepstack_visual_indexes": [0],
}
_ROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [1, 1, 2]}
_SMALL = SIZES | EXPERTS
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": SIZES, "vision_config": _VISION, "mm_tokens_per_image": 4},
    "gemma4": {
        "text_config": SIZES
        | {
            "global_head_dim": 8,
            "vocab_size_per_layer_input": 320,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "vision_config": None,
        "audio_config": None,
    },
    "idefics3": {"text_config": {"model_type": "llama", **SIZES}, "vision_config": _VISION},
    "llama4": {
        "text_config": _SMALL | {"intermediate_size_mlp": 48, "num_experts_per_tok": 1},
        "vision_config": _VISION
        | {
            "intermediate_size": 64,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
        },
    },
    "llava": {
        "text_config": {"model_type": "llama", **SIZES},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16, **_VISION},
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", **SIZES},
        "vision_config": {"model_type": "pixtral", "head_dim": 8, **_VISION},
    },
    "qwen2_5_vl": {
        "text_config": SIZES | {"rope_scaling": _ROPE},
        "vision_config": _QWEN_VISION,
    },
    "qwen3_5": {"text_config": _SMALL | STATES | MIXED, "vision_config": _QWEN_VISION},
    "qwen3_5_moe": {"text_config": _SMALL | STATES | MIXED, "vision_config": _QWEN_VISION},
    "qwen3_vl": {"text_config": SIZES | {"rope_scaling": _ROPE}, "vision_config": _QWEN_VISION},
}


WALKED = [
    "llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_5", "gemma2", "gemma3", "gemma3n_text", "gemma4",
    "mistral", "mistral3", "mixtral", "phi3", "gpt2", "gpt_neox", "gpt_oss", "deepseek_v3",
    "granite", "granitemoe", "olmoe", "falcon_h1", "lfm2", "mamba", "opt", "cohere2", "smollm3",
]  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    # trl cannot count its experts, which that loss needs.
    "granitemoe": {"router_aux_loss_coef": 0.0}
}


class NotTriedError(Exception):
    """A family whose tiny model cannot be built."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a family."""

    family: str
    model: str = ""
    tensors: int = 0
    """Stored ones."""
    fused: int = 0
    """Weights in memory that are made of them by more than a name."""
    untouched: int = 0
    """Stored tensors that are no part of the loaded model, and are copied."""
    verdict: str = "held"


def families() -> list[str]:
    """Return the types of model that write text, and wrappers around such."""
    return [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *(WRAPPERS.keys() - _causal())]


def save_tiny(family: str, folder: Path) -> None:
    """Save a tiny random model of a family in bfloat16."""
    try:
        config = _config(family)
        factory = _factory(family, config)
        with torch.device("meta"):
            size = sum(each.numel() for each in factory.from_config(config).parameters())
        if size > MOST:
            raise NotTriedError(f"has {size:,} parameters")
        torch.manual_seed(0)
        model = factory.from_config(config).to(torch.bfloat16)
        with torch.no_grad():
            kept = model.state_dict()
            buffers = (each for name, each in model.named_buffers() if name in kept)
            for weight in (*model.parameters(), *buffers):
                if weight.is_floating_point():
                    weight.normal_(std=0.1)
                    weight.view(-1)[:1] = -0.0  # which only a tensor that is left alone keeps
        model.save_pretrained(folder)
    except NotTriedError:
        raise
    except Exception as error:
        raise NotTriedError(
            f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        ) from error


def save_trainable(family: str, folder: Path) -> None:
    """Save a tiny random model of a family in float32, with norms and the like as they begin."""
    torch.manual_seed(0)
    model = _factory(family, config := _config(family)).from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder)


def judge(family: str, folder: Path) -> Verdict:
    """Save a tiny model of a family, and hold it against the laws."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of configurations that nobody would choose
        save_tiny(family, folder / "base")
    base = resolve_base(str(folder / "base"))
    stored = load_file(base.path / "model.safetensors")
    model = load_model(base, "auto")
    dials = make_dials(model, base, whole=True)
    conversion = dials.conversion
    found = Verdict(
        family,
        type(model).__name__,
        len(stored),
        len(conversion.fused),
        len(stored.keys() - conversion.stored),
    )
    outline = find_conversion(empty_model(base), base.checkpoint)
    assert outline.stored == conversion.stored, "the outline has other names"
    apart = conversion.store(dials.pristine)
    changed = [n for n, each in apart.items() if not _equal(each, stored[n].to(each.dtype))]
    assert not changed, f"memory does not give {changed[:2]} back"
    vectors = {axis: _random(conversion.stored, stored, axis, folder) for axis in ETAS}
    dials.apply([(eta, open_vector(vectors[axis])) for axis, eta in ETAS.items()])
    composed = load_model(_compose(base, vectors, folder), "auto")
    expected = conversion.weights(composed)
    wrong = [
        name
        for name, weight in conversion.weights(model).items()
        if not _equal(weight, expected[name])
    ]
    assert not wrong, f"dials and composition differ in {wrong[:2]}"
    moved = [name for name in expected if not _equal(expected[name], dials.pristine[name])]
    assert moved, "nothing moved"
    return found


def _random(names: Iterable[str], stored: dict[str, torch.Tensor], axis: str, folder: Path) -> Path:
    """Write a vector of all that the model holds, or of every third tensor."""
    generator = torch.Generator().manual_seed(len(axis) + ord(axis[0]))
    chosen = sorted(name for name in names if stored[name].is_floating_point())
    phi = {
        name: torch.randn(stored[name].shape, generator=generator) * 0.05
        for name in (chosen if axis == "one" else chosen[::3])
    }
    path = folder / f"{axis}.safetensors"
    write_dense(MemoryTensors(phi), path, dtype="F32")
    return path


def _compose(base: BaseModel, vectors: dict[str, Path], folder: Path) -> BaseModel:
    access = Access(folder / "registry.db")
    with access.writing() as store:
        for axis, path in vectors.items():
            store.add(NewVersion(axis, (), "dense", "F32", identify(base)), path)
    terms = tuple(Term(axis, eta) for axis, eta in ETAS.items())
    compose(access, CompositionRequest(terms, output=folder / "composed", durable=False))
    return resolve_base(str(folder / "composed"))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(each.flatten().view(torch.uint8) for each in (one, other)))


def _causal() -> set[str]:
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _factory(family: str, config: Any) -> Any:
    causal = type(config) in AutoModelForCausalLM._model_mapping and family not in WRAPPERS
    return AutoModelForCausalLM if causal else AutoModelForMultimodalLM


def _config(family: str) -> Any:
    kind = CONFIG_MAPPING[family]
    own = WRAPPERS.get(family)
    return kind(**own) if own else kind(**_values(kind, OWN.get(family, {})))


def _values(kind: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Return small values for all that a configuration, and those within it, know."""
    known = {*getattr(kind, "__dataclass_fields__", {}), *inspect.signature(kind).parameters}
    wanted = SIZES | EXPERTS | STATES | OLDER | TOWERS
    found = {name: wanted[name] for name in wanted if name in known}
    for name, part in kind.sub_configs.items():
        values = dict(own.get(name, {}))
        if part is AutoConfig:
            part = CONFIG_MAPPING[values.pop("model_type", "llama")]
        found[name] = part(**_values(part, values))
    return found | {name: value for name, value in own.items() if name not in kind.sub_configs}


def survey(names: Sequence[str]) -> tuple[list[Verdict], dict[str, str]]:
    """Judge families; return the verdicts, and why the others could not be tried."""
    verdicts, absent = [], {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder, quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                verdict = judge(name, Path(folder))
            except NotTriedError as reason:
                absent[name] = str(reason)
                print(f"{name}: not tried, {reason}", flush=True)
                continue
            except (PrefregError, AssertionError) as error:
                verdict = Verdict(name, verdict=str(error).replace(folder, ""))
            verdicts.append(verdict)
            print(f"{name}: {verdict.verdict}", flush=True)
    return verdicts, absent


def take_walks(names: Sequence[str]) -> list[Walks]:
    """Take every walk on tiny models of families."""
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder, quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_trainable(name, Path(folder) / "base")
            walks = walk(name, Path(folder) / "base", Path(folder), SETTINGS.get(name))
        found.append(walks)
        print(f"{name}: {'held' if walks.holds else walks}", flush=True)
    return found


def names_part(verdicts: Sequence[Verdict], absent: dict[str, str]) -> dict[str, Any]:
    """Return the figures of names as `benchmarks/results` keeps them."""
    held = sum(verdict.verdict == "held" for verdict in verdicts)
    return {
        "name": "Names on disk and in memory",
        "what": " ".join((__doc__ or "").partition("A family that")[0].split()),
        "repeat": ["python benchmarks/families.py --part names"],
        "notes": [f"{held} of {len(verdicts)} hold; {len(absent)} were not tried."],
        "tables": {
            "families": [asdict(verdict) for verdict in verdicts],
            "not_tried": [{"family": name, "reason": absent[name]} for name in absent],
        },
    }


def walks_part(found: Sequence[Walks]) -> dict[str, Any]:
    """Return the figures of walks as `benchmarks/results` keeps them."""
    return {
        "name": "Every walk",
        "what": (
            f"Three steps of AdamW on {PAIRS} pairs of random words, both poles, whole weights and "
            f"LoRA of rank {RANK} on all linear layers and experts, in float32: the cosine of φ "
            "with that of two plain DPOTrainer runs and the largest difference of a loss; eval's "
            "margin less that of plain transformers; composition and dials against the sum by "
            "hand, and exported checkpoints imported again, bit for bit; ‖difference‖ / ‖φ‖ of "
            "PEFT's merge of the exported adapter, and whether it is the same φ when imported."
        ),
        "repeat": ["python benchmarks/families.py --part walks"],
        "notes": [f"{sum(walks.holds for walks in found)} of {len(found)} hold."],
        "tables": {"walks": [walks.row() for walks in found]},
    }


def main() -> None:
    """Judge every family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/families.json"))
    parser.add_argument("--only", metavar="NAME,...")
    parser.add_argument("--part", choices=("names", "walks"))
    options = parser.parse_args()
    known = json.loads(options.output.read_text()) if options.output.exists() else {"parts": []}
    parts = {part["name"]: part for part in known["parts"]}
    only = options.only.split(",") if options.only else None
    made = []
    if options.part != "walks":
        made.append(names_part(*survey(only or families())))
    if options.part != "names":
        made.append(walks_part(take_walks(only or WALKED)))
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    content = {
        "benchmark": "families",
        "measured_on": f"CPU, {versions}, trl {trl.__version__}, peft {peft.__version__}",
        "parts": [*(parts | {part["name"]: part for part in made}).values()],
    }
    text = json.dumps(content, indent=2)
    # A row of a table to a line.
    rows = re.sub(r"\{\s+([^{}]*?)\s+\}", lambda row: "{" + " ".join(row[1].split()) + "}", text)
    options.output.write_text(rows + "\n", "utf-8")


if __name__ == "__main__":
    main()
