"""Adapters of settings: each made when it is first asked for, forgotten when it no longer is."""

import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from prefreg.errors import UsageError, VectorError, listed
from prefreg.files import hash_bytes, work_folder
from prefreg.registry import Access
from prefreg.terms import Term

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

    from prefreg.composition.plan import Plan
    from prefreg.vectors.lora_layers import LoraLayers

LOG = logging.getLogger("vllm.prefreg")
"""Below vLLM's own, so that it is shown as vLLM's is."""
DIGITS = 3
"""Significant digits of a coefficient: settings that differ by less than half a percent are one."""
SETTLING = 10.0
"""Seconds for which what was asked for stays: between its steps a request holds on to nothing."""
ROUTE = "/v1/preferences"
"""Where the dials that stand for everyone are set."""

_NEXT_TO_NOTHING = 1e-30
"""A coefficient that changes no sum; vLLM knows no adapter without factors."""


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
        from prefreg.composition.resolve import range_warnings

        plan = make_plan(self._access, self._base, terms)
        for warning in range_warnings(plan.active):
            LOG.warning("%s", warning)
        etas = ",".join(f"{term.record.sha256}:{term.eta}" for term in plan.terms)
        folder = self._folder / hash_bytes(etas.encode())[:24]
        if folder not in self._made:
            written = write_adapter(_as_adapter(plan), folder, layers=self._layers)
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


def _as_adapter(plan: "Plan") -> "Plan":
    """Return a plan that an adapter can hold, with something to hold where every dial is at 0."""
    from prefreg.composition.plan import Plan

    thin = [term for term in plan.terms if term.record.kind == "low-rank"]
    wanted = plan.active or thin or plan.terms
    if dense := [str(term.record) for term in wanted if term not in thin]:
        raise VectorError(
            f"No adapter is exact for {listed(dense)}, as dense vectors have no factors. Set their "
            f"dials for everyone, by PUT {ROUTE}."
        )
    if plan.active:
        return plan
    return Plan(plan.base, [replace(term, eta=_NEXT_TO_NOTHING) for term in wanted])


def _too_large(rank: int, largest: int) -> str:
    from prefreg.composition.adapter import vllm_rank

    room = vllm_rank(rank)
    advice = f"Start vLLM with `--max-lora-rank {room}`" if room else "Ask for fewer axes at once"
    return (
        f"This setting has rank {rank}, and the engine has room for {largest}. {advice}, or set "
        f"these dials for everyone, by PUT {ROUTE}."
    )
