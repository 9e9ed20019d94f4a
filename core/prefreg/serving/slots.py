"""The keys and values of running answers: one slot of a common buffer for each.

A slot holds its tokens from the left, so that an answer may join or leave at any time without a
move of the others: what another kind of cache would pad stands to the right, and is masked.
"""

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

_LEAST = 64
"""Tokens that a slot has room for at first; as it grows, twice as many each time."""

Kept = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one answer in every layer, each (heads, tokens, size of a head)."""


class Slots(Cache):
    """A cache of transformers that the tokens of one prompt, or one token of each slot, go into."""

    def __init__(self) -> None:
        """Begin without slots."""
        super().__init__(layers=[])
        self.layers: Any  # of this module's own kind
        self.lengths: list[int] = []
        """Tokens in each slot."""
        self.room = self.wide = 0
        """Tokens that a slot has room for, and slots that there is room for."""
        self.begin = 0
        """Where the tokens that are written next begin, as models ask for it."""
        self._target: Any = None
        self._seen: Any = None

    def add(self, kept: Kept | None = None) -> int:
        """Take a new slot, empty or with what was kept of another; return its place."""
        place = len(self.lengths)
        self.lengths.append(0)
        try:
            self._grow(0)
        except BaseException:  # there is no memory for it
            self.lengths.pop()
            raise
        if kept:
            self._need_layers(len(kept))
            self.lengths[place] = kept[0][0].shape[1]
            self._grow(self.lengths[place])
            for layer, (keys, values) in zip(self.layers, kept, strict=True):
                layer.hold(place, keys, values)
        return place

    def keep(self, place: int) -> Kept:
        """Return a copy of what is in a slot."""
        length = self.lengths[place]
        return [
            (layer.keys[place, :, :length].clone(), layer.values[place, :, :length].clone())
            for layer in self.layers
        ]

    def remove(self, place: int) -> int:
        """Free a slot, whose place the last takes; return where that one stood."""
        last = len(self.lengths) - 1
        length = self.lengths.pop()
        if place < last:
            self.lengths[place] = length
            for layer in self.layers:
                for held in (layer.keys, layer.values):
                    held[place, :, :length] = held[last, :, :length]
        return last

    def reading(self, place: int, count: int) -> None:
        """Let the next forward pass write `count` tokens into one slot."""
        self.begin = self.lengths[place]
        self.lengths[place] += count
        self._grow(self.lengths[place])
        self._target = place, slice(None), slice(self.begin, self.lengths[place])
        self._seen = slice(place, place + 1), slice(None), slice(self.lengths[place])

    def stepping(self, count: int, device: torch.device) -> torch.Tensor:
        """Let the next pass write a token into each of the first slots; return their positions."""
        positions = torch.tensor(self.lengths[:count])
        for place in range(count):
            self.lengths[place] += 1
        most = max(self.lengths[:count])
        self._grow(most)
        positions = positions.to(device)
        self.begin = most - 1
        self._target = torch.arange(count, device=device), slice(None), positions
        self._seen = slice(count), slice(None), slice(most)
        return positions

    def write(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Put new keys or values in their places; return all that the pass may look at."""
        place, _, _ = self._target
        held[self._target] = new[0] if isinstance(place, int) else new[:, :, 0]
        seen: torch.Tensor = held[self._seen]
        return seen

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values; transformers calls this."""
        self._need_layers(layer_idx + 1)
        found: tuple[torch.Tensor, torch.Tensor] = self.layers[layer_idx].update(
            key_states, value_states
        )
        return found

    def _need_layers(self, count: int) -> None:
        while len(self.layers) < count:
            self.layers.append(_Layer(self))

    def _grow(self, tokens: int) -> None:
        if tokens > self.room:
            self.room = max(_LEAST, 2 * self.room, tokens)
        if len(self.lengths) > self.wide:
            self.wide = max(1, 2 * self.wide)
        for layer in self.layers:
            layer.fit()


class _Layer(CacheLayerMixin):
    """The slots of one layer."""

    is_sliding = False
    keys: Any  # transformers allows None until the first pass
    values: Any

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        room = self._slots.wide, key_states.shape[1], self._slots.room
        self.keys = key_states.new_zeros((*room, key_states.shape[3]))
        self.values = value_states.new_zeros((*room, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        write = self._slots.write
        return write(self.keys, key_states), write(self.values, value_states)

    def hold(self, place: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys[None], values[None])
        self.keys[place, :, : keys.shape[1]] = keys
        self.values[place, :, : values.shape[1]] = values

    def fit(self) -> None:
        if not self.is_initialized:
            return
        wide, _, room, _ = self.keys.shape
        if (wide, room) == (self._slots.wide, self._slots.room):
            return
        before = self.keys, self.values
        self.lazy_initialization(*before)
        for now, old in zip((self.keys, self.values), before, strict=True):
            now[:wide, :, :room] = old

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.begin + query_length, 0

    def get_seq_length(self) -> int:
        return self._slots.begin

    def get_max_length(self) -> int:
        return -1
