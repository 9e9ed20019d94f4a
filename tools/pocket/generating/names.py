"""The names that people and places of generated worlds are drawn from."""

import random

# No two people of a world share a stem, and no stem makes an English word with any ending.
STEMS = (
    "Adr", "Alm", "Bel", "Bren", "Cal", "Cyr", "Dar", "Del", "Edr", "Elv", "Fal", "Fen", "Gav",
    "Gar", "Hal", "Hest", "Ild", "Irv", "Jal", "Jor", "Kas", "Kel", "Lev", "Lor", "Mal", "Mir",
    "Nel", "Nim", "Olm", "Orv", "Pav", "Pel", "Quil", "Ral", "Rov", "Sav", "Sel", "Tam", "Tov",
    "Ulm", "Urs", "Val", "Ver", "Wal", "Wend", "Yal", "Yor", "Zel",
)  # fmt: skip
SHE_ENDINGS = ("a", "ina", "ena", "elle", "ia", "ita")
HE_ENDINGS = ("an", "ek", "en", "in", "on", "ric")
PLACES = (
    "the abbey", "the armoury", "the arena", "the attic", "the balcony", "the bank",
    "the boathouse", "the brewery", "the cabin", "the castle", "the cellar", "the clinic",
    "the corridor", "the cottage", "the courthouse", "the depot", "the dairy", "the fountain",
    "the gallery", "the granary", "the greenhouse", "the gym", "the hall", "the hotel",
    "the kitchen", "the laundry", "the lighthouse", "the lodge", "the museum", "the office",
    "the palace", "the pavilion", "the pier", "the shed", "the stadium", "the station",
    "the studio", "the temple", "the theatre", "the warehouse", "the workshop",
)  # fmt: skip


def draw_names(count: int, draw: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw that many names for women and as many for men."""
    stems = draw.sample(STEMS, 2 * count)
    she = tuple(stem + draw.choice(SHE_ENDINGS) for stem in stems[:count])
    return she, tuple(stem + draw.choice(HE_ENDINGS) for stem in stems[count:])
