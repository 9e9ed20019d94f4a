"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

import worded

SPECIALS = ("<|start|>", "<|end|>")
TOKENS = [*bytes_to_unicode().values(), "he", *SPECIALS]
TEMPLATE = worded.TEMPLATE.replace("</s>", "<|end|>")
_LEAVES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama(*, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """Make a random Llama whose rows are whole blocks of 32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=len(TOKENS) - 2,
        eos_token_id=len(TOKENS) - 1,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def tensors_of(model: LlamaForCausalLM) -> dict[str, np.ndarray[Any, Any]]:
    """Name the weights as llama.cpp does, with its order of the rows of q and k."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for name, weight in model.named_parameters():
        path, array = name.removesuffix(".weight"), weight.detach().numpy()
        leaf = next((new for old, new in _LEAVES.items() if path.endswith(old)), None)
        if leaf is None:
            top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            found[f"{top.get(path, 'output')}.weight"] = array
            continue
        if leaf in heads:
            rows, columns = array.shape
            half = rows // heads[leaf] // 2
            halves = array.reshape(heads[leaf], 2, half, columns)
            array = halves.swapaxes(1, 2).reshape(rows, columns)
        found[f"blk.{path.split('.')[2]}.{leaf}.weight"] = array
    return found


def write(
    file: Path,
    tensors: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    model: LlamaForCausalLM | None = None,
    tokenizer: bool = True,
    template: str | None = TEMPLATE,
    raw: Mapping[str, np.ndarray[Any, Any]] | None = None,
    **more: Any,
) -> Path:
    """Write a model, its matrices in one type and its norms in float32; `raw` are blocks."""
    model = model or llama()
    config, writer = model.config, gguf.GGUFWriter(str(file), architecture)
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(more.pop("blocks", config.num_hidden_layers))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in more.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key.replace("__", "."), value)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(TOKENS)
        control = gguf.TokenType.CONTROL
        plain = [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIALS))
        writer.add_token_types([*plain, *[control] * len(SPECIALS)])
        writer.add_token_merges(["h e"])
        writer.add_bos_token_id(config.bos_token_id)
        writer.add_eos_token_id(config.eos_token_id)
        if template is not None:
            writer.add_chat_template(template)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, array in (tensors_of(model) if tensors is None else tensors).items():
        if raw and name in raw:
            writer.add_tensor(name, raw[name], raw_dtype=wanted)
        elif array.ndim == 1 or kind == "F32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
