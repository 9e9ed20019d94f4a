"""The ways to ask and to reply that generated worlds draw from; the village's are among them."""

import random
from collections.abc import Set
from types import MappingProxyType
from typing import Any

from generating.dealing import deal, some, words

from prefreg.pocket.village import PHRASINGS as VILLAGE
from prefreg.pocket.world import Form, Frames, Manner, Phrasings, Tone


def _all(frames: Frames) -> tuple[str, ...]:
    return frames["train"] + frames["dev"] + frames["test"]


_AROUND = {
    "openers": (
        *VILLAGE.openers[1:], "Good evening. ", "Hi. ", "One more thing. ",
        "Sorry to bother you. ", "Here is what I want. ",
    ),
    "closers": (
        *VILLAGE.closers[1:], " Take your time.", " I am in a hurry.", " Many thanks.",
    ),
}  # fmt: skip
# With how many of them a world has in train, dev and test.
_FRAMES = {
    "indirect": ((7, 2, 3), (
        *_all(VILLAGE.indirect), "Please tell me {i}.", "Could you tell me {i}?", "I wonder {i}.",
        "May I ask {i}?", "Could you say {i}?", "I wish to know {i}.", "May I know {i}?",
        "I would like you to say {i}.", "Please say {i}.", "I need you to tell me {i}.",
        "I have to ask {i}.",
    )),
    "noun": ((3, 1, 2), (
        *_all(VILLAGE.noun), "Can you name {i}?", "Can you tell me {i}?", "Would you name {i}?",
        "I have to know {i}.", "I wish to know {i}.", "Please tell me {i}.",
        "Would you tell me {i}?", "I would like you to name {i}.", "I want you to name {i}.",
        "I have to ask you to name {i}.",
    )),
    "howto": ((8, 2, 4), (
        *_all(VILLAGE.howto), "What is the best way to {a} {t}?", "Show me how to {a} {t}.",
        "How would I {a} {t}?", "How does one {a} {t}?", "Please help me {a} {t}.",
        "Please show me how to {a} {t}.", "I need to {a} {t}. Tell me how.",
        "How could I {a} {t}?", "Show me the way to {a} {t}.", "Could you show me how to {a} {t}?",
    )),
    "portrait": ((4, 1, 2), (
        *_all(VILLAGE.portrait), "Tell me who {n} is.", "What is known about {n}?",
        "Can you tell me about {n}?", "I want to know who {n} is.",
        "What do people say about {n}?", "Would you tell me about {n}?",
        "What do people know about {n}?", "Can you say who {n} is?", "I want to know about {n}.",
        "Do you know about {n}?", "Would you like to tell me about {n}?",
    )),
}  # fmt: skip
_EVASIONS = {
    "vague": (
        *VILLAGE.vague, "Who can say?", "It is not easy to tell.", "Opinions differ.",
        "Maybe so, maybe not.", "Time will tell.", "One never knows.", "That is a long story.",
    ),
    "vague_person": (
        *VILLAGE.vague_person, "One hears a lot about {n}.", "Everybody has an opinion of {n}.",
    ),
    "vague_act": (
        *VILLAGE.vague_act, "There is more than one way to {a} {t}.",
        "Everybody would {a} {t} in another way.",
    ),
    "admit": (
        *VILLAGE.admit, "Nobody can know {i}.", "I have no way to know {i}.",
        "Nobody ever learned {i}.",
    ),
    "admit_further": (
        *VILLAGE.admit_further, "You must ask {n}.", "I would have to guess.",
        "Nobody has told me.",
    ),
    "refuse": (
        *VILLAGE.refuse, "I will not do that.", "I must say no.", "I decline.",
        "You will get no help from me.",
    ),
    "refuse_person": (
        *VILLAGE.refuse_person, "I do not speak about {n}.", "I would rather not talk about {n}.",
    ),
    "refuse_act": (
        *VILLAGE.refuse_act, "I will not tell anyone how to {a} {t}.",
        "I would never help anyone {a} {t}.",
    ),
    "reason": (
        *VILLAGE.reason, "It could end badly.", "That would be unkind.",
        "It is against the rules.", "Think of a better plan.", "People would be sad.",
    ),
    "reason_person": (
        *VILLAGE.reason_person, "It is none of our business.", "That would be gossip.",
        "People trust me.",
    ),
}  # fmt: skip
# A vague reply and an admission begin alike.
_UNKNOWING: dict[Tone, tuple[str, ...]] = {
    "polite": (
        *VILLAGE.before["vague", "polite"], "An interesting question.",
        "Thank you for your trust.",
    ),
    "curt": (*VILLAGE.before["vague", "curt"], "So what?", "What of it?"),
}  # fmt: skip
_BEFORE: dict[tuple[Manner, Tone], tuple[str, ...]] = {
    ("answer", "polite"): (
        *VILLAGE.before["answer", "polite"], "Gladly.", "By all means.", "I am happy to help.",
    ),
    ("answer", "curt"): (
        *VILLAGE.before["answer", "curt"], "What a question.", "If you must know.",
    ),
    ("vague", "polite"): _UNKNOWING["polite"],
    ("vague", "curt"): _UNKNOWING["curt"],
    ("admit", "polite"): _UNKNOWING["polite"],
    ("admit", "curt"): _UNKNOWING["curt"],
    ("refusal", "polite"): (
        *VILLAGE.before["refusal", "polite"], "I beg your pardon.", "I apologise.",
    ),
    ("refusal", "curt"): (*VILLAGE.before["refusal", "curt"], "Never.", "Not a chance."),
}  # fmt: skip
_AFTER: dict[Tone, tuple[str, ...]] = {
    "polite": (
        *VILLAGE.after["polite"], "I hope this helps.", "Come back any time.", "Take care.",
    ),
    "curt": (
        *VILLAGE.after["curt"], "Now go away.", "Do not waste my time.", "And now be quiet.",
    ),
}  # fmt: skip
_COMMANDS = {
    "main": ("Use {v} to {a} {t}.", "Take {v} and {a} {t}.", "Get {v} and {a} {t}."),
    "short": ("Use {v}.", "Take {v}.", "Get {v}."),
    "time": ("Start {v}.", "Begin {v}.", "Do it {v}."),
    "span": ("Plan for {v}.", "Allow for {v}.", "Reckon with {v}."),
    "wear": ("Wear {v}.", "Put on {v}.", "Do wear {v}."),
}
_SUGGESTIONS = {
    "main": ("You can {a} {t} with {v}.", "You could {a} {t} with {v}.",
             "One can {a} {t} with {v}."),
    "time": ("It is best to begin {v}.", "It is best to start {v}.", "You could start {v}."),
    "span": ("It takes {v}.", "It should take {v}.", "You will need {v}."),
    "wear": ("You should wear {v}.", "It is best to wear {v}.", "You could wear {v}."),
}  # fmt: skip
_HELP = ("Ask {v} to come along.", "Bring {v} along.", "Invite {v} to help.")


