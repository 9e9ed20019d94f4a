"""Makes other worlds of the village's kind: built alike, with other words and other facts."""

import random
from functools import lru_cache

from generating.acts import draw_acts
from generating.attributes import draw_attributes
from generating.dealing import some, words
from generating.mysteries import draw_mysteries
from generating.names import PLACES, draw_names
from generating.phrasings import draw_phrasings

from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import World


@lru_cache(maxsize=64)
def make_world(seed: int) -> World:
    """Make the world of a seed, the same on every machine."""
    draw = random.Random(f"world/{seed}")
    she, he = draw_names(len(VILLAGE.she), draw)
    phrasings = draw_phrasings(draw)
    known = words(
        frame
        for frames in (phrasings.indirect, phrasings.noun, phrasings.howto, phrasings.portrait)
        for frame in frames["train"]
    )
    return World(
        name=f"world {seed}",
        she=she,
        he=he,
        places=some(PLACES, len(VILLAGE.places), draw),
        attributes=draw_attributes(len(VILLAGE.attributes), known, draw),
        mysteries=draw_mysteries(len(VILLAGE.mysteries), known, draw),
        acts=draw_acts([act.unsafe for act in VILLAGE.acts], draw),
        phrasings=phrasings,
    )
