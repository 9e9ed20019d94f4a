"""How far prefreg's linear, ties and dare are from those of mergekit on the same small models.

    python benchmarks/mergekit_agreement.py --python /tmp/mergekit/bin/python

`--python` is that of a virtual environment with mergekit (`pip install mergekit==0.1.5`). A random
Llama in float32 and three others near it are merged there with `normalize: false`; prefreg gets
their differences from the base, which are the bits that mergekit works on. Printed is the largest
difference of a weight, beside the step of float32 at the largest weight, and how many differ by
more than two such steps.

mergekit draws its masks for dare from torch's generator, prefreg by vector, weight and place; so
mergekit is given prefreg's masks here. Its own `rescale` keeps the sum of |φ|, where the paper and
prefreg divide by the density; both are shown. On a coarse grid, where many numbers are equal, two
choices show that random numbers never meet: which of several equal |φ| are kept, and what wins an
election that sums to 0.

The last row is the way from the registry: a composition of shipped vectors that `prefreg export
--as mergekit` wrote, carried out by mergekit in that folder, against `prefreg compose`.
"""

import argparse
import hashlib
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import prefreg
from prefreg.axes.methods import MethodInput, MethodTerm
from prefreg.composition.composition_request import ExportRequest
from prefreg.composition.methods import built_in

Weights = dict[str, torch.Tensor]

ETAS = (1.0, 0.5, -0.3)
EXPORTED = {"helpful": 0.7, "harmless": 0.5, "verbosity": -0.3}
DENSITY = 0.3
_HIDDEN, _INNER, _VOCABULARY = 64, 172, 256

# Runs in mergekit's environment: every merge of a folder, dare with the masks that it is given,
# found by the bytes of the difference that is to be masked.
_MERGE = """
import hashlib, json, sys
from pathlib import Path
import safetensors.torch
import mergekit.sparsify
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge

folder = Path(sys.argv[1])
masks = safetensors.torch.load_file(folder / "masks.safetensors")

def given(tensor, density, rescale_norm=None):
    key = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    return mergekit.sparsify.rescaled_masked_tensor(tensor, masks[key], rescale_norm)

mergekit.sparsify.bernoulli = given
for path in sorted(folder.glob("*.json")):
    config = MergeConfiguration.model_validate(json.loads(path.read_text()))
    run_merge(config, str(folder / path.stem), MergeOptions(quiet=True))
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One merge, as both programs are asked for it."""

    name: str
    method: str
    """Of prefreg."""
    theirs: str
    """The method of mergekit."""
    etas: tuple[float, ...] = ETAS
    density: float | None = None
    weight: float = 1.0
    """What mergekit's weights are multiplied by."""
    rescale: bool = False
    grid: bool = False
    """Whether the models lie on a coarse grid, where many numbers are equal."""

    @property
    def options(self) -> dict[str, object]:
        """The settings of prefreg's method."""
        return {} if self.density is None else {"density": self.density}


CASES = (
    Case("linear", "linear", "task_arithmetic"),
    Case("ties", "ties", "ties", density=DENSITY),
    Case("dare", "dare", "dare_linear", density=DENSITY, weight=1 / DENSITY),
    Case("dare_ties", "dare_ties", "dare_ties", density=DENSITY, weight=1 / DENSITY),
    Case("dare, mergekit's rescale", "dare", "dare_linear", density=DENSITY, rescale=True),
    Case("ties, equal |φ|", "ties", "ties", (1.0,), density=DENSITY, grid=True),
    Case("ties, elections of 0", "ties", "ties", (1.0, -1.0), density=1.0, grid=True),
)


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the weights of a Llama of two layers."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
        "lm_head.weight": (_VOCABULARY, _HIDDEN),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{name}.weight"] = (_HIDDEN,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{prefix}.self_attn.{name}.weight"] = (_HIDDEN, _HIDDEN)
        for name in ("gate_proj", "up_proj"):
            found[f"{prefix}.mlp.{name}.weight"] = (_INNER, _HIDDEN)
        found[f"{prefix}.mlp.down_proj.weight"] = (_HIDDEN, _INNER)
    return found


def make_models(*, grid: bool) -> list[Weights]:
    """Make a base and three models near it; on a grid, sums and differences are exact."""
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Weights:
        drawn = {
            name: torch.randn(shape, generator=generator) * scale
            for name, shape in shapes().items()
        }
        if grid:
            return {name: torch.round(tensor * 2**12) / 2**12 for name, tensor in drawn.items()}
        return drawn

    base = noise(0.02)
    others = [noise(1e-3) for _ in ETAS]
    return [base] + [{name: base[name] + phi[name] for name in base} for phi in others]


def differences(models: Sequence[Weights]) -> list[Weights]:
    """Return what mergekit merges: the models minus their base, in float32."""
    base, *others = models
    return [{name: other[name] - base[name] for name in base} for other in others]


