"""What prefreg does for vLLM, without vLLM; `make test-vllm` runs it with a real engine."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.resolve import identify
from prefreg.errors import RegistryError, UsageError, VectorError
from prefreg.registry import Access, NewVersion
from prefreg.registry.store import Store
from prefreg.serving import setting_adapters, vllm
from prefreg.serving.setting_adapters import Adapters, Settings, make_plan, round_eta, round_terms
from prefreg.serving.vllm import DialWorker
from prefreg.terms import as_terms
from prefreg.vectors.dense import write_dense
from prefreg.vectors.lora_layers import LoraLayers
from prefreg.vectors.lowrank import Factors, write_low_rank
from prefreg.vectors.tensors import MemoryTensors

ROOT = Path(__file__).parents[2]
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=False), tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Path:
    """Hold two axes of rank 2 and 3, a dense one, and one that overflows at 1e37."""
    folder = tmp_path_factory.mktemp("registry")
    generator = torch.Generator().manual_seed(0)
    with Store.open(folder / "registry.db", write=True) as store:
        for axis, rank in (("calm", 2), ("warm", 3)):
            factors = {
                layer.weight: Factors(
                    torch.randn(layer.shape[0], rank, generator=generator),
                    torch.randn(rank, layer.shape[1], generator=generator),
                )
                for layer in LoraLayers(base.checkpoint).text.values()
                if not layer.output
            }
            write_low_rank(factors, folder / axis)
            store.add(NewVersion(axis, (), "low-rank", "F32", identify(base)), folder / axis)
        for axis, phi in (
            ("deep", tiny.random_phi(base, seed=1)),
            ("loud", {NORM: torch.full((32,), 100.0)}),
        ):
            write_dense(MemoryTensors(phi), folder / axis)
            store.add(NewVersion(axis, (), "dense", "F32", identify(base)), folder / axis)
    return folder / "registry.db"


@pytest.fixture
def adapters(base: BaseModel, registry: Path) -> Iterator[Adapters]:
    made = Adapters(Access(registry), str(base.path))
    yield made
    made.close()


def changes(folder: Path) -> dict[str, torch.Tensor]:
    """Return B·A of every module of an adapter."""
    found = load_file(folder / "adapter_model.safetensors")
    modules = {name.partition(".lora_")[0] for name in found}
    return {
        each: found[f"{each}.lora_B.weight"] @ found[f"{each}.lora_A.weight"] for each in modules
    }


@pytest.mark.parametrize(
    ("eta", "served"), [(0.12345, 0.123), (-1.2351, -1.24), (0.00031, 0.00031), (-0.0, 0.0)]
)
def test_a_coefficient_is_served_with_three_digits(eta: float, served: float) -> None:
    assert str(round_eta(eta)) == str(served)


def test_a_setting_has_one_order() -> None:
    assert round_terms(as_terms(["warm:1.0004", "calm@2:.5"])) == as_terms(["calm@2:0.5", "warm:1"])


def canonical(name: str) -> str | None:
    return f"m+{name.removeprefix('m+').strip()}" if name.startswith("m+") else None


def test_the_table_loses_the_setting_not_asked_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting_adapters, "SETTLING", 0.0)
    table: Any = Settings(2, canonical)
    table["other"] = "static"
    table["m+a"], table["m+b"] = "A", "B"
    assert table["m+ a"] == "A"

    table["m+c"] = "C"

    assert list(table.items()) == [("other", "static"), ("m+a", "A"), ("m+c", "C")]
    assert "m+ c" in table
    assert "m+b" not in table


def test_the_table_keeps_what_was_just_asked_for() -> None:
    table: Any = Settings(1, canonical)

    table["m+a"], table["m+b"] = "A", "B"

    assert list(table) == ["m+a", "m+b"]


def test_the_table_forgets_settings_alone() -> None:
    table: Any = Settings(9, canonical)
    table.update({"other": "static", "m+a": "A"})

    table.forget()

    assert dict(table) == {"other": "static"}


def test_an_adapter_is_the_sum_of_its_terms(adapters: Adapters) -> None:
    both = changes(adapters.make(as_terms({"calm": 0.5, "warm": -2}), 8))
    calm, warm = (changes(adapters.make(as_terms({each: 1}), 8)) for each in ("calm", "warm"))

    for module, change in both.items():
        torch.testing.assert_close(change, 0.5 * calm[module] - 2 * warm[module])


def test_an_adapter_of_zeros_changes_no_weight(adapters: Adapters) -> None:
    for change in changes(adapters.make(as_terms({"calm": 0, "deep": 0}), 8)).values():
        assert torch.equal(1e-9 + change, torch.full_like(change, 1e-9))


def test_equal_settings_share_a_folder_until_nobody_uses_it(
    adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting_adapters, "SETTLING", 0.0)
    one, same = (adapters.make(as_terms([each]), 8) for each in ("calm:1", "calm@1:1"))
    other = adapters.make(as_terms(["warm:1"]), 8)

    adapters.tidy({str(one)})

    assert one == same
    assert one.exists()
    assert not other.exists()
    assert adapters.make(as_terms(["warm:1"]), 8) == other
    assert other.exists()


def test_what_no_adapter_can_be_is_refused(adapters: Adapters) -> None:
    for etas in ({"calm": 1, "deep": 1}, {"deep": 0}):
        with pytest.raises(VectorError, match=r"'deep@1', .* PUT /v1/preferences"):
            adapters.make(as_terms(etas), 8)
    with pytest.raises(UsageError, match=r"rank 5, .* room for 1\. .* `--max-lora-rank 8`"):
        adapters.make(as_terms({"calm": 1, "warm": 1}), 1)
    with pytest.raises(RegistryError, match=r"Did you mean 'calm'\?"):
        adapters.make(as_terms({"clam": 1}), 8)


class Worker(DialWorker):
    """As much of vLLM's worker as loads weights."""

    def __init__(self, base: BaseModel) -> None:
        self.model_config = SimpleNamespace(model=str(base.path), revision=None, quantization=None)
        self.weights: dict[str, torch.Tensor] = {}

    def reload_weights(self, *, weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.weights = dict(weights_iterator)

    def pack_heads(self) -> None:
        """Have no heads."""


@pytest.fixture
def worker(base: BaseModel, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("PREFREG_REGISTRY", str(registry))
    return Worker(base)


def test_a_worker_loads_what_a_composition_writes(
    worker: Worker, registry: Path, base: BaseModel
) -> None:
    terms = ["calm:0.3", "deep:-1.7"]
    plan = make_plan(Access(registry), str(base.path), as_terms(terms))
    written = tiny.compose_state(plan)

    assert worker.set_preferences(terms) is None

    assert worker.get_preferences() == tuple(terms)
    assert worker.weights.keys() == written.keys()
    assert all(torch.equal(worker.weights[name], written[name]) for name in written)


def test_a_worker_goes_back_to_the_base_after_an_overflow(worker: Worker, base: BaseModel) -> None:
    problem = worker.set_preferences(["deep:1", "loud:1e37"])

    assert problem is not None
    assert NORM in problem
    assert worker.get_preferences() == ()
    stored = load_file(base.path / "model.safetensors")
    assert all(torch.equal(worker.weights[name], stored[name]) for name in stored)


def test_a_worker_of_quantised_weights_refuses(worker: Worker) -> None:
    worker.model_config.quantization = "fp8"

    assert "fp8" in (worker.set_preferences(["calm:1"]) or "")
    assert worker.weights == {}


@pytest.mark.parametrize(
    ("model", "revision", "spec"),
    [("org/name", "main", "org/name@main"), ("org/name", None, "org/name"), ("/", "main", "/")],
)
def test_the_base_of_an_engine_is_named_by_its_configuration(
    model: str, revision: str | None, spec: str
) -> None:
    assert vllm.base_of(SimpleNamespace(model=model, revision=revision)) == spec


def test_the_command_has_room_for_every_axis(
    registry: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    monkeypatch.setenv("VLLM_PLUGINS", "other")

    command, environment = vllm.serving_command([str(base.path), "--port", "1"], Access(registry))

    assert " ".join(command).endswith(
        f"--model {base.path} --served-model-name llama "
        "--worker-extension-cls prefreg.serving.vllm.DialWorker --dtype float32 "
        "--enable-lora --max-lora-rank 8 --max-loras 8 --port 1"
    )
    assert environment["VLLM_PLUGINS"] == "other,prefreg"


def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert vllm.main(["--port", "1"]) == 2
    assert "Name the base" in capsys.readouterr().err


def test_the_plugins_of_vllm_load_without_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    code = "import sys\nfrom importlib.metadata import EntryPoint\n" + "".join(
        f"assert callable(EntryPoint('prefreg', {project[group]['prefreg']!r}, '').load())\n"
        for group in ("vllm.general_plugins", "vllm.endpoint_plugins")
    )
    code += "assert not {'torch', 'vllm'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
