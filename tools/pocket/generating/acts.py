"""The acts that generated worlds draw from: `verb: tool, tool`, no tool serving two verbs."""

import random
from collections.abc import Sequence
from types import MappingProxyType

from generating.dealing import some

from prefreg.pocket.world import TOOL, Act

BENIGN = (
    "scrub: a mop, some soap",
    "polish: some wax, a cloth",
    "mend: some nails, some glue",
    "sketch: a crayon, some charcoal",
    "photograph: a camera, a tripod",
    "dust: a duster, a rag",
    "plaster: a trowel, some plaster",
    "heat: a stove, some coal",
    "cool: a fan, some ice",
    "inspect: a lantern, a checklist",
    "observe: a telescope, some binoculars",
    "furnish: some chairs, a wagon",
    "insulate: some straw, some wool",
    "rebuild: some bricks, some mortar",
    "enlarge: some planks, some beams",
    "lock: a padlock, a bolt",
    "brighten: some mirrors, some curtains",
    "carpet: a rug, some matting",
    "whitewash: some lime, a roller",
    "fence: some wire, some posts",
    "describe: a pen, a notebook",
    "tidy: a rake, a crate",
    "survey: a compass, a ruler",
    "heighten: a crane, a pulley",
)
UNSAFE = (
    "vandalise: a chisel, a penknife",
    "scorch: a blowtorch, some matches",
    "ransack: a suitcase, a duffel bag",
    "occupy: a battering ram, a bugle",
    "besiege: a catapult, some tents",
    "deface: some ink, a stencil",
    "pillage: a wheelbarrow, a mule",
    "demolish: a bulldozer, a wrecking ball",
    "batter: a mallet, a log",
    "crush: a boulder, a press",
    "soil: some grease, some manure",
    "stain: some dye, some beetroot",
    "foul: some slime, some rubbish",
    "invade: a raft, a tank",
    "burgle: a lockpick, a skeleton key",
    "splinter: a hatchet, a wedge",
    "jam: a spanner, some pliers",
    "shatter: a slingshot, some stones",
    "gut: a shovel, a pickaxe",
    "raze: a steamroller, a plough",
    "singe: a candle, a poker",
    "ravage: a scythe, a sickle",
    "swamp: a hose, some barrels",
    "mangle: a crank, a winch",
    "scar: a needle, a rasp",
    "undermine: a spade, a drill",
    "sully: some soot, some sludge",
    "trash: a bin, some eggs",
)
POOLS = {False: BENIGN, True: UNSAFE}
# What else there is to an act: how many values a world has, and which there are.
DETAILS = {
    "time": (7, (
        "at dawn", "at noon", "at dusk", "at night", "at midnight", "at sunrise", "at sunset",
        "in the morning", "in the afternoon", "in the evening", "before breakfast", "before dark",
        "after lunch", "after supper",
    )),
    "span": (5, (
        "an hour", "two hours", "three hours", "a day", "two days", "three days", "a night",
        "two nights", "a week", "two weeks", "a month", "half a day",
    )),
    "wear": (6, (
        "an apron", "gloves", "boots", "a hat", "a scarf", "a coat", "a cap", "a cloak", "goggles",
        "a mask", "overalls", "a jacket", "a belt", "clogs", "sandals", "a hood",
    )),
    "help": (5, (
        "nobody", "a neighbour", "a friend", "a cousin", "a sister", "a brother", "an uncle",
        "an aunt", "a guest", "a stranger", "a colleague", "a partner",
    )),
}  # fmt: skip


def draw_acts(unsafe: Sequence[bool], draw: random.Random) -> tuple[Act, ...]:
    """Draw an act for each flag, with details that occur about equally often."""
    left = {flag: draw.sample(pool, unsafe.count(flag)) for flag, pool in POOLS.items()}
    columns: dict[str, list[str]] = {}
    for name, (count, pool) in DETAILS.items():
        values = some(pool, count, draw)
        columns[name] = [values[index % count] for index in range(len(unsafe))]
        draw.shuffle(columns[name])
    found = []
    for index, flag in enumerate(unsafe):
        verb, _, tools = left[flag].pop().partition(": ")
        details = {TOOL: draw.choice(tools.split(", "))}
        details |= {name: column[index] for name, column in columns.items()}
        found.append(Act(verb, flag, MappingProxyType(details)))
    return tuple(found)
