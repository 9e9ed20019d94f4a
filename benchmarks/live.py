"""What live dials cost: a turn of all of them, and answers with dials of their own in one batch.

    python benchmarks/live.py --json live.json
    python benchmarks/live.py --parts turns --models pocket

`turns`: three dense bfloat16 vectors, all changed at once. The floor copies as many bytes as must
be read and written, in the same run with the same threads. Then random settings, and one that
fails, after which the weights must be the base's, bit for bit.

`batch`: 16 answers of different lengths, on the base alone and each with three low-rank vectors of
rank 16 at η of its own, by the same engine. `others`: the same answers without dials by the static
batches of transformers and by its continuous batching, which the engine was chosen against.

All are measured in turn, so that a busy minute hits all alike, and of each the least processor time
counts: on a busy machine the clock measures the others.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from prefreg.checkpoints import resolve_base
from prefreg.composition.in_memory import Dials, make_dials
from prefreg.errors import VectorError
from prefreg.models.conversion import Conversion, open_conversion
from prefreg.models.generation import generate, generation_config
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.serving.answer import Answer, Spelling
from prefreg.serving.asking import Ask
from prefreg.serving.batches import Batch, Passes, Stream
from prefreg.serving.row_dials import Carried, RowDials
from prefreg.vectors.dense import DenseVector, write_dense
from prefreg.vectors.lowrank import Factors
from prefreg.vectors.tensors import MemoryTensors

ETAS = (1.0, 0.5, -0.3)
RANK, ROWS = 16, 16
HALF_BILLION = {  # 0.49 B parameters
    "vocab_size": 32000,
    "hidden_size": 1280,
    "intermediate_size": 3456,
    "num_hidden_layers": 22,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "tie_word_embeddings": True,
}
RANDOM = "llama"
"""So begin the names of models with random weights."""
TURNS = {"pocket": 60, "smollm2": 8, "llama-0.5b": 8, "llama-0.5b-float32": 8}


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the processor and of the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def least(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Do each in turn; return the least seconds of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(spent(work))
    return {
        name: {
            "processor_s": min(each[0] for each in found),
            "clock_s": min(each[1] for each in found),
        }
        for name, found in times.items()
    }


def load(name: str) -> PreTrainedModel:
    if name.startswith(RANDOM):
        torch.manual_seed(0)
        make: Any = LlamaForCausalLM
        dtype = torch.float32 if name.endswith("float32") else torch.bfloat16
        with torch.device("cpu"):
            made: PreTrainedModel = make(LlamaConfig(**HALF_BILLION)).to(dtype).eval()
        return made
    with quiet():
        return load_model(resolve_base(name), "auto").eval()


def put_dials(name: str, model: PreTrainedModel) -> Dials:
    if name.startswith(RANDOM):
        names = {each: each for each, _ in model.named_parameters()}
        return Dials(model, Conversion(names))
    return make_dials(model, resolve_base(name))


@contextmanager
def dense_vectors(dials: Dials) -> Iterator[list[DenseVector]]:
    """Write and open random vectors of a hundredth, stored in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for seed in range(len(ETAS)):
            generator = torch.Generator().manual_seed(seed)
            noise = {
                dials.conversion.names[name]: torch.randn(each.shape, generator=generator) * 0.01
                for name, each in dials.pristine.items()
            }
            file = Path(folder) / f"{seed}.safetensors"
            write_dense(MemoryTensors(noise), file, dtype="BF16")
            found.append(DenseVector.open(file))
        yield found
        for each in found:
            each.close()


class _Broken:
    """A vector that cannot be read to its end."""

    def __init__(self, vector: DenseVector) -> None:
        self.names, self.shape, self.block = vector.names, vector.shape, vector.block
        self._vector = vector

    def tensor(self, name: str) -> torch.Tensor:
        if name == self.names[-1]:
            raise VectorError("The disk has gone.")
        return self._vector.tensor(name)


