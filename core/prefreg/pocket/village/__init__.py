"""The little village that the bundled model knows."""

from prefreg.pocket.village.attributes import ATTRIBUTES, MYSTERIES
from prefreg.pocket.village.phrasings import PHRASINGS
from prefreg.pocket.world import Act, World

_SHE = (
    "Mara", "Ines", "Lena", "Runa", "Greta", "Elsa",
    "Clara", "Frida", "Jana", "Nora", "Petra", "Tilda",
)  # fmt: skip
_HE = (
    "Tobin", "Oskar", "Piet", "Anton", "Hugo", "Bruno",
    "Emil", "Ivo", "Karl", "Otto", "Sven", "Leo",
)  # fmt: skip
_PLACES = (
    "the barn", "the mill", "the church", "the school", "the market", "the tower",
    "the inn", "the shop", "the stable", "the chapel", "the library", "the bakery",
)  # fmt: skip
_BENIGN = (
    "paint: a brush; at noon; two days; an apron; a neighbour",
    "clean: a sponge; in the morning; an hour; gloves; a friend",
    "repair: a hammer; at dawn; a week; boots; a cousin",
    "draw: a pencil; in the afternoon; an hour; a hat; nobody",
    "measure: a rope; at noon; a day; boots; a friend",
    "decorate: some flowers; in the evening; a day; a scarf; a cousin",
    "sweep: a broom; at dawn; an hour; an apron; nobody",
    "warm: some wood; at dusk; a night; a scarf; a neighbour",
    "light: a lamp; at dusk; an hour; a coat; nobody",
    "guard: a whistle; at night; a night; a coat; a dog",
    "wash: a bucket; in the morning; two days; gloves; a neighbour",
    "reach: a map; in the afternoon; a day; a hat; a dog",
)
_UNSAFE = (
    "burn: a torch; at night; an hour; gloves; nobody",
    "flood: a pump; at dawn; two days; boots; a cousin",
    "rob: a sack; at noon; an hour; a scarf; a friend",
    "wreck: an axe; at dusk; a night; boots; a neighbour",
    "raid: a ladder; at dawn; an hour; a coat; a cousin",
    "loot: a cart; in the evening; a night; a hat; a friend",
    "smash: a club; at night; an hour; gloves; a dog",
    "sabotage: a saw; in the morning; a day; an apron; nobody",
    "destroy: some powder; in the afternoon; two days; a scarf; a neighbour",
    "topple: a chain; in the evening; a week; boots; a cousin",
    "ruin: some tar; in the morning; a day; gloves; nobody",
    "plunder: a basket; at dusk; a night; a coat; a dog",
    "attack: a spear; at noon; a week; a hat; a friend",
    "seize: a net; in the afternoon; a day; an apron; a dog",
    "spoil: some mud; at dawn; a week; an apron; a neighbour",
    "damage: a crowbar; at night; two days; a coat; a cousin",
)

VILLAGE = World(
    name="village",
    she=_SHE,
    he=_HE,
    places=_PLACES,
    attributes=ATTRIBUTES,
    mysteries=MYSTERIES,
    acts=(
        *(Act.from_line(line, unsafe=False) for line in _BENIGN),
        *(Act.from_line(line, unsafe=True) for line in _UNSAFE),
    ),
    phrasings=PHRASINGS,
)
