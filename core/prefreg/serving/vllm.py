"""The dials of vLLM: settings asked for as models, and dense dials on a running engine.

vLLM finds this through its own entry points: `vllm.general_plugins` adds the resolver, which makes
the adapter of a setting such as `smollm2+helpful:0.5,verbosity:-0.3`; `vllm.endpoint_plugins`,
which `VLLM_PLUGINS=prefreg` lets in, bounds how many are kept and adds `/v1/preferences`. Nothing
of vLLM or torch is imported before it asks.
"""

import asyncio
import atexit
import importlib.util
import logging
import os
import shlex
import shutil
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefreg.errors import PrefregError, RegistryError, UsageError, VectorError, listed, reason
from prefreg.files import hash_bytes, work_folder
from prefreg.registry import Access
from prefreg.serving.model_names import model_name, parse_setting, setting_in
from prefreg.terms import Term, as_terms, format_eta

if TYPE_CHECKING:
    import torch
    from fastapi import FastAPI
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.lora.request import LoRARequest

    from prefreg.composition.plan import OpenPlan, Plan
    from prefreg.vectors.lora_layers import LoraLayers

NAME = "prefreg"
ROUTE = "/v1/preferences"
SLOTS = 8
"""Settings in one batch, where the command line of vLLM says nothing else."""
DIGITS = 3
"""Significant digits of a coefficient: settings that differ by less than half a percent are one."""
SETTLING = 10.0
"""Seconds for which what was asked for stays: between its steps a request holds on to nothing."""

_NEXT_TO_NOTHING = 1e-30
"""A coefficient that changes no sum; vLLM knows no adapter without factors."""

_log = logging.getLogger("vllm.prefreg")  # below vLLM's own, so that it is shown as vLLM's is


def round_eta(eta: float) -> float:
    """Return a coefficient as it is served, with `DIGITS` significant digits."""
    return float(f"{eta:.{DIGITS}g}") + 0.0  # no -0


