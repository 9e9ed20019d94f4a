"""Time and memory of compositions, beside mergekit and a program that only moves the bytes.

    python benchmarks/compose.py --sizes .1 .4 .85 1.7 --work /tmp/compose
    python benchmarks/compose.py --sizes .85 --mergekit /tmp/mergekit/bin/mergekit-yaml

Models have random weights in the shapes of Llama, in bfloat16, with three dense bfloat16 vectors of
a thousandth. Every program runs in a process of its own, once to warm the cache of files and then
--repeat times, in turn, so that a busy minute of the machine hits all of them; medians are printed.
`engine` is the call of `write_composition` with its libraries loaded, `process` all from the start
of Python to its end.
`floor` reads the same files and writes as many bytes, with the engine's threads and blocks and no
arithmetic. mergekit (0.1.5, in a virtual environment of its own, `pip install mergekit==0.1.5`)
gets the same vectors as full checkpoints, base + φ.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.checkpoints.fingerprint import Fingerprint
from prefreg.checkpoints.safetensors_file import plan_file, read_into, write_at
from prefreg.composition.compiled import sum_block
from prefreg.composition.streaming import THREADS
from prefreg.vectors.stored import BLOCK_ELEMENTS, metadata_of

if TYPE_CHECKING:
    import torch  # loaded only to make the inputs, as composing does without

ETAS = (1.0, 0.5, -0.3)
SHAPES = {  # hidden size, intermediate size, layers; vocabulary of 32,000
    ".01": (128, 344, 2),  # to try the benchmark itself
    ".1": (640, 1728, 12),
    ".4": (1024, 4096, 20),
    ".85": (1536, 5376, 24),
    "1.7": (2048, 8192, 26),
}
BLOCK_BYTES = 2 * BLOCK_ELEMENTS  # of bfloat16
JOB_BYTES = 4 * BLOCK_BYTES
# Between a program and this one, which is large: Linux counts what a parent holds as its child's.
_LAUNCHER = """
import json, os, sys, time
began = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print(json.dumps({"wall": time.perf_counter() - began, "peak": usage.ru_maxrss}))
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""
_VOCABULARY = 32_000
_POOL = 1 << 22


