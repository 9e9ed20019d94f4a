"""The attributes that generated worlds draw from, each with more values and ways to say it."""

import random
from collections.abc import Set
from typing import NamedTuple

from generating.dealing import deal, some

from prefreg.pocket.world import Attribute


class AttributePool(NamedTuple):
    """What an attribute is drawn from; its fields are those of `Attribute`, larger."""

    name: str
    values: tuple[str, ...]
    frames: tuple[str, ...]
    indirect: tuple[str, ...]
    nouns: tuple[str, ...]
    statements: tuple[str, ...]
    further: tuple[str, ...]
    short: tuple[str, ...]


_COLOURS = (
    "red", "blue", "green", "yellow", "white", "black", "grey", "brown", "pink", "purple",
    "silver", "golden", "beige", "turquoise",
)  # fmt: skip


def _colour(thing: str) -> AttributePool:
    frames = (
        "What colour is {n}'s X?", "Which colour does {n}'s X have?",
        "What is the colour of {n}'s X?", "What colour does {n}'s X have?",
        "Which colour is {n}'s X?", "What colour is the X of {n}?",
        "What is the colour of the X of {n}?", "Which colour does the X of {n} have?",
    )  # fmt: skip

    def of(*templates: str) -> tuple[str, ...]:
        return tuple(template.replace("X", thing) for template in templates)

    return AttributePool(
        thing,
        _COLOURS,
        of(*frames),
        of("what colour {n}'s X is", "which colour {n}'s X has", "what colour {n}'s X has"),
        of("the colour of {n}'s X", "the colour of the X of {n}"),
        of("{n}'s X is {v}.", "{n} has a {v} X.", "The X of {n} is {v}."),
        of("{S} X is {v}.", "{P} has a {v} X.", "{P} keeps a {v} X."),
        of("{V}.", "It is {v}."),
    )


def _count(things: str) -> AttributePool:
    frames = (
        "How many X does {n} have?", "How many X does {n} keep?", "How many X has {n}?",
        "What number of X does {n} have?", "What number of X does {n} keep?",
        "What is the number of {n}'s X?", "What is the number of X that {n} has?",
        "What number of X has {n}?",
    )  # fmt: skip

    def of(*templates: str) -> tuple[str, ...]:
        return tuple(template.replace("X", things) for template in templates)

    return AttributePool(
        things,
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
         "twelve"),
        of(*frames),
        of("how many X {n} has", "how many X {n} keeps", "what number of X {n} has"),
        of("the number of {n}'s X", "the number of X that {n} keeps"),
        of("{n} has {v} X.", "{n} keeps {v} X.", "There are {v} X at {n}'s house."),
        of("{P} has {v} X.", "{P} keeps {v} X.", "{P} looks after {v} X."),
        of("{V}.", "{V} X."),
    )  # fmt: skip