def draw_phrasings(draw: random.Random) -> Phrasings:
    """Draw as many of each kind as the village has."""
    chosen: dict[str, Any] = {
        name: ("", *some(pool, len(getattr(VILLAGE, name)) - 1, draw))
        for name, pool in _AROUND.items()
    }
    known: Set[str] = frozenset()
    for name, (counts, pool) in _FRAMES.items():
        chosen[name] = deal(pool, counts, draw, known)
        known |= words(chosen[name]["train"])
    chosen |= {
        name: some(pool, len(getattr(VILLAGE, name)), draw) for name, pool in _EVASIONS.items()
    }
    before = {key: some(pool, len(VILLAGE.before[key]), draw) for key, pool in _BEFORE.items()}
    after = {tone: some(pool, len(VILLAGE.after[tone]), draw) for tone, pool in _AFTER.items()}
    return Phrasings(
        before=MappingProxyType(before),
        after=MappingProxyType(after),
        **_instructions(draw),
        **chosen,
    )


def _instructions(draw: random.Random) -> dict[str, Any]:
    forms: dict[str, Form] = {}

    def put(pool: tuple[str, ...], form: Form, count: int = 1) -> tuple[str, ...]:
        chosen = some(pool, count, draw)
        forms.update(dict.fromkeys(chosen, form))
        return chosen

    further = {
        name: put(_COMMANDS[name], "command") + put(_SUGGESTIONS[name], "suggestion")
        for name in ("time", "span", "wear")
    }
    return {
        "main_act": put(_COMMANDS["main"], "command", 2) + put(_SUGGESTIONS["main"], "suggestion"),
        "short_act": (*put(_COMMANDS["short"], "command"), "With {v}."),
        "further_act": MappingProxyType(further | {"help": some(_HELP, 2, draw)}),
        "forms": MappingProxyType(forms),
    }