def weight_shapes(hidden: int, inner: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return the weights of a Llama with a quarter as many heads for keys and values."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (_VOCABULARY, hidden),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (hidden // 4, hidden),
            "self_attn.v_proj": (hidden // 4, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            shapes[f"{prefix}.{name}.weight"] = shape
    return shapes


def noise(seed: int, scale: float) -> "torch.Tensor":
    """Return a pool of random bfloat16 numbers, of a length that no weight divides."""
    import torch

    numbers = numpy.random.default_rng(seed).standard_normal(_POOL + 1, dtype=numpy.float32)
    return torch.from_numpy(numbers * scale).bfloat16()


def write_noise(
    path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str], pool: "torch.Tensor"
) -> int:
    """Write a file of weights that repeats the pool, and return its size."""
    import torch

    header, specs = plan_file([(name, "BF16", shape) for name, shape in shapes.items()], metadata)
    left = sum(spec.nbytes for spec in specs)
    data = pool.view(torch.uint8).numpy().data
    with path.open("wb") as stream:
        stream.write(header)
        while left:
            left -= stream.write(data[: min(left, len(data))])
    return path.stat().st_size


def make_inputs(folder: Path, size: str, *, full: bool) -> None:
    """Write a base and three vectors, and for mergekit the three models that they make."""
    hidden, inner, layers = SHAPES[size]
    shapes = weight_shapes(hidden, inner, layers)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    base = noise(0, 0.02)
    models = {"base": base}
    for index in range(len(ETAS)):
        phi = noise(index + 1, 1e-3)
        write_noise(folder / f"phi{index}.safetensors", shapes, metadata_of("dense"), phi)
        if full:
            models[f"model{index}"] = (base.float() + phi.float()).bfloat16()
    for name, pool in models.items():
        (folder / name).mkdir()
        write_noise(folder / name / "model.safetensors", shapes, {"format": "pt"}, pool)
        (folder / name / "config.json").write_text(json.dumps(config))
    merge = {
        "merge_method": "task_arithmetic",
        "base_model": str(folder / "base"),
        "dtype": "bfloat16",
        "parameters": {"normalize": False},
        "models": [
            {"model": str(folder / f"model{index}"), "parameters": {"weight": eta}}
            for index, eta in enumerate(ETAS)
        ],
    }
    (folder / "merge.yaml").write_text(json.dumps(merge))


def compose(folder: Path, vectors: int) -> None:
    """Compose, and print the seconds of the engine alone."""
    from datetime import UTC, datetime

    from prefreg.composition.output import write_composition
    from prefreg.composition.plan import Plan, PlannedTerm
    from prefreg.registry import BaseRecord, VersionRecord

    checkpoint = Checkpoint.open(folder / "base")
    # Fingerprints are hashed once and remembered; they are no part of composing.
    known = Fingerprint("0" * 64, None, None, 0, "BF16")
    base = BaseModel(str(folder / "base"), None, folder / "base", known, checkpoint)
    now = datetime.now(UTC)
    identity = BaseRecord(
        base.name, None, str(base.path), known.weights, None, None, 0, "BF16", now
    )
    terms = []
    for index, eta in enumerate(ETAS[:vectors]):
        path = folder / f"phi{index}.safetensors"
        record = VersionRecord(
            axis=f"axis{index}", number=1, axis_aliases=(), aliases=(), kind="dense",
            dtype="BF16", sha256=f"{index:064}", size=path.stat().st_size, base=identity,
            note=None, metadata={}, created=now, measurements=(),
        )  # fmt: skip
        terms.append(PlannedTerm(record, eta, path))
    room, no_eta = numpy.zeros((2, 1), numpy.uint32), numpy.zeros(0, numpy.float32)
    sum_block(room, numpy.zeros(2, numpy.bool_), no_eta, 0)  # loads what was compiled before
    began = time.perf_counter()
    written = write_composition(Plan(base, terms), folder / "out")
    spent = time.perf_counter() - began
    assert written.survival is not None
    print(json.dumps({"engine": spent, "gain": written.survival.gain}))


def move_bytes(folder: Path, vectors: int) -> None:
    """Read what a composition reads and write as much as it writes; print the seconds."""
    began = time.perf_counter()
    sources = [folder / "base" / "model.safetensors"]
    sources += [folder / f"phi{index}.safetensors" for index in range(vectors)]
    files = [os.open(path, os.O_RDONLY) for path in sources]
    size = min(path.stat().st_size for path in sources)
    (folder / "out").mkdir()
    target = os.open(folder / "out" / "model.safetensors", os.O_CREAT | os.O_RDWR)
    os.truncate(target, size)
    spare = [memoryview(bytearray(BLOCK_BYTES)) for _ in range(THREADS)]

    def move(start: int) -> None:
        buffer = spare.pop()
        for offset in range(start, min(start + JOB_BYTES, size), BLOCK_BYTES):
            part = buffer[: min(BLOCK_BYTES, size - offset)]
            for file in files:
                read_into(file, offset, part)
            write_at(target, offset, part)
        spare.append(buffer)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(move, range(0, size, JOB_BYTES)))
    print(json.dumps({"engine": time.perf_counter() - began}))


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Run a program that fills `out`, and return its seconds and its peak memory in MiB."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-2000:]}")
    *said, last = done.stdout.strip().splitlines()
    taken = json.loads(last)
    own = said and said[-1].startswith("{")
    return {
        "wall": taken["wall"],
        "engine": json.loads(said[-1])["engine"] if own else taken["wall"],
        "peak": taken["peak"] / (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }


def run_size(size: str, work: Path, mergekit: str | None, repeat: int) -> dict[str, object]:
    """Measure every program on one model, in a folder that is removed again."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        make_inputs(folder, size, full=mergekit is not None)
        me = [sys.executable, __file__, "--folder", name]
        programs = {"floor": [*me, "--part", "floor"], "prefreg": [*me, "--part", "compose"]}
        for count, label in {2: "two vectors", 1: "one vector"}.items():
            programs[label] = [*me, "--part", "compose", "--vectors", str(count)]
        if mergekit is not None:
            programs["mergekit"] = [mergekit, str(folder / "merge.yaml"), str(folder / "out")]
        turns = [
            {label: run(command, folder) for label, command in programs.items()}
            for _ in range(repeat + 1)
        ][1:]
        nbytes = (folder / "base" / "model.safetensors").stat().st_size
        found: dict[str, object] = {"size": size, "bytes": nbytes, "turns": turns}
        for label in programs:
            found[label] = {
                figure: statistics.median(turn[label][figure] for turn in turns)
                for figure in ("wall", "engine", "peak")
            }
        return found


def table(results: list[dict[str, object]]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| model | program | process, s | engine, s | peak, MiB | engine / floor | of mergekit |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in results:
        parts = {name: value for name, value in found.items() if isinstance(value, dict)}
        rival = parts.get("mergekit")
        for name, value in parts.items():
            share = f"{value['wall'] / rival['wall']:.2f}" if rival else "–"
            lines.append(
                f"| {found['size']} B | {name} | {value['wall']:.2f} | {value['engine']:.2f} "
                f"| {value['peak']:.0f} | {value['engine'] / parts['floor']['engine']:.2f} "
                f"| {share} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES)[1:])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--mergekit", help="mergekit-yaml of a virtual environment with 0.1.5")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=["compose", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=int, default=len(ETAS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part = {"compose": compose, "floor": move_bytes}[options.part]
        part(options.folder, options.vectors)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    results = []
    for size in options.sizes:
        results.append(run_size(size, options.work, options.mergekit, options.repeat))
        print(table(results[-1:]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
