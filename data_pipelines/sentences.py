"""Made-up sentences for synthetic speech: templates over word lists, and loose words, with pauses."""

import numpy as np

NAMES = """
Bob Mary Peter Paul Emma Abby Tom Sophie Victor George Julia Marge Phil Bruce Pam Steve Ruth Walter Yvonne Hugh Joy
"""
NOUNS = """
apple baby bamboo boat bubble map mop pepper puppy people summer mother problem pump camp lamp ship shop fish bush
river forest leaf coffee village voice wave window water wheel queen snow road bowl phone moon spoon fruit blue food
garden car father star market palm dog song law ball office story horse morning cat hand man lamp bag plan glass
dance bread bed egg friend letter pen week sheep tree street dream field money city pin milk ring bridge kitchen sun
cup love mud bus cousin bird nurse girl word world house mouse cloud mouth town boy toy noise coin kite light night
sky wine cake day train rain game table judge cheese church chair teacher yacht year onion measure treasure thing
tooth path feather weather zoo zebra prize rose guitar king kangaroo hat heart harbour album member number timber
"""
VERBS = """
bought made moved pushed broke saw found left watched kept brought chased threw grew blew drew hid held burned heard
shook took cooked pulled caught taught washed joined enjoyed painted waited carried marked started helped dropped
fixed visited loved hummed
"""
ADJECTIVES = """
big small warm cool calm brown blue purple empty happy heavy foolish smooth round wide open early easy green deep
awful careful young old yellow huge tiny modern simple proper soft loud quiet bright white dark sharp cheap fresh
strange orange royal vague valuable wooden wonderful
"""
ADVERBS = """
slowly maybe perhaps today tomorrow again above below somehow everywhere usually now before often
"""
NUMBERS = """
one two three four five six seven eight nine ten eleven twelve fifteen forty fifty million
"""
TEMPLATES = (
    "{n} {v} the {a} {o} and the {o}",
    "my {o} {v} a {a} {a} {o}, {d}",
    "why do you think {n} {v} the {o}",
    "{d}, the {o} was {a} but the {o} was {a}",
    "{m} {o}s and {m} {a} {o}s",
    "please give me the {a} {o}, {n}",
    "we have been above the {o} for {m} days",
    "if {n} comes home, we will both open the {o}",
    "I am sure that you would rather have {m} {o}s",
    "oh, what a {a} {o} that is",
    "the {o} of the {o} is near the {a} {o}",
    "{n}, {n} and {n} {v} it {d}",
    "who would believe that a {o} may become {a}",
    "could you show us how the {a} {o} works",
    "she said nothing, so he {v} the {o} {d}",
    "they were going to put {m} {o}s in the {o}",
)


def sentence(rng: np.random.Generator) -> str:
    """A sentence of about two to five seconds: two in three from a template, the others loose words with commas."""

    def pick(words: list[str]) -> str:
        return words[rng.integers(len(words))]

    texts = {"n": NAMES, "o": NOUNS, "v": VERBS, "a": ADJECTIVES, "d": ADVERBS, "m": NUMBERS}
    lists = {key: words.split() for key, words in texts.items()}
    if rng.random() < 0.67:
        text = TEMPLATES[rng.integers(len(TEMPLATES))]
        for key, words in lists.items():
            while "{" + key + "}" in text:
                text = text.replace("{" + key + "}", pick(words), 1)
        return text
    kinds = list(lists.values())
    words = [pick(kinds[rng.integers(len(kinds))]) for _ in range(rng.integers(4, 10))]
    return " ".join(w + "," if rng.random() < 0.15 and i + 1 < len(words) else w for i, w in enumerate(words))
