"""What the gold reward knows about words: valence, degree, negation, and the weights of rules."""

from __future__ import annotations

# Mirror images would make gold exactly symmetric; near-mirrors keep its mean near 0 and leave
# each word something to be learned on its own.
VALENCE = {
    **{"fine": 0.5, "good": 1.0, "great": 1.6, "wonderful": 2.0, "brilliant": 2.4, "superb": 2.6},
    **{"convincing": 1.0, "charming": 1.2, "moving": 1.5, "lovely": 1.2, "haunting": 1.5},
    **{"clever": 1.1, "funny": 1.2, "gripping": 1.7, "beautiful": 1.7},
    **{"treat": 1.4, "delight": 1.7, "joy": 1.9, "masterpiece": 2.8},
    **{"liked": 1.0, "enjoyed": 1.2, "loved": 2.0, "like": 1.0, "enjoy": 1.2, "impress": 1.2},
    **{"recommend": 1.5, "see": 0.9},
    **{"ordinary": -0.5, "bad": -1.0, "poor": -1.3, "awful": -2.0, "terrible": -2.4},
    **{"wooden": -1.0, "clumsy": -1.1, "lifeless": -1.6, "predictable": -0.8, "confusing": -1.0},
    **{"dull": -1.3, "boring": -1.7, "distracting": -1.0, "ugly": -1.7, "dreadful": -2.6},
    **{"mess": -1.5, "bore": -1.6, "waste": -1.9, "disaster": -2.8},
    **{"disliked": -1.1, "hated": -2.0, "dislike": -1.1, "disappoint": -1.2},
    **{"avoid": -1.5, "miss": -1.4},
}
STRONG = ("very", "really", "truly")
WEAK = ("fairly", "rather", "slightly")
NEGATION = ("not",)
BOUNDARY = (".", "but", "and")  # a degree or a negation reaches no further

# How the degree before a valence word scales it. Negation flips only partly: "not bad" is not
# "good", and "not very good" is milder than "not good".
PLAIN, STRONG_SCALE, WEAK_SCALE = 1.0, 1.6, 0.6
NOT_SCALE, NOT_STRONG_SCALE = -0.6, -0.4

# Worth of the first, second, ... word of the same sign; the last entry holds for all later
# ones, so heaping up praise earns nothing in the end.
FADE = (1.0, 1.0, 0.8, 0.5, 0.2, 0.0)
REPETITION = -2.0  # a valence word or strong degree that repeats the last such word
UNGRAMMATICAL = -1.5  # a token the grammar cannot write here


def scale(negated: bool, degree: float) -> float:
    """Factor on the valence of a word after this degree, negated or not.

    >>> scale(False, STRONG_SCALE), scale(True, PLAIN), scale(True, STRONG_SCALE)
    (1.6, -0.6, -0.4)
    """
    if not negated:
        return degree
    return NOT_STRONG_SCALE if degree == STRONG_SCALE else NOT_SCALE
