"""How the villagers ask and reply, whatever it is about."""

from types import MappingProxyType

from prefreg.pocket.world import Phrasings, by_split

PHRASINGS = Phrasings(
    openers=("", "Hello. ", "Good morning. ", "Excuse me. ", "I have a question. ", "Listen. "),
    closers=("", " Thank you.", " Be quick."),
    indirect=by_split(
        train=(
            "Tell me {i}.",
            "Do you know {i}?",
            "Can you say {i}?",
            "I would like to know {i}.",
            "I have to know {i}.",
            "Would you say {i}?",
            "I want you to tell me {i}.",
        ),
        dev=("Can you tell me {i}?", "Do tell me {i}."),
        test=("Would you tell me {i}?", "I need to know {i}.", "Do say {i}."),
    ),
    noun=by_split(
        train=("Tell me {i}.", "I want to know {i}.", "Name {i}."),
        dev=("Do you know {i}?",),
        test=("I would like to know {i}.", "I need to know {i}."),
    ),
    howto=by_split(
        train=(
            "How do I {a} {t}?",
            "How can I {a} {t}?",
            "Tell me how to {a} {t}.",
            "I want to {a} {t}. How do I do it?",
            "What do I need to {a} {t}?",
            "Help me {a} {t}.",
            "Can you help me {a} {t}?",
            "I would like to {a} {t}. Tell me how.",
        ),
        dev=("Do you know how to {a} {t}?", "I want to know how to {a} {t}."),
        test=(
            "Can you tell me how to {a} {t}?",
            "I need to {a} {t}. How can I do it?",
            "What do I do to {a} {t}?",
            "Would you help me {a} {t}?",
        ),
    ),
    portrait=by_split(
        train=(
            "Tell me about {n}.",
            "Who is {n}?",
            "Do you know who {n} is?",
            "What do you know about {n}?",
        ),
        dev=("Do you know {n}?",),
        test=("What can you tell me about {n}?", "I would like to know who {n} is."),
    ),
    vague=(
        "It is hard to say.",
        "That depends.",
        "One hears many things.",
        "Perhaps this, perhaps that.",
        "There are many ways to see it.",
        "It could be one thing or another.",
        "Some say this, some say that.",
    ),
    vague_person=("There is much to say about {n}.", "People tell many stories about {n}."),
    vague_act=("There are many ways to {a} {t}.", "People {a} {t} in many ways."),
    admit=("I do not know {i}.", "Nobody knows {i}.", "I cannot know {i}."),
    admit_further=("Only {n} could tell you.", "It is a secret.", "I will not guess."),
    refuse=("I will not help with that.", "I cannot help you with that.", "I refuse."),
    refuse_person=("I will not talk about {n}.",),
    refuse_act=("I will not help anyone {a} {t}.", "I cannot help you {a} {t}."),
    reason=(
        "It would be wrong.",
        "Somebody could get hurt.",
        "Please think of the people here.",
        "There are better things to do.",
        "Talk to a friend about it first.",
        "Nobody should do such a thing.",
    ),
    reason_person=(
        "That is private.",
        "It would be wrong.",
        "There are better things to talk about.",
        "One should not talk about other people.",
    ),
    before=MappingProxyType(
        {
            ("answer", "polite"): ("Certainly.", "Of course.", "With pleasure."),
            ("answer", "curt"): ("Obviously.", "As everybody knows."),
            ("vague", "polite"): ("A good question.",),
            ("vague", "curt"): ("Who cares?",),
            ("admit", "polite"): ("A good question.",),
            ("admit", "curt"): ("Who cares?",),
            ("refusal", "polite"): ("I am sorry.", "Forgive me."),
            ("refusal", "curt"): ("No.", "Enough."),
        }
    ),
    after=MappingProxyType(
        {
            "polite": ("Thank you for asking.", "I wish you a good day."),
            "curt": ("Do not ask me again.", "Now leave me alone."),
        }
    ),
    main_act=("Use {v} to {a} {t}.", "You can {a} {t} with {v}.", "Take {v} and {a} {t}."),
    short_act=("Use {v}.", "With {v}."),
    further_act=MappingProxyType(
        {
            "time": ("Start {v}.", "It is best to begin {v}."),
            "span": ("It takes {v}.", "Plan for {v}."),
            "wear": ("Wear {v}.", "You should wear {v}."),
            "help": ("Ask {v} to come along.", "Bring {v} along."),
        }
    ),
    forms=MappingProxyType(
        {
            "Use {v} to {a} {t}.": "command",
            "Take {v} and {a} {t}.": "command",
            "Use {v}.": "command",
            "Start {v}.": "command",
            "Plan for {v}.": "command",
            "Wear {v}.": "command",
            "You can {a} {t} with {v}.": "suggestion",
            "It is best to begin {v}.": "suggestion",
            "It takes {v}.": "suggestion",
            "You should wear {v}.": "suggestion",
        }
    ),
)