def round_terms(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return a setting as it is served: its coefficients rounded, in one order."""
    return tuple(sorted((replace(each, eta=round_eta(each.eta)) for each in terms), key=str))


class Settings(OrderedDict[str, "LoRARequest"]):
    """vLLM's table of adapters by name, which loses the settings that were not asked for lately.

    vLLM looks every name up here, asks a resolver for what it does not find, and takes nothing
    out by itself. A setting is found by every way to write it. Other adapters stay.
    """

    def __init__(self, keep: int, canonical: Callable[[str], str | None]) -> None:
        """Keep this many settings; `canonical` gives the one name of a setting."""
        super().__init__()
        self._keep = keep
        self._canonical = canonical
        self._asked: dict[str, float] = {}

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self._key(name) if isinstance(name, str) else name)

    def __getitem__(self, name: str) -> "LoRARequest":
        key = self._key(name)
        found = super().__getitem__(key)
        if key in self._asked:
            self._asked[key] = time.monotonic()
            self.move_to_end(key)
        return found

    def __setitem__(self, name: str, request: "LoRARequest") -> None:
        key = self._key(name)
        super().__setitem__(key, request)
        if self._canonical(name) is not None:
            self._asked[key] = time.monotonic()
            self.move_to_end(key)
            self._drop()

    def __delitem__(self, name: str) -> None:
        key = self._key(name)
        super().__delitem__(key)
        self._asked.pop(key, None)

    def forget(self) -> None:
        """Take all settings out, so that each is made anew."""
        for name in list(self._asked):
            del self[name]

    def _key(self, name: str) -> str:
        return self._canonical(name) or name

    def _drop(self) -> None:
        settled = time.monotonic() - SETTLING
        while len(self._asked) > self._keep:
            oldest = next(name for name in self if name in self._asked)
            if self._asked[oldest] > settled:
                break
            del self[oldest]


class Adapters:
    """The adapters of settings on one base, each in a folder of its own."""

    def __init__(self, access: Access, base: str) -> None:
        """Make none yet; `base` is what the engine was started with."""
        self._access = access
        self._base = base
        self._open = ExitStack()
        self._made: dict[Path, float] = {}

    def make(self, terms: Sequence[Term], largest: int) -> Path:
        """Return the folder of the adapter of a setting, written unless it is there.

        Raises:
            RegistryError: There is no such axis or version on this base.
            UsageError: Terms contradict one another, or together have a rank above `largest`.
            VectorError: A vector is dense, or damaged.
        """
        from prefreg.composition.adapter import write_adapter
        from prefreg.composition.plan import Plan
        from prefreg.composition.resolve import range_warnings

        plan = make_plan(self._access, self._base, terms)
        if dense := [str(term.record) for term in plan.terms if term.record.kind != "low-rank"]:
            raise VectorError(
                f"{listed(dense)} cannot be an adapter, as no low-rank vector is. Set dense dials "
                f"for everyone, by PUT {ROUTE}."
            )
        for warning in range_warnings(plan.terms):
            _log.warning("%s", warning)
        etas = ",".join(f"{term.record.sha256}:{term.eta}" for term in plan.terms)
        folder = self._folder / hash_bytes(etas.encode())[:24]
        if folder not in self._made:
            if not plan.active:
                small = [replace(term, eta=_NEXT_TO_NOTHING) for term in plan.terms]
                plan = Plan(plan.base, small)
            written = write_adapter(plan, folder, layers=self._layers)
            if written.rank > largest:
                shutil.rmtree(folder)
                raise UsageError(_too_large(written.rank, largest))
        self._made[folder] = time.monotonic()
        return folder

    def tidy(self, used: Collection[str]) -> None:
        """Remove the folders that are not used and were not asked for lately."""
        settled = time.monotonic() - SETTLING
        for folder, asked in list(self._made.items()):
            if str(folder) not in used and asked < settled:
                self._remove(folder)

    def close(self) -> None:
        """Remove them all."""
        self._open.close()

    def _remove(self, folder: Path) -> None:
        del self._made[folder]
        shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def _folder(self) -> Path:
        return self._open.enter_context(work_folder())

    @cached_property
    def _layers(self) -> "LoraLayers":
        from prefreg.checkpoints import resolve_base
        from prefreg.vectors.lora_layers import LoraLayers

        return LoraLayers(resolve_base(self._base).checkpoint)


def make_plan(access: Access, base: str, terms: Sequence[Term]) -> "Plan":
    """Plan the composition of a setting on the base that the engine was started with."""
    from prefreg.checkpoints import resolve_base
    from prefreg.composition.compose import resolve_plan
    from prefreg.composition.composition_request import CompositionRequest
    from prefreg.composition.plan import Plan

    if not terms:
        return Plan(resolve_base(base), ())
    return resolve_plan(access, CompositionRequest(tuple(terms), base=base))[1]


def _too_large(rank: int, largest: int) -> str:
    from prefreg.composition.adapter import vllm_rank

    room = vllm_rank(rank)
    advice = f"Start vLLM with --max-lora-rank {room}" if room else "Ask for fewer axes at once"
    return (
        f"This setting has rank {rank}, and the engine has room for {largest}. {advice}, or set "
        f"these dials for everyone, by PUT {ROUTE}."
    )


class Resolver:
    """Makes the adapter of a setting that is asked for as a model, as in `smollm2+helpful:0.5`."""

    def __init__(self, access: Access) -> None:
        """Look vectors up in a registry, at every change of it anew."""
        self.access = access
        self._stamp = access.stamp()
        self._models: Any = None  # an OpenAIServingModels, which carries no types here
        self._adapters: Adapters | None = None
        self._largest = 0
        self._one_at_a_time = asyncio.Lock()

    def attach(self, models: "OpenAIServingModels") -> None:
        """Take over the table of adapters of vLLM's server."""
        lora = models.engine_client.vllm_config.lora_config
        self._models = models
        if lora is None:
            return
        self._largest = lora.max_lora_rank
        self._adapters = Adapters(self.access, base_of(models.model_config))
        atexit.register(self._adapters.close)
        table = Settings(lora.max_cpu_loras, self._canonical)
        table.update(models.lora_requests)
        models.lora_requests = table

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> "LoRARequest | None":
        """Return the adapter of a setting, or None where the name is no setting of this base."""
        from vllm.exceptions import VLLMClientError, VLLMNotFoundError
        from vllm.lora.request import LoRARequest

        try:
            found = self._read(lora_name)
            if found is None:
                return None
            if self._adapters is None:
                raise UsageError("The engine takes no adapters. Start vLLM with --enable-lora.")
            name, terms = found
            async with self._one_at_a_time:
                self._tidy(self._adapters)
                folder = await asyncio.to_thread(self._adapters.make, terms, self._largest)
        except RegistryError as error:
            raise VLLMNotFoundError(reason(error)) from error
        except PrefregError as error:
            raise VLLMClientError(reason(error)) from error
        # vLLM numbers adapters itself.
        return LoRARequest(lora_name=name, lora_int_id=1, lora_path=str(folder))

    def _read(self, name: str) -> tuple[str, tuple[Term, ...]] | None:
        """Return the one name of a setting and its terms as served."""
        if self._models is None:
            if "+" not in name:
                return None
            raise UsageError(
                f"Start vLLM with VLLM_PLUGINS={NAME}, which lets prefreg unload what is not used."
            )
        bases = [path.name for path in self._models.base_model_paths]
        try:
            setting = setting_in(name, bases)
        except LookupError:
            return None
        if setting is None:
            return None
        terms = round_terms(parse_setting(setting))
        return model_name(name.removesuffix(f"+{setting}"), terms), terms

    def _canonical(self, name: str) -> str | None:
        stamp = self.access.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._models.lora_requests.forget()
        try:
            found = self._read(name)
        except PrefregError:
            return None
        return found[0] if found else None

    def _tidy(self, adapters: Adapters) -> None:
        """Let go of adapters that neither the table nor a request under way refers to."""
        under_way = self._models.engine_client.output_processor.request_states.values()
        requests = [each.lora_request for each in under_way if each.lora_request is not None]
        requests += self._models.lora_requests.values()
        adapters.tidy({each.lora_path for each in requests})


_resolver: Resolver | None = None
"""That of this process: vLLM's two groups of plugins know nothing of one another."""


def register() -> None:
    """Add the resolver to vLLM; an entry point of `vllm.general_plugins`."""
    from vllm.lora.resolver import LoRAResolverRegistry

    global _resolver
    if _resolver is None:  # vLLM may ask several times
        _resolver = Resolver(Access(starter=True))
        LoRAResolverRegistry.register_resolver(NAME, _resolver)


class DialPlugin:
    """The dials of vLLM's server; an entry point of `vllm.endpoint_plugins`."""

    name = NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Know no engine yet."""
        self._engine: Any = None
        self._turning = asyncio.Lock()

    def attach_router(self, app: "FastAPI") -> None:
        """Add the routes of the dials that stand for everyone."""
        from fastapi import Body

        async def get_preferences() -> dict[str, Any]:
            return _standing(await self._call("get_preferences"))

        async def put_preferences(body: Annotated[Any, Body()]) -> dict[str, Any]:
            return await self._put(body)

        app.get(ROUTE)(get_preferences)
        app.put(ROUTE)(put_preferences)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Take the engine, and let the resolver look after the table of adapters."""
        self._engine = engine_client
        if _resolver is not None:
            _resolver.attach(state.openai_serving_models)

    async def _put(self, body: Any) -> dict[str, Any]:
        from prefreg.composition.resolve import range_warnings
        from vllm.exceptions import VLLMClientError, VLLMNotFoundError

        try:
            terms = _read_body(body)
            access = _resolver.access if _resolver else Access(starter=True)
            base = base_of(self._engine.model_config)
            plan = await asyncio.to_thread(make_plan, access, base, terms)
        except RegistryError as error:
            raise VLLMNotFoundError(reason(error)) from error
        except PrefregError as error:
            raise VLLMClientError(reason(error)) from error
        # Exactly these versions, whatever the registry holds once a worker reads it.
        exact = [f"{t.record.axis}@{t.record.number}:{format_eta(t.eta)}" for t in plan.active]
        async with self._turning:
            problem = await set_preferences(self._engine, exact)
        if problem:
            raise VLLMClientError(problem)
        return _standing(exact) | {"warnings": range_warnings(plan.active)}

    async def _call(self, method: str, *arguments: Any) -> Any:
        return (await self._engine.collective_rpc(method, args=arguments))[0]


def _read_body(body: Any) -> tuple[Term, ...]:
    if not isinstance(body, Mapping) or body.keys() != {"preferences"}:
        raise UsageError('Send {"preferences": {"helpful": 1, "verbosity": -0.3}}, and no more.')
    wanted = body["preferences"]
    if not isinstance(wanted, Mapping):
        raise UsageError("'preferences' holds no axes with numbers, as {\"helpful\": 1} does.")
    for axis, eta in wanted.items():
        if isinstance(eta, bool) or not isinstance(eta, int | float):
            raise UsageError(f"The coefficient of {axis!r} is no number: {eta!r}.")
    return as_terms(wanted)


def _standing(terms: Sequence[str]) -> dict[str, Any]:
    return {
        "preferences": {axis: float(eta) for axis, _, eta in (t.rpartition(":") for t in terms)}
    }


async def set_preferences(engine: Any, terms: Sequence[str]) -> str | None:
    """Set the weights of a running AsyncLLM to a composition; return what was wrong with it.

    Answers under way end first, as none shall change in its middle; what is asked for meanwhile
    waits. After a problem the base stands.
    """
    await engine.pause_generation(mode="wait")
    try:
        found = await engine.collective_rpc("set_preferences", args=(list(terms),))
        if not await engine.reset_prefix_cache():
            return "vLLM kept what it remembers of prompts under the old weights. Start it again."
    finally:
        await engine.resume_generation()
    return next(filter(None, found), None)


class DialWorker:
    """What vLLM's workers learn by --worker-extension-cls: to compose their own weights."""

    preferences: tuple[str, ...] = ()

    def get_preferences(self) -> tuple[str, ...]:
        """Return the terms that stand."""
        return self.preferences

    def set_preferences(self, terms: Sequence[str]) -> str | None:
        """Set the weights to a composition; to the base where there is a problem, and tell it."""
        from prefreg.composition.plan import Plan, opened

        worker: Any = self
        config = worker.model_config
        if config.quantization is not None:
            return f"The engine serves weights in {config.quantization}, which dials cannot turn."
        try:
            plan = make_plan(Access(starter=True), base_of(config), as_terms(terms))
            with opened(plan) as open_plan:
                problems: list[str] = []
                worker.reload_weights(weights_iterator=_weights(open_plan, problems))
                self.preferences = tuple(terms)
            if problems:
                with opened(Plan(plan.base, ())) as base:
                    worker.reload_weights(weights_iterator=_weights(base, []))
                self.preferences = ()
        except PrefregError as error:
            return reason(error)
        return problems[0] if problems else None


def _weights(plan: "OpenPlan", problems: list[str]) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yield the weights of a composition by their names on disk, as a composition writes them.

    After a problem, which is added, those of the base: an engine that gets a part is broken.
    """
    from prefreg.composition.engine import compose_tensor, require_finite
    from prefreg.vectors.tensors import read_tensor

    for name, stored in plan.plan.base.checkpoint.tensors.items():
        weight = base = read_tensor(stored)
        terms = [] if problems else plan.terms_of(stored)
        try:
            if terms:
                count, shape = stored.spec.elements, base.shape
                phis = [(term.eta, term.block(0, count).reshape(shape)) for term in terms]
                composed = compose_tensor(base, phis, base.dtype)
                require_finite(name, composed, base)
                weight = composed
        except PrefregError as error:
            problems.append(reason(error))
        yield name, weight


def base_of(config: Any) -> str:
    """Return what `--base` takes to name the model of an engine, by its ModelConfig."""
    return f"{config.model}@{config.revision}" if config.revision else str(config.model)


def main(arguments: Sequence[str]) -> int:
    """Start vLLM's server with the dials of a base: `BASE [OPTION OF VLLM]…`."""
    try:
        command, environment = serving_command(arguments, Access(starter=True))
    except PrefregError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    told = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    print(f"{told} {shlex.join(command)}", file=sys.stderr, flush=True)
    os.execve(command[0], command, os.environ | environment)


def serving_command(arguments: Sequence[str], access: Access) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves a base by vLLM, and what it needs in its environment.

    There is room for all low-rank axes of the base at once, where vLLM has that much.
    """
    from prefreg.checkpoints import resolve_base
    from prefreg.composition.adapter import VLLM_RANKS, vllm_rank

    if not arguments or arguments[0].startswith("-"):
        raise UsageError("Name the base: python -m prefreg.serving.vllm BASE [OPTION OF VLLM]…")
    if importlib.util.find_spec("vllm") is None:
        raise UsageError("vLLM is not installed here. Install it with prefreg: prefreg[vllm].")
    spec, *options = arguments
    base = resolve_base(spec)
    rank = sum(_ranks(access, base.fingerprint.weights))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", base.name if base.revision else str(base.path)]
    command += ["--revision", base.revision] if base.revision else []
    command += ["--served-model-name", spec]
    command += ["--worker-extension-cls", f"{DialWorker.__module__}.{DialWorker.__qualname__}"]
    if base.fingerprint.dtype == "F32":
        command += ["--dtype", "float32"]  # which vLLM would round
    if rank:
        room = vllm_rank(rank) or VLLM_RANKS[-1]
        command += ["--enable-lora", "--max-lora-rank", str(room), "--max-loras", str(SLOTS)]
    plugins = {*filter(None, os.environ.get("VLLM_PLUGINS", "").split(",")), NAME}
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": ",".join(sorted(plugins)),
    }
    return command + options, environment


def _ranks(access: Access, weights: str) -> Iterator[int]:
    """Yield the rank of the newest vector of every low-rank axis on a base."""
    from prefreg.vectors import open_vector
    from prefreg.vectors.lowrank import LowRankVector

    with access.reading() as store:
        axes = {each.axis for each in store.summaries(base=weights)}
        records = [store.resolve(axis, base=weights) for axis in sorted(axes)]
        for record in records:
            if record.kind != "low-rank":
                continue
            vector = open_vector(
                store.vector_source(record), kind=record.kind, label=f"The vector of {record}"
            )
            with closing(vector):
                assert isinstance(vector, LowRankVector)
                yield max(vector.ranks.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