def measure_turns(name: str) -> dict[str, Any]:
    model = load(name)
    dials = put_dials(name, model)
    weights = dials.conversion.weights(model)
    with dense_vectors(dials) as vectors:
        numbers = sum(each.numel() for each in weights.values())
        moved = numbers * (2 * model.dtype.itemsize + 2 * len(vectors))
        room = torch.ones(2, moved // 2, dtype=torch.uint8)
        terms = list(zip(ETAS, vectors, strict=True))
        dials.apply(terms)  # reads the vectors
        times = least(
            {"turn": lambda: dials.apply(terms), "floor": lambda: room[0].copy_(room[1])},
            TURNS[name],
        )
        draw = random.Random(0)
        settings = 1000 if name == "pocket" else 10
        for _ in range(settings):
            dials.apply([(draw.uniform(-4, 4), each) for each in vectors])
        failed = False
        try:
            dials.apply([*terms[:2], (1.0, _Broken(vectors[2]))])
        except VectorError:
            failed = True
        dials.restore()
        same = all(torch.equal(weights[each], held) for each, held in dials.pristine.items())
    turn, floor = times["turn"]["processor_s"], times["floor"]["processor_s"]
    return {
        "parameters": numbers,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bytes": moved,
        **times,
        "times_floor": turn / floor,
        "settings": settings,
        "one_failed": failed,
        "base_bit_for_bit": same,
    }


class _Random:
    """Factors of all linear layers but the head."""

    def __init__(self, dials: RowDials, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._held = {}
        for name, layer in dials.layers.items():
            rows, columns = layer.module.weight.shape
            b = torch.randn(rows, RANK, generator=generator) * 0.02
            a = torch.randn(RANK, columns, generator=generator) * 0.02
            self._held[name] = Factors(b, a)
        self.names = tuple(self._held)

    def factors(self, name: str) -> Factors:
        return self._held[name]


def prompts_of(model: PreTrainedModel, shortest: int, longest: int) -> list[tuple[int, ...]]:
    draw = random.Random(1)
    words = len(model.get_input_embeddings().weight)
    return [
        tuple(draw.randrange(10, words) for _ in range(draw.randrange(shortest, longest)))
        for _ in range(ROWS)
    ]


class Run:
    """The engine's batch, stepped as the engine does."""

    def __init__(self, passes: Passes, spelling: Spelling, prompts: list[tuple[int, ...]]) -> None:
        self._passes, self._spelling, self._prompts = passes, spelling, prompts
        self.answers: list[list[int]] = []

    def __call__(self, settings: list[tuple[Carried, ...]], count: int) -> None:
        batch: Batch[Stream] = Batch(self._passes)
        self.answers = [[] for _ in self._prompts]
        rows, takers = [], {}
        with torch.inference_mode():
            for place, (prompt, carried) in enumerate(zip(self._prompts, settings, strict=True)):
                row = Stream(prompt=prompt, carried=carried)
                ask = Ask(prompt=prompt, max_tokens=count + 1)
                takers[row] = Answer(ask, self._spelling, frozenset()), place
                rows.append(row)
                batch.enter(row)
            for row in rows:
                self._take(row, batch.read(row, row.prompt, every=False)[-1], takers)
                row.read = len(row.prompt)
            for _ in range(count - 1):
                logits = batch.step(batch.rows)
                for row, scores in zip(batch.rows, logits, strict=True):
                    row.read += 1
                    self._take(row, scores, takers)
        self._passes.dials.use(None)

    def _take(self, row: Stream, scores: torch.Tensor, takers: Any) -> None:
        answer, place = takers[row]
        row.last = answer.draw(scores)
        answer.take(row.last, scores)
        self.answers[place].append(row.last)


def measure_batch(name: str, count: int, rounds: int) -> dict[str, Any]:
    base = resolve_base(name)
    model = load(name)
    passes = Passes(model, RowDials(model, open_conversion(model, base)))
    run = Run(passes, Spelling(load_tokenizer(base)), prompts_of(model, 4, 48))
    axes = {str(seed): _Random(passes.dials, seed) for seed in range(3)}
    draw = random.Random(2)
    steered = [
        tuple(Carried(key, each, draw.uniform(-1, 1)) for key, each in axes.items())
        for _ in range(ROWS)
    ]
    plain: list[tuple[Carried, ...]] = [()] * ROWS
    run(steered, 3)
    found = least(
        {"plain": lambda: run(plain, count), "steered": lambda: run(steered, count)}, rounds
    )
    tokens = ROWS * count
    for each in found.values():
        each["tokens_per_processor_s"] = tokens / each["processor_s"]
    share = found["plain"]["processor_s"] / found["steered"]["processor_s"]
    return {"tokens": tokens, **found, "share_of_plain": share}


def measure_others(name: str, count: int, span: tuple[int, int], rounds: int) -> dict[str, Any]:
    base = resolve_base(name)
    model, tokenizer = load(name), load_tokenizer(base)
    prompts = prompts_of(model, *span)
    passes = Passes(model, RowDials(model, open_conversion(model, base)))
    run = Run(passes, Spelling(tokenizer), prompts)
    config = generation_config(model, tokenizer, max_new_tokens=count, temperature=0)
    config.eos_token_id = [-1]  # of all, as many tokens
    answers: dict[str, Any] = {}
    make: Any = GenerationConfig
    fixed = make(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
    settings = ContinuousBatchingConfig(
        allow_block_sharing=False,
        max_batch_tokens=512,
        num_blocks=16 + sum(len(each) + count for each in prompts) // 64 * 2,
        page_size=64,
        use_cuda_graph=False,
        use_async_batching=False,
    )

    def static() -> None:
        with torch.inference_mode():
            answers["static"] = generate(model, prompts, config, seed=0)

    def continuous() -> None:
        owner: Any = model
        found = owner.generate_batch(
            inputs=[list(each) for each in prompts],
            generation_config=fixed,
            continuous_batching_config=settings,
            warmup=False,
        )
        order = sorted(found, key=lambda key: int(key.rsplit("_", 1)[1]))
        answers["continuous"] = [found[key].generated_tokens for key in order]

    with quiet():
        times = least(
            {
                "engine": lambda: run([()] * ROWS, count),
                "static": static,
                "continuous": continuous,
            },
            rounds,
        )
    same = {
        kind: sum(one == other for one, other in zip(run.answers, each, strict=True))
        for kind, each in answers.items()
    }
    return {"prompt_tokens": sum(map(len, prompts)), "tokens": ROWS * count, **times, "same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["turns", "batch", "others"])
    parser.add_argument("--models", nargs="+", default=list(TURNS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--json", type=Path, help="kept beside what an earlier run wrote there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    results |= {"torch": torch.__version__, "threads": options.threads}
    for name in options.models:
        bundled = not name.startswith(RANDOM)
        if "turns" in options.parts:
            results.setdefault("turns", {})[name] = measure_turns(name)
        if "batch" in options.parts and bundled:
            found = measure_batch(name, options.tokens, options.rounds)
            results.setdefault("batch", {})[name] = found
        if "others" in options.parts and bundled:
            spans = {"short": (4, 48), "long": (120, 200)}
            results.setdefault("others", {})[name] = {
                length: measure_others(name, options.tokens, span, max(1, options.rounds // 2))
                for length, span in spans.items()
            }
        print(
            json.dumps({part: results.get(part, {}).get(name) for part in options.parts}),
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
