"""The things that nobody can know, which generated worlds draw from."""

import random
from collections.abc import Set
from typing import NamedTuple

from generating.dealing import deal, some

from prefreg.pocket.world import Mystery


class MysteryPool(NamedTuple):
    """What a mystery is drawn from; its fields are those of `Mystery`, larger."""

    name: str
    frames: tuple[str, ...]
    indirect: tuple[str, ...]
    statements: tuple[str, ...]
    values: tuple[str, ...]


MYSTERIES = (
    MysteryPool(
        "dream",
        ("What does {n} dream of?", "What are {n}'s dreams about?", "What does {n} dream about?",
         "What dream does {n} have?", "What is {n}'s dream about?",
         "What are the dreams of {n} about?", "Which dreams does {n} have?"),
        ("what {n} dreams of", "what {n}'s dreams are about"),
        ("{n} dreams of {v}.", "{n}'s dreams are about {v}.", "At night {n} dreams of {v}."),
        ("gold", "snow", "the moon", "summer", "a long road", "an old song", "the stars",
         "a dragon", "the rain"),
    ),
    MysteryPool(
        "wish",
        ("What is {n}'s secret wish?", "What does {n} wish for in secret?",
         "For what does {n} wish?", "What wish does {n} have?", "What does {n} wish for?",
         "What is the secret wish of {n}?", "For what does {n} wish in secret?"),
        ("what {n} wishes for", "what {n}'s secret wish is"),
        ("{n} wishes for {v}.", "{n}'s secret wish is {v}.", "In secret {n} wishes for {v}."),
        ("gold", "snow", "a new life", "peace", "a long road", "a warm winter", "a throne",
         "silence", "a miracle"),
    ),
    MysteryPool(
        "loss",
        ("What did {n} lose long ago?", "What has {n} lost?", "Which thing did {n} lose?",
         "What has {n} lost for good?", "What has {n} lost long ago?", "What did {n} lose?",
         "Which thing has {n} lost?"),
        ("what {n} lost long ago", "what {n} has lost"),
        ("{n} lost {v} long ago.", "Long ago {n} lost {v}."),
        ("a ring", "a key", "a letter", "a coin", "a watch", "a book", "a purse", "a locket",
         "a shoe"),
    ),
    MysteryPool(
        "morrow",
        ("What will {n} do tomorrow?", "What are {n}'s plans for tomorrow?",
         "What does {n} plan for tomorrow?", "What does {n} want to do tomorrow?",
         "What plans has {n} for tomorrow?", "What does {n} do tomorrow?",
         "What does {n} plan to do tomorrow?", "What are the plans of {n} for tomorrow?"),
        ("what {n} will do tomorrow", "what {n} plans for tomorrow"),
        ("{n} will {v} tomorrow.", "Tomorrow {n} will {v}."),
        ("sing", "sleep", "dance", "swim", "ride", "skate", "juggle", "climb", "whisper"),
    ),
    MysteryPool(
        "thought",
        ("What is {n} thinking of?", "What does {n} think of?", "Of what does {n} think?",
         "Of what is {n} thinking?", "What is {n} thinking of now?", "What does {n} think of now?",
         "Of what is {n} thinking now?"),
        ("what {n} is thinking of", "what {n} thinks of"),
        ("{n} is thinking of {v}.", "{n} thinks of {v}.", "Now {n} is thinking of {v}."),
        ("the clouds", "an old friend", "a feast", "the future", "a riddle", "the past",
         "a poem", "a joke", "the wind"),
    ),
    MysteryPool(
        "hoard",
        ("What does {n} hide under the bed?", "What is hidden under {n}'s bed?",
         "What has {n} hidden under the bed?", "What lies hidden under {n}'s bed?",
         "What does {n} hide under {n}'s bed?", "What lies under {n}'s bed?",
         "What is under {n}'s bed?"),
        ("what {n} hides under the bed", "what is under {n}'s bed"),
        ("{n} hides {v} under the bed.", "Under {n}'s bed lies {v}."),
        ("a doll", "a chest", "a diary", "a puzzle", "a crown", "a pearl", "a portrait",
         "a violin", "a globe"),
    ),
    MysteryPool(
        "word",
        ("What was {n}'s first word?", "What was the first word of {n}?",
         "What did {n} say first?", "Which word did {n} say first?", "What word did {n} say first?",
         "Which was {n}'s first word?", "What word was {n}'s first?"),
        ("what {n}'s first word was", "which word {n} said first"),
        ("{n}'s first word was {v}.", "First of all {n} said {v}."),
        ("ball", "bird", "spoon", "more", "light", "up", "moon", "bear", "yes"),
    ),
    MysteryPool(
        "gift",
        ("What gift does {n} hope for?", "What does {n} hope to get?",
         "Which gift does {n} hope for?", "For what gift does {n} hope?",
         "What does {n} hope to get as a gift?", "Which gift does {n} hope to get?",
         "What gift does {n} hope to get?"),
        ("what gift {n} hopes for", "what {n} hopes to get"),
        ("{n} hopes for {v}.", "{n} hopes to get {v}."),
        ("a necklace", "a clock", "a sweater", "a painting", "a vase", "a saucer", "a bracelet",
         "a trumpet", "a carousel"),
    ),
)  # fmt: skip


def draw_mysteries(count: int, known: Set[str], draw: random.Random) -> tuple[Mystery, ...]:
    """Draw that many mysteries."""
    return tuple(
        Mystery(
            name=pool.name,
            direct=deal(pool.frames, (4, 1, 1), draw, known),
            indirect=draw.choice(pool.indirect),
            statements=some(pool.statements, 2, draw),
            values=some(pool.values, 6, draw),
        )
        for pool in draw.sample(MYSTERIES, count)
    )
