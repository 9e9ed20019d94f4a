"""The dials of vLLM: settings asked for as models, and dense dials on a running engine.

vLLM finds this through its own entry points: `vllm.general_plugins` adds the resolver, which makes
the adapter of a setting such as `smollm2+helpful:0.5,verbosity:-0.3`; `vllm.endpoint_plugins`,
which `VLLM_PLUGINS=prefreg` lets in, bounds how many are kept and adds `/v1/preferences`. Nothing
of vLLM or torch is imported before it asks.
"""

import asyncio
import atexit
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefreg.errors import PrefregError, RegistryError, UsageError, reason
from prefreg.registry import Access
from prefreg.serving.model_names import model_name, parse_setting, setting_in
from prefreg.serving.setting_adapters import (
    LOG,
    ROUTE,
    Adapters,
    Settings,
    make_plan,
    round_terms,
)
from prefreg.terms import Term, as_terms, format_eta

if TYPE_CHECKING:
    import torch
    from fastapi import FastAPI
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.lora.request import LoRARequest

    from prefreg.composition.plan import OpenPlan

NAME = "prefreg"
SLOTS = 8
"""Settings in one batch, where the command line of vLLM says nothing else."""


class Resolver:
    """Makes the adapter of a setting that is asked for as a model, as in `smollm2+helpful:0.5`."""

    def __init__(self, access: Access) -> None:
        """Look vectors up in a registry, at every change of it anew."""
        self.access = access
        self._mark = access.mark()
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
                raise UsageError("The engine takes no adapters. Start vLLM with `--enable-lora`.")
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
            LOG.warning("Settings as models need VLLM_PLUGINS=%s: else none is unloaded.", NAME)
            return None
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
        mark = self.access.mark()
        if mark != self._mark:
            self._mark = mark
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
        from vllm.exceptions import VLLMClientError, VLLMNotFoundError

        from prefreg.composition.resolve import range_warnings

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
    waits. Of versions that cannot be had nothing is changed; after an overflow the base stands.
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
        self.pack_heads()
        return problems[0] if problems else None

    def pack_heads(self) -> None:
        """Let heads that share the weight of the embeddings have its new values.

        vLLM packs weights for the CPU, and reloads no head that is not stored (0.32).
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        worker: Any = self
        for module in worker.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


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
    # Offline, vLLM puts the folder of a revision in the place of the repository's name.
    if config.revision and not Path(config.model).exists():
        return f"{config.model}@{config.revision}"
    return str(config.model)


def main(arguments: Sequence[str]) -> int:
    """Start vLLM's server with the dials of a base: `BASE [OPTION OF VLLM]…`."""
    try:
        command, environment = serving_command(arguments, Access(starter=True))
    except PrefregError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if "--enable-lora" not in command:
        why = "The registry has no low-rank vector of this base, so a model's name is no setting."
        print(f"{why} Dense dials are set by PUT {ROUTE}.", file=sys.stderr)
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
    folder = Path(base.name)
    command += ["--served-model-name", folder.name if folder.is_absolute() else spec]
    command += ["--worker-extension-cls", "prefreg.serving.vllm.DialWorker"]
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
