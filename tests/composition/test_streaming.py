import hashlib
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from prefreg.axes.methods import Combine, Method, MethodInput
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.safetensors_file import plan_file
from prefreg.composition import output, streaming
from prefreg.composition.composition_request import EtaRule
from prefreg.composition.layout import plan_files
from prefreg.composition.methods import built_in
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm, opened
from prefreg.composition.rounding import Rounding
from prefreg.composition.streaming import estimate_seconds
from prefreg.errors import BaseModelError, UsageError, VectorError
from prefreg.vectors.stored import BLOCK_ELEMENTS


def save_base(folder: Path, tensors: dict[str, torch.Tensor]) -> BaseModel:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "none"}')
    return resolve_base(str(folder))


def plan_of(base: BaseModel, folder: Path, **vectors: dict[str, torch.Tensor]) -> Plan:
    terms = [
        PlannedTerm(tiny.record(axis, base), 0.7, tiny.store(phi, folder / f"{axis}.safetensors"))
        for axis, phi in vectors.items()
    ]
    return Plan(base, terms)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


@pytest.fixture
def mixed(tmp_path: Path) -> Plan:
    """Make a plan on a base of every dtype, with a tensor of several jobs."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shapes = {"large": (9, BLOCK_ELEMENTS + 3), "half": (5, 7), "wide": (11,), "double": (3,)}
    dtypes = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    weights = {
        name: noise(*shape).to(dtype)
        for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True)
    }
    others = {
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "steps": torch.arange(5),
        "frozen": noise(BLOCK_ELEMENTS + 1).to(torch.float8_e5m2),
    }
    base = save_base(tmp_path / "base", weights | others)
    phis = ({name: noise(*shape) * 0.01 for name, shape in shapes.items()} for _ in range(2))
    return plan_of(base, tmp_path, helpful=next(phis), verbosity=next(phis))


def test_threads_and_the_size_of_jobs_change_no_byte(
    mixed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_composition(mixed, tmp_path / "one")
    monkeypatch.setattr(streaming, "THREADS", 1)
    monkeypatch.setattr(streaming, "JOB_ELEMENTS", BLOCK_ELEMENTS)
    write_composition(mixed, tmp_path / "other")
    for name in ("model.safetensors", "prefreg.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_every_dtype_is_summed_in_float32_and_keeps_its_own(mixed: Plan, tmp_path: Path) -> None:
    write_composition(mixed, tmp_path / "out")
    before = load_file(mixed.base.path / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    phis = [load_file(str(term.source)) for term in mixed.terms]
    for name, was in before.items():
        total = was.float()
        for phi in phis:
            total = total + phi[name] * 0.7 if name in phi else total
        expected = total.to(was.dtype) if name in phis[0] else was
        assert bits(after[name]) == bits(expected), name


def test_a_dtype_that_torch_lacks_is_copied_but_not_composed(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    header, (spec,) = plan_file([("packed", "F4", (2, 6))], {"format": "pt"})
    (tmp_path / "base" / "model.safetensors").write_bytes(header + bytes(range(spec.nbytes)))
    base = resolve_base(str(tmp_path / "base"))
    write_composition(Plan(base, []), tmp_path / "out")
    copied = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert copied == header + bytes(range(spec.nbytes))
    plan = plan_of(base, tmp_path, helpful={"packed": torch.ones(2, 6)})
    with pytest.raises(VectorError, match="the base is quantised or holds integers in 'packed'"):
        write_composition(plan, tmp_path / "two")


@pytest.mark.parametrize("method", built_in().values(), ids=built_in())
def test_every_method_streams_to_what_it_makes_in_memory(
    mixed: Plan, tmp_path: Path, method: Method
) -> None:
    plan = Plan(mixed.base, mixed.terms, method=method)
    write_composition(plan, tmp_path / "out")
    state = tiny.compose_state(plan)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert bits(tensor) == bits(state[name]), name
    written = json.loads((tmp_path / "out" / "prefreg.json").read_text())
    assert (written["method"], written["options"]) == (method.name, dict(plan.options))
    assert written["rule"] in (tmp_path / "out" / "README.md").read_text()


def test_stochastic_rounding_depends_on_nothing_but_its_seed(
    mixed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        write_composition(mixed, tmp_path / name, rounding=Rounding("stochastic", seed))
        return load_file(tmp_path / name / "model.safetensors")

    one, other = weights("one", 0), weights("other", 1)
    assert {name for name in one if bits(one[name]) != bits(other[name])} == {"large", "half"}
    monkeypatch.setattr(streaming, "THREADS", 1)
    monkeypatch.setattr(streaming, "JOB_ELEMENTS", BLOCK_ELEMENTS)
    again = weights("again", 0)
    assert all(bits(one[name]) == bits(again[name]) for name in one)


def test_stochastic_rounding_keeps_what_the_nearest_number_loses(tmp_path: Path) -> None:
    # A tenth of the step of bfloat16 at 1: nothing of it is left, or all of it in the mean.
    base = save_base(tmp_path / "base", {"w": torch.ones(100_000, dtype=torch.bfloat16)})
    plan = plan_of(base, tmp_path, helpful={"w": torch.full((100_000,), 2.0**-7 / 7)})
    lost = write_composition(plan, tmp_path / "nearest").survival
    kept = write_composition(plan, tmp_path / "out", rounding=Rounding("stochastic")).survival
    assert lost is not None
    assert kept is not None
    assert lost.gain == 0.0
    assert kept.gain == pytest.approx(1.0, abs=0.05)
    assert kept.total.changed == pytest.approx(0.1, abs=0.01)
    assert "stochastic rounding or a wider dtype" in (tmp_path / "nearest/README.md").read_text()
    assert "rounded once (stochastic)" in (tmp_path / "out/README.md").read_text()


def test_zero_eta_returns_the_base_under_stochastic_rounding(mixed: Plan, tmp_path: Path) -> None:
    terms = [PlannedTerm(term.record, 0.0, term.source) for term in mixed.terms]
    write_composition(Plan(mixed.base, terms), tmp_path / "out", rounding=Rounding("stochastic", 3))
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == (mixed.base.path / "model.safetensors").read_bytes()


def test_the_estimate_writes_nothing_and_grows_with_the_model(mixed: Plan) -> None:
    files = plan_files(mixed.base.checkpoint, dtype=None, max_shard_size=None)
    before = sorted(mixed.base.path.parent.rglob("*"))
    with opened(mixed) as plan:
        found = estimate_seconds(plan, files, rounding=Rounding(), device="cpu")
    assert 0 < found < 60
    assert sorted(mixed.base.path.parent.rglob("*")) == before


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, Odd])
@pytest.mark.parametrize("late", [False, True])
def test_a_method_that_fails_is_named_and_leaves_nothing(
    mixed: Plan,
    tmp_path: Path,
    error: type[BaseException],
    late: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> Any:
        print("noise")
        raise error("no angle")

    method = Method("broken", "", "", "", prepare=(lambda weight: fail) if late else fail)
    with pytest.raises(VectorError, match=r"The method broken failed on '.*': .*no angle"):
        write_composition(Plan(mixed.base, mixed.terms, method=method), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr().out == ""


def test_a_method_that_makes_no_numbers_is_named(mixed: Plan, tmp_path: Path) -> None:
    def spoil(weight: MethodInput) -> Combine:
        return lambda start, phis: [phis[0] * math.nan]

    method = Method("spoiling", "", "", "", prepare=spoil)
    with pytest.raises(VectorError, match="the method spoiling holds NaN or infinity in"):
        write_composition(Plan(mixed.base, mixed.terms, method=method), tmp_path / "out")


def test_coefficients_by_layer_and_module(tmp_path: Path) -> None:
    names = ["model.layers.0.mlp.up", "model.layers.1.mlp.up", "model.layers.1.attn.q", "head"]
    base = save_base(tmp_path / "base", {name: torch.zeros(2) for name in names})
    phi = tiny.store({name: torch.ones(2) for name in names}, tmp_path / "phi")
    rules = (EtaRule("layers", "1-", 2.0), EtaRule("modules", "*.attn.*", 0.0))
    plan = Plan(base, [PlannedTerm(tiny.record("helpful", base), 1.0, phi, rules)])
    write_composition(plan, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert [found[name][0].item() for name in names] == [1.0, 2.0, 0.0, 1.0]
    assert plan.formula == "base + 1·helpful@1 (2 in layers 1-; 0 in modules *.attn.*)"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    base = save_base(tmp_path / "base", {"w": torch.ones(4), "v": torch.ones(4)})
    plan = plan_of(base, tmp_path, helpful={"v": torch.ones(4)}, verbosity={"w": torch.ones(4)})
    path = tmp_path / "verbosity.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + torch.tensor([bad]).numpy().tobytes())
    with pytest.raises(VectorError, match="The vector of verbosity@1 holds NaN or infinity in 'w'"):
        write_composition(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_vanishes_is_one_error(mixed: Plan, tmp_path: Path) -> None:
    (mixed.base.path / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model\.safetensors cannot be read: No such file"):
        write_composition(mixed, tmp_path / "out")


def test_no_thread_is_left_behind_and_torch_keeps_its_own(mixed: Plan, tmp_path: Path) -> None:
    before = threading.active_count(), torch.get_num_threads()
    write_composition(mixed, tmp_path / "out")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_composition(mixed, tmp_path / "stopped", progress=stop)
    assert (threading.active_count(), torch.get_num_threads()) == before


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_wrong_usage(
    mixed: Plan, tmp_path: Path, device: str
) -> None:
    with pytest.raises(UsageError, match=f"device '?{device}|'{device}' is no device"):
        write_composition(mixed, tmp_path / "out", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_the_same_bytes(mixed: Plan, tmp_path: Path) -> None:
    write_composition(mixed, tmp_path / "cpu")
    write_composition(mixed, tmp_path / "gpu", device="cuda")
    for path in (tmp_path / "cpu").iterdir():
        assert (tmp_path / "gpu" / path.name).read_bytes() == path.read_bytes()


def test_durable_waits_for_every_file_and_folder(
    mixed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: waited.add(os.fstat(file).st_ino))
    write_composition(mixed, tmp_path / "quick")
    assert waited == set()
    write_composition(mixed, tmp_path / "safe", durable=True)
    written = {path.stat().st_ino for path in (tmp_path / "safe").iterdir()}
    assert waited == written | {(tmp_path / "safe").stat().st_ino, tmp_path.stat().st_ino}


def test_hashes_are_recorded_when_asked_for(mixed: Plan, tmp_path: Path) -> None:
    composed = write_composition(mixed, tmp_path / "out", hashed=True)
    content = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert composed.files is not None
    assert composed.files["model.safetensors"] == hashlib.sha256(content).hexdigest()
    recipe = json.loads((tmp_path / "out" / "prefreg.json").read_text())
    assert recipe["files"] == composed.files
    write_composition(mixed, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "prefreg.json").read_text())["files"] is None
    assert output.CARD_FILE not in composed.files
