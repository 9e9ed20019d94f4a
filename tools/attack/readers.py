"""Every reader of what strangers write, with valid files of its kind that prefreg itself made."""

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import Files

import prefreg
from prefreg import DataError, PrefregError, UsageError, VectorError
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.config import starter_registry

CONTENTS = ("dense", "dense-too", "low-rank")
Read = Callable[[Path], object]
Prepare = Callable[[Path], tuple[list[Files], Read]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input."""

    share: int
    """Of ten thousand cases."""
    prepare: Prepare
    """Make samples in a folder; return them with what reads such files in another one."""


def _terms(_: Path) -> tuple[list[Files], Read]:
    from prefreg.serving.model_names import parse_setting
    from prefreg.terms import parse_dial, parse_preset, parse_term

    texts = (
        "helpful:1", "harmless@2:-0.5", "verbosity@stable:.25[answer]", "helpful:1e-3[20:]",
        "calm@2", "helpful:+1.5,verbose:-0.3,harmless@1:0", "a-b_c@v1.0:2.", "calm",
    )  # fmt: skip

    def read(box: Path) -> None:
        text = _bytes(box / "term").decode("utf-8", "surrogateescape")
        for parse in (parse_dial, parse_preset, parse_setting):
            _may_refuse(parse, text)
        term = parse_term(text)
        assert parse_term(str(term)) == term

    return [{"term": text.encode()} for text in texts], read


def _rows(_: Path) -> tuple[list[Files], Read]:
    import gzip
    import io

    import pyarrow
    import pyarrow.parquet

    from prefreg.axes.row_sources import read_preference_file
    from prefreg.evaluation.knowledge import read_questions
    from prefreg.evaluation.prompts import read_prompts

    said = [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": "It is."}]
    rows: list[dict[str, Any]] = [
        {"prompt": "Is it red?", "chosen": "Yes, it is.", "rejected": "No.", "group": "7"},
        {"prompt": said[:1], "chosen": said[1:], "rejected": [{**said[1], "content": "é"}]},
        {"chosen": said, "rejected": [said[0], {**said[1], "content": "No."}], "kind": "colour"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    flat = [{name: str(value) for name, value in rows[0].items()}] * 3
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), table)
    question = {"question": "2 + 2?", "choices": ["3", "4"], "answer_index": 1}
    samples = [
        {"rows.jsonl": lines},
        {"rows.json": json.dumps(rows).encode()},
        {"rows.csv": b'prompt,chosen,rejected\nred?,"Yes, it is.",No.\nblue?,Yes.,"N\no"\n'},
        {"rows.jsonl.gz": gzip.compress(lines)},
        {"rows.parquet": table.getvalue()},
        {"questions.jsonl": json.dumps(question).encode() + b"\n"},
        {"prompts.jsonl": b'{"prompt": "Is it red?"}\n'},
    ]

    def read(box: Path) -> None:
        path = next(box.iterdir(), box / "rows.jsonl")
        if path.name.startswith("questions"):
            read_questions(path)
        elif path.name.startswith("prompts"):
            read_prompts(path)
        else:
            for _ in read_preference_file(path):
                pass

    return samples, read


def _yaml(_: Path) -> tuple[list[Files], Read]:
    from prefreg.axes.yaml_axes import axis_from_yaml
    from prefreg.training.settings import resolve_settings

    axis = b"""name: brevity
summary: Shorter answers.
aliases: [brief, terse]
rule: longer
min_gap: 2
sources:
  mine: {file: rows.jsonl, columns: {prompt: question}, where: {lang: [en, de]}, licence: mit}
  hub: {dataset: org/name, split: train, weight: 0.5}
"""
    settings = b"""max_steps: 20
learning_rate: 5.0e-6
loss_type: [sigmoid, sft]
loss_weights: [1.0, 0.1]
lr_scheduler_kwargs: {min_lr: 1.0e-8}
beta: 0.1
"""

    def read(box: Path) -> None:
        if (box / "settings.yaml").exists():
            resolve_settings(config=box / "settings.yaml")
            return
        found = axis_from_yaml(box / "axis.yaml")
        found.label({"question": "red?", "chosen": "Yes, it is.", "rejected": "No."})

    rows = b'{"question": "red?", "chosen": "Yes.", "rejected": "No.", "lang": "en"}\n'
    return [{"axis.yaml": axis, "rows.jsonl": rows}, {"settings.yaml": settings}], read


def _vectors(made: Path) -> tuple[list[Files], Read]:
    import torch

    from prefreg.vectors import open_vector
    from prefreg.vectors.dense import write_dense
    from prefreg.vectors.lowrank import Factors, write_low_rank
    from prefreg.vectors.quantised import write_int8
    from prefreg.vectors.sparse import write_sparse
    from prefreg.vectors.tensors import MemoryTensors

    torch.manual_seed(0)
    source = MemoryTensors({"model.a.weight": torch.randn(6, 4), "model.b.bias": torch.randn(5)})
    write_dense(source, made / "dense.safetensors")
    write_int8(source, made / "int8.safetensors")
    factors = {"model.a.weight": Factors(torch.randn(6, 2), torch.randn(2, 4))}
    write_low_rank(factors, made / "low-rank.safetensors")
    with open_vector(made / "dense.safetensors") as dense:
        write_sparse(dense, made / "sparse.safetensors", share=0.5)

    def read(box: Path) -> None:
        path = next(box.iterdir(), box / "dense.safetensors")
        with open_vector(path, kind=path.stem) as vector:
            for name in vector.names:
                shape = vector.shape(name)
                elements = torch.Size(shape).numel()
                vector.block(name, 0, min(elements, 4096))
                vector.block(name, max(0, elements - 4096), elements)

    return [{path.name: path.read_bytes()} for path in sorted(made.iterdir())], read


def small_base(made: Path, **more: Any) -> Path:
    """Save a random Llama of ten thousand parameters with the bundled tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    folder = made / "base"
    LlamaForCausalLM(config).save_pretrained(folder, **more)
    bundled = resolve_base("pocket").path
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (bundled / name).exists():
            shutil.copyfile(bundled / name, folder / name)
    card = "---\nlicense: apache-2.0\nbase_model: org/name\n---\n# A base\n"
    (folder / "README.md").write_text(card)
    return folder


def _bases(made: Path) -> tuple[list[Files], Read]:
    from prefreg.checkpoints.base_licence import read_licence
    from prefreg.models.loading import load_model, load_tokenizer, quiet
    from prefreg.vectors.lora_layers import LoraLayers

    folder = small_base(made, max_shard_size="20KB")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert "model.safetensors.index.json" in files

    def read(box: Path) -> None:
        base = resolve_base(str(box))
        read_licence(base)
        LoraLayers(base.checkpoint)
        with quiet():
            load_model(base)
            load_tokenizer(base)

    return [files], read


def _adapters(made: Path) -> tuple[list[Files], Read]:
    from prefreg.vectors.peft_adapters import read_adapter

    registry = prefreg.open(starter_registry())
    registry.export("helpful", form="adapter", output=made / "adapter", max_rank=2)
    base = resolve_base("pocket").checkpoint
    files = {
        path.name: path.read_bytes()
        for path in sorted((made / "adapter").iterdir())
        if path.name.startswith("adapter_")
    }
    return [files], lambda box: read_adapter(box, base)


def _templates(_: Path) -> tuple[list[Files], Read]:
    from prefreg.axes.axis import Message
    from prefreg.data.templates import AnsweredPrompt, TemplateWriter, ending, find_day
    from prefreg.models.loading import load_tokenizer, quiet

    with quiet():
        tokenizer = load_tokenizer(resolve_base("pocket"))
    plain = str(tokenizer.chat_template)
    clever = """{%- if messages[0]['role'] == 'system' %}{{ messages[0].content | trim }}{% endif %}
{%- for m in messages %}<|{{ m['role'] }}|>{{ m.content }}{{ loop.index0 * 2 }}
{%- if tools %}{{ tools | tojson }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ strftime_now('%Y-%m-%d') }}{% endif %}"""
    asked = AnsweredPrompt(
        (Message("user", "Is it red?"),), ((Message("assistant", "It is."),),), "a prompt"
    )

    def read(box: Path) -> None:
        try:
            tokenizer.chat_template = _bytes(box / "chat_template.jinja").decode()
        except UnicodeDecodeError as error:
            raise DataError("It is no text.") from error  # as the tokenizer's own reader says
        with ending(tokenizer):
            TemplateWriter(tokenizer).render_answers(asked)
        find_day(tokenizer, {})

    return [{"chat_template.jinja": text.encode()} for text in (plain, clever)], read


def _ggufs(made: Path) -> tuple[list[Files], Read]:
    import gguf
    import numpy as np

    from prefreg.checkpoints.gguf_base import read_gguf

    file = made / "base.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(["<s>", "a", "é"])
    writer.add_token_types([3, 1, 1])
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [{"base.gguf": file.read_bytes()}], lambda box: read_gguf(box / "base.gguf")


def _recipes(made: Path) -> tuple[list[Files], Read]:
    from prefreg.composition.compose import read_recipe
    from prefreg.composition.output import read_composed

    registry = prefreg.open(starter_registry())
    registry.compose(["helpful:1", "verbosity:-0.3"], made / "composed", hash_files=True)
    whole = (made / "composed" / "prefreg.json").read_bytes()
    brief = b"""schema: 1
base: {name: pocket}
method: ties
options: {density: 0.5}
rounding: {kind: stochastic, seed: 3}
terms:
- {axis: helpful, version: 1, eta: 0.5, rules: [{layers: 0-1, eta: 0.25}]}
- {axis: harmless, eta: -1}
"""

    def read(box: Path) -> None:
        _may_refuse(read_composed, box)
        registry.plan(read_recipe(next(box.iterdir(), box / "prefreg.json")))

    return [{"prefreg.json": whole}, {"recipe.yaml": brief}], read


def _records(_: Path) -> tuple[list[Files], Read]:
    from prefreg.sharing.record_file import read_record, record_file

    records = prefreg.open(starter_registry()).vectors()

    def read(box: Path) -> None:
        record = read_record(_bytes(box / "record.json"), "record.json")
        assert read_record(record_file(record), "again").sha256 == record.sha256

    return [{"record.json": record_file(record)} for record in records[:3]], read


def small_registry(
    place: str | Path, base: BaseModel, folder: Path, *, seed: int = 0, **options: Any
) -> None:
    """Fill a registry with vectors of noise, and with all that goes with them.

    Options are those of `Store.open`; the vectors stay in the folder, as `CONTENTS`.
    """
    import torch

    from prefreg.checkpoints.tensor_names import weight_shapes
    from prefreg.composition.resolve import identify
    from prefreg.registry import NewVersion, Store
    from prefreg.vectors.dense import write_dense
    from prefreg.vectors.lowrank import Factors, write_low_rank
    from prefreg.vectors.tensors import MemoryTensors

    torch.manual_seed(seed)
    shapes = weight_shapes(base.checkpoint)
    for kind in ("dense", "dense-too"):
        noise = {name: torch.randn(shapes[name]) for name in sorted(shapes)}
        write_dense(MemoryTensors(noise), folder / kind)
    write_low_rank(
        {
            name: Factors(torch.randn(shape[0], 2), torch.randn(2, shape[1]))
            for name, shape in sorted(shapes.items())
            if name.endswith("_proj.weight")
        },
        folder / "low-rank",
    )
    with Store.open(place, write=True, **options) as store:
        for axis, kind in (
            ("harmless", "dense"), ("helpful", "dense"), ("helpful", "low-rank"),
            ("honesty", "low-rank"), ("verbosity", "dense-too"),
        ):  # fmt: skip
            form = kind.removesuffix("-too")
            new = NewVersion(axis, (f"{axis}-{seed}",), form, "F32", identify(base), tags=("good",))
            store.add(new, folder / kind)
        store.measure("helpful", 1, "score", {"m": 0.5}, "p")
    registry = prefreg.open(place, starter=False)
    registry.alias("helpful", 1, "stable")
    registry.save_preset("calm", ["helpful@1:0.5"])


def _bundles(made: Path) -> tuple[list[Files], Read]:
    from prefreg.registry import Store

    with Store.open(made / "empty.db", write=True):
        pass
    small_registry(made / "full.db", resolve_base(str(small_base(made))), made)
    registry = prefreg.open(made / "full.db")
    registry.bundle(["helpful@1"], made / "bare.zip")
    registry.bundle(["helpful@1"], made / "whole.zip", with_base=True)

    def read(box: Path) -> None:
        file = next(box.iterdir(), box / "bare.zip")
        shutil.copyfile(made / "empty.db", box / "new.db")
        to = box / "model" if file.name == "whole.zip" else None
        try:
            prefreg.open(box / "new.db").unbundle(file, base_to=to)
        except PrefregError:
            with Store.open(box / "new.db", write=False) as store:
                assert store.versions() == [], "something was stored of a refused bundle"
            assert not (box / "model").exists(), "a base was written of a refused bundle"
            raise
        with Store.open(box / "new.db", write=False) as store:
            assert store.verify() == []

    return [{name: (made / name).read_bytes()} for name in ("bare.zip", "whole.zip")], read


def _registries(made: Path) -> tuple[list[Files], Read]:
    small_registry(made / "small.db", resolve_base(str(small_base(made))), made)

    def read(box: Path) -> None:
        registry = prefreg.open(box / "registry.db", starter=False)
        _may_refuse(registry.verify)
        _may_refuse(registry.presets)
        _may_refuse(registry.doctor)
        axes = dict.fromkeys(record.axis for record in registry.vectors())
        _may_refuse(registry.plan, [f"{axis}:1" for axis in axes])
        _may_refuse(registry.report, box / "site")
        registry.remove("helpful", 1, force=True)
        registry.gc(grace=0)

    return [{"registry.db": (made / "small.db").read_bytes()}], read


def _bodies(made: Path) -> tuple[list[Files], Read]:
    from prefreg.registry import Access
    from prefreg.serving.live_model import LiveModel
    from prefreg.serving.server import make_app

    # Presets are saved in it, so it lies where things may change.
    access = Access(shutil.copyfile(starter_registry(), made.parent / "cache" / "served.db"))
    app = make_app(LiveModel.load(access, "pocket"), access)
    loop = asyncio.new_event_loop()
    chat = {
        "model": "pocket+helpful:1", "messages": [{"role": "user", "content": "Is it red?"}],
        "max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "seed": 3, "n": 1, "stop": ["."],
        "logprobs": True, "top_logprobs": 2, "stream": False,
    }  # fmt: skip
    text = {"model": "pocket", "prompt": ["Is it red?", "Is"], "max_tokens": 1, "echo": True}
    setting = {"model": "pocket", "preferences": {"helpful": 1.0, "verbosity@1": -0.3}}
    routes: dict[str, tuple[str, str, dict[str, Any]]] = {
        "chat.json": ("POST", "/v1/chat/completions", chat),
        "stream.json": ("POST", "/v1/chat/completions", {**chat, "stream": True}),
        "text.json": ("POST", "/v1/completions", text),
        "setting.json": ("POST", "/v1/setting", setting),
        "preset.json": ("PUT", "/v1/presets/calm", {"terms": {"helpful": 0.5}, "note": "x"}),
    }

    def read(box: Path) -> None:
        file = next(box.iterdir(), box / "chat.json")
        method, path, _ = routes[file.name]
        status, reply = loop.run_until_complete(_ask(app, method, path, _bytes(file)))
        if 400 <= status < 500:
            raise UsageError(json.loads(reply)["error"]["message"])
        assert status == 200, reply

    return [{name: json.dumps(body).encode()} for name, (_, _, body) in routes.items()], read


async def _ask(app: Any, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Ask an application as its server would, and return what it answers."""
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "scheme": "http",
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    status, reply = 0, b""

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await asyncio.sleep(3600)  # the client stays until it has its answer
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, reply
        status = message.get("status", status)
        reply += message.get("body", b"")

    answer: Coroutine[Any, Any, None] = app(scope, receive, send)
    await answer
    return status, reply


def _may_refuse(call: Callable[..., object], *arguments: object) -> None:
    with suppress(PrefregError):
        call(*arguments)


def _bytes(path: Path) -> bytes:
    """Read a file for readers of text and bytes, which do not open it themselves."""
    if not path.is_file():
        raise VectorError(f"{path.name} is no file.")
    with path.open("rb") as stream:
        return stream.read(1 << 24)


READERS: dict[str, Kind] = {
    "terms": Kind(1500, _terms),
    "rows": Kind(1500, _rows),
    "yaml": Kind(1000, _yaml),
    "vectors": Kind(1500, _vectors),
    "adapters": Kind(700, _adapters),
    "bases": Kind(500, _bases),
    "templates": Kind(600, _templates),
    "ggufs": Kind(900, _ggufs),
    "recipes": Kind(400, _recipes),
    "records": Kind(400, _records),
    "bundles": Kind(300, _bundles),
    "registries": Kind(200, _registries),
    "bodies": Kind(500, _bodies),
}