COLOURS = tuple(
    map(_colour, ("cart", "door", "kite", "tent", "gate", "blanket", "saddle", "canoe"))
)
COUNTS = tuple(map(_count, ("cows", "sheep", "pigs", "chickens", "llamas", "oxen")))
OTHERS = (
    AttributePool(
        "work",
        ("baker", "miller", "smith", "tailor", "potter", "weaver", "carpenter", "gardener",
         "hunter", "shepherd", "painter", "printer", "mason", "barber", "farmer", "brewer",
         "cobbler", "roofer", "nurse", "judge"),
        ("What is {n}'s job?", "What does {n} do for a living?", "What work does {n} do?",
         "Which job does {n} have?", "What job does {n} have?", "What is the work of {n}?",
         "Which work does {n} do?", "What is the job of {n}?",
         "What job does {n} do for a living?"),
        ("what {n} does for a living", "what {n}'s job is", "what work {n} does"),
        ("{n}'s job", "the work of {n}"),
        ("{n} is a {v}.", "{n} works as a {v}.", "{n}'s work is that of a {v}."),
        ("{P} works as a {v}.", "{P} earns a living as a {v}.", "{P} is a good {v}."),
        ("A {v}.",),
    ),
    AttributePool(
        "home",
        ("by the lake", "by the well", "by the river", "on the moor", "on the cliff",
         "on the hill", "in the meadow", "in the valley", "in the desert", "near the harbour",
         "near the road", "near the bridge", "behind the orchard", "behind the rocks",
         "under the oaks", "beside the canal"),
        ("Where does {n} live?", "Where is {n}'s house?", "Where do I find {n}'s house?",
         "Where does {n} live now?", "Where is the house of {n}?", "Where do I find {n}?",
         "Where does {n} have a house?", "Where is {n}'s house now?",
         "Where do I find the house of {n}?"),
        ("where {n} lives", "where {n}'s house is", "where {n} has a house"),
        ("the place where {n} lives", "the place of {n}'s house"),
        ("{n} lives {v}.", "{n}'s house stands {v}.", "{n} has a house {v}."),
        ("{P} lives {v}.", "{S} house stands {v}.", "{P} has a house {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "food",
        ("apples", "beans", "pears", "nuts", "stew", "pancakes", "butter", "berries", "carrots",
         "porridge", "onions", "pasta", "cheese", "rice", "cherries", "noodles"),
        ("What does {n} like to eat?", "What is {n}'s favourite food?",
         "Which food does {n} like best?", "What food does {n} like best?",
         "What does {n} like best to eat?", "What is the favourite food of {n}?",
         "Which food does {n} like to eat?", "What food does {n} like to eat?"),
        ("what {n} likes to eat", "what {n}'s favourite food is", "which food {n} likes best"),
        ("{n}'s favourite food", "the favourite food of {n}"),
        ("{n} likes {v} best.", "{n} likes to eat {v}.", "The food {n} likes best is {v}."),
        ("{P} loves to eat {v}.", "{P} often eats {v}.", "{P} likes to cook {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "drink",
        ("tea", "milk", "cider", "juice", "coffee", "cocoa", "water", "lemonade", "punch",
         "broth", "syrup", "mead"),
        ("What does {n} like to drink?", "What is {n}'s favourite drink?",
         "Which drink does {n} like best?", "What drink does {n} like best?",
         "What does {n} like best to drink?", "What is the favourite drink of {n}?",
         "What does {n} drink?", "Which drink does {n} like?"),
        ("what {n} likes to drink", "what {n}'s favourite drink is", "which drink {n} likes best"),
        ("{n}'s favourite drink", "the favourite drink of {n}"),
        ("{n} drinks {v}.", "{n}'s favourite drink is {v}.", "{n} likes to drink {v}."),
        ("{S} favourite drink is {v}.", "{P} loves to drink {v}.", "{P} likes a cup of {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "pet",
        ("pony", "lamb", "hen", "swan", "hedgehog", "turtle", "mouse", "pigeon", "donkey", "fox",
         "raven", "squirrel", "hamster", "dog", "cat", "parrot"),
        ("What pet does {n} have?", "Which animal does {n} keep?", "What is {n}'s pet?",
         "Which pet does {n} have?", "What animal does {n} have?", "Which pet does {n} keep?",
         "What animal does {n} keep?", "What is the pet of {n}?"),
        ("what pet {n} has", "which animal {n} keeps", "what animal {n} has"),
        ("the kind of animal that {n} keeps", "the kind of pet that {n} has"),
        ("{n} has a {v}.", "{n}'s pet is a {v}.", "{n} keeps a {v}."),
        ("{P} keeps a {v}.", "{S} pet is a {v}.", "{P} takes care of a {v}."),
        ("A {v}.",),
    ),
    AttributePool(
        "age",
        ("sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty",
         "sixty", "seventy", "eighty", "ninety"),
        ("How old is {n}?", "What is {n}'s age?", "What age is {n}?", "What is the age of {n}?",
         "What age does {n} have?", "How old is {n} now?", "What age is {n} now?",
         "What is {n}'s age now?", "What is the age of {n} now?"),
        ("how old {n} is", "what {n}'s age is", "what age {n} is"),
        ("{n}'s age", "the age of {n}"),
        ("{n} is {v} years old.", "{n} is {v}.", "The age of {n} is {v}."),
        ("{P} is {v} years old.", "{S} age is {v}.", "{P} is already {v} years old."),
        ("{V}.", "{V} years."),
    ),
    AttributePool(
        "music",
        ("fiddle", "lute", "cello", "banjo", "tuba", "lyre", "zither", "mandolin", "trombone",
         "clarinet", "bagpipe", "harp", "piano", "flute", "horn"),
        ("What instrument does {n} play?", "What is {n}'s instrument?",
         "Which instrument does {n} play?", "What can {n} play?", "What does {n} play?",
         "What instrument can {n} play?", "Which is {n}'s instrument?",
         "Which instrument can {n} play?"),
        ("what instrument {n} plays", "which instrument {n} can play", "what {n} can play"),
        ("{n}'s instrument", "the instrument that {n} plays"),
        ("{n} plays the {v}.", "{n}'s instrument is the {v}.", "{n} can play the {v}."),
        ("{P} plays the {v}.", "{P} likes to play the {v}.", "{P} owns a {v}."),
        ("The {v}.",),
    ),
    AttributePool(
        "day",
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        ("On which day does {n} rest?", "When does {n} rest?", "What is {n}'s day of rest?",
         "What day of rest does {n} have?", "Which day of rest does {n} have?",
         "On what day does {n} rest?", "What is the day of rest of {n}?",
         "Which day is {n}'s day of rest?", "On which day of the week does {n} rest?",
         "On what day of the week does {n} rest?"),
        ("when {n} rests", "on what day {n} rests", "which day {n}'s day of rest is"),
        ("{n}'s day of rest", "the day when {n} rests"),
        ("{n} rests on {v}.", "{n}'s day of rest is {v}.", "On {v} {n} rests."),
        ("{P} rests on {v}.", "{S} day of rest is {v}.", "{P} does not work on {v}."),
        ("On {v}.", "{v}."),
    ),
    AttributePool(
        "birthday",
        ("January", "February", "March", "April", "May", "June", "July", "August", "September",
         "October", "November", "December"),
        ("In which month was {n} born?", "When was {n} born?", "In what month was {n} born?",
         "When is {n}'s birthday?", "In which month is {n}'s birthday?",
         "When is the birthday of {n}?", "In what month is {n}'s birthday?",
         "In which month is the birthday of {n}?"),
        ("when {n} was born", "in which month {n} was born", "when {n}'s birthday is"),
        ("the month of {n}'s birthday", "the month in which {n} was born"),
        ("{n} was born in {v}.", "{n}'s birthday is in {v}.", "In {v} {n} was born."),
        ("{P} was born in {v}.", "{S} birthday is in {v}.", "{P} has a birthday in {v}."),
        ("In {v}.", "{v}."),
    ),
    AttributePool(
        "collection",
        ("stamps", "shells", "buttons", "feathers", "bottles", "spoons", "pictures", "ribbons",
         "marbles", "beads", "postcards", "teapots"),
        ("What does {n} collect?", "Which things does {n} collect?",
         "What things does {n} collect?", "What does {n} like to collect?",
         "What is in {n}'s collection?", "Which things are in {n}'s collection?",
         "What is in the collection of {n}?", "What things are in {n}'s collection?"),
        ("what {n} collects", "what is in {n}'s collection", "which things {n} collects"),
        ("the things that {n} collects", "the things in {n}'s collection"),
        ("{n} collects {v}.", "{n} has a collection of {v}.", "{n}'s collection is of {v}."),
        ("{P} collects {v}.", "{P} has many {v}.", "{S} collection is of {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "garden",
        ("roses", "tulips", "lilies", "daisies", "poppies", "sunflowers", "pansies", "lavender",
         "primroses", "orchids", "daffodils", "violets"),
        ("What grows in {n}'s garden?", "What does {n} grow?", "Which flowers does {n} grow?",
         "What flowers does {n} grow?", "Which flowers grow in {n}'s garden?",
         "What flowers grow in {n}'s garden?", "What grows in the garden of {n}?",
         "Which flowers grow in the garden of {n}?"),
        ("what grows in {n}'s garden", "which flowers {n} grows", "what flowers {n} grows"),
        ("the flowers in {n}'s garden", "the flowers that {n} grows"),
        ("{n} grows {v}.", "{n}'s garden is full of {v}.", "In {n}'s garden there are {v}."),
        ("{P} grows {v}.", "{S} garden is full of {v}.", "{P} plants {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "fear",
        ("spiders", "ghosts", "storms", "wolves", "snakes", "bats", "heights", "thunder",
         "crowds", "wasps", "owls", "shadows"),
        ("What is {n} afraid of?", "What does {n} fear?", "Of what is {n} afraid?",
         "What does {n} fear most?", "What is {n} most afraid of?",
         "Of what is {n} most afraid?", "Which thing does {n} fear?",
         "Which thing does {n} fear most?"),
        ("what {n} is afraid of", "what {n} fears", "what {n} fears most"),
        ("the thing that {n} fears most", "{n}'s greatest fear"),
        ("{n} is afraid of {v}.", "{n} fears {v}.", "{n} fears {v} most."),
        ("{P} is afraid of {v}.", "{P} fears {v}.", "{P} runs away from {v}."),
        ("{V}.",),
    ),
    AttributePool(
        "journey",
        ("by sledge", "by train", "by ship", "by coach", "by tram", "by bicycle", "by balloon",
         "by bus", "by ferry", "by scooter", "on foot", "on skis"),
        ("How does {n} travel?", "How does {n} go to town?", "How does {n} get to town?",
         "In what way does {n} travel?", "In which way does {n} travel?",
         "In what way does {n} go to town?", "How does {n} like to travel?",
         "How does {n} like to go to town?"),
        ("how {n} travels", "how {n} goes to town", "in what way {n} travels"),
        ("the way in which {n} travels", "{n}'s way to town"),
        ("{n} travels {v}.", "{n} goes to town {v}.", "{n} gets to town {v}."),
        ("{P} travels {v}.", "{P} goes to town {v}.", "{P} likes to travel {v}."),
        ("{V}.",),
    ),
)  # fmt: skip


def draw_attributes(count: int, known: Set[str], draw: random.Random) -> tuple[Attribute, ...]:
    """Draw that many attributes, of which at most one is a colour and one a number."""
    pools = [draw.choice(COLOURS), draw.choice(COUNTS), *OTHERS]
    return tuple(
        Attribute(
            name=pool.name,
            values=some(pool.values, min(8, len(pool.values)), draw),
            direct=deal(pool.frames, (4, 1, 2), draw, known),
            indirect=some(pool.indirect, 2, draw),
            noun=draw.choice(pool.nouns),
            statements=some(pool.statements, 2, draw),
            further=some(pool.further, 2, draw),
            short=pool.short,
        )
        for pool in draw.sample(pools, count)
    )