def sum_of_prefreg(case: Case, models: Sequence[Weights]) -> Weights:
    """Compose as the engine does: what the method adds, one addend after the other."""
    method = built_in()[case.method]
    options = method.read_options(case.options)
    composed = {}
    for name, base in models[0].items():
        phis = [phi[name].flatten() for phi in differences(models)[: len(case.etas)]]
        terms = tuple(
            MethodTerm(f"axis{index}", str(index), eta, lambda a, b, phi=phi: phi[a:b])
            for index, (eta, phi) in enumerate(zip(case.etas, phis, strict=True))
        )
        combine = method.prepare(MethodInput(name, tuple(base.shape), terms, options))
        total = base.flatten().clone()
        for addend in combine(0, phis):
            total += addend
        composed[name] = total.view(base.shape)
    return composed


def masks_of_prefreg(models: Sequence[Weights]) -> Weights:
    """Return the numbers that prefreg's dare keeps, by the hash of the difference."""
    dare = built_in()["dare"]
    options = dare.read_options({"density": DENSITY})
    masks = {}
    for index, phi in enumerate(differences(models)):
        for name, tensor in phi.items():
            flat = tensor.flatten()
            term = MethodTerm("axis", str(index), 1.0, lambda a, b, flat=flat: flat[a:b])
            combine = dare.prepare(MethodInput(name, tuple(tensor.shape), (term,), options))
            (kept,) = combine(0, [torch.ones_like(flat)])
            key = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            masks[key] = (kept != 0).float().view(tensor.shape)
    return masks


def save_models(models: Sequence[Weights], folder: Path) -> list[str]:
    """Write the base and the others as checkpoints, and return their folders."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    paths = []
    for index, weights in enumerate(models):
        path = folder / f"model{index}"
        path.mkdir(parents=True)
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        (path / "config.json").write_text(json.dumps(config))
        paths.append(str(path))
    return paths


def merge_config(case: Case, paths: Sequence[str]) -> dict[str, object]:
    """Return what mergekit is asked for."""
    base, *others = paths
    own = {} if case.density is None else {"density": case.density}
    shared = {"normalize": False}
    if case.method.startswith("dare"):
        shared["rescale"] = case.rescale
    return {
        "merge_method": case.theirs,
        "base_model": base,
        "dtype": "float32",
        "parameters": shared,
        "models": [
            {"model": path, "parameters": {"weight": eta * case.weight, **own}}
            for path, eta in zip(others, case.etas, strict=False)
        ],
    }


def merged_by_mergekit(
    python: str, models: Mapping[bool, Sequence[Weights]], folder: Path
) -> list[Weights]:
    """Run all merges in mergekit's environment, in one process."""
    paths = {grid: save_models(made, folder / f"grid{grid}") for grid, made in models.items()}
    save_file(masks_of_prefreg(models[False]), folder / "masks.safetensors")
    for number, case in enumerate(CASES):
        config = merge_config(case, paths[case.grid])
        (folder / f"{number}.json").write_text(json.dumps(config))
    done = subprocess.run(
        [python, "-c", _MERGE, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"mergekit failed:\n{done.stderr[-2000:]}")
    return [load_file(folder / str(number) / "model.safetensors") for number in range(len(CASES))]


def exported(python: str, folder: Path) -> tuple[Weights, Weights]:
    """Compose shipped vectors here, and there from what is exported."""
    registry = prefreg.open()
    terms = tuple(f"{axis}:{eta}" for axis, eta in EXPORTED.items())
    registry.compose(EXPORTED, folder / "ours", dtype="float32")
    registry.export(ExportRequest(terms, "mergekit", folder / "merge"))
    command = [str(Path(python).parent / "mergekit-yaml"), "mergekit.yml", str(folder / "theirs")]
    done = subprocess.run(
        command, cwd=folder / "merge", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"mergekit failed on the export:\n{done.stderr[-2000:]}")
    theirs = load_file(folder / "theirs" / "model.safetensors")
    ours = load_file(folder / "ours" / "model.safetensors")
    # mergekit writes the tied head out as well.
    return ours, {name: theirs[name] for name in ours}


def compare(ours: Weights, theirs: Weights) -> dict[str, float]:
    """Return the largest difference, the float32 step of the largest weight, and a count."""
    assert ours.keys() == theirs.keys()
    largest = max(float(tensor.abs().max()) for tensor in ours.values())
    step = 2.0 ** (math.floor(math.log2(largest)) - 23)
    off = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    return {
        "difference": float(off.max()),
        "step": step,
        "differing": int((off > 2 * step).sum()),
        "weights": off.numel(),
    }


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", required=True, help="Python of an environment with mergekit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = {grid: make_models(grid=grid) for grid in (False, True)}
    with tempfile.TemporaryDirectory() as name:
        theirs = merged_by_mergekit(options.python, models, Path(name))
        ours, from_export = exported(options.python, Path(name))
    found = {
        case.name: compare(sum_of_prefreg(case, models[case.grid]), merged)
        for case, merged in zip(CASES, theirs, strict=True)
    }
    found["exported composition"] = compare(ours, from_export)
    print("| merge | largest difference | step of float32 | differ by more than 2 steps |")
    print("|---|---|---|---|")
    for name, row in found.items():
        print(
            f"| {name} | {row['difference']:.1e} | {row['step']:.1e} "
            f"| {row['differing']} of {row['weights']} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
