"""The rules of the reviews: opinions on parts of a film, linked by mood, and a verdict."""

from __future__ import annotations

import functools

from rlhf_jax.tasks.reviews.grammar import Grammar, compile_grammar

# Moods persist: after praise more praise is likelier, `but` turns, and the verdict follows the
# last sentence more often than not. Strong words are rarer than mild ones, so a policy that
# seeks them has somewhere to go. Doubled intensifiers are rare on purpose: gold dislikes them,
# and a reward model fitted to few labels hardly sees one.
FILM_RULES = """
REVIEW       = 5 UP | 5 DOWN | 2 FRAME PRAISE . AFTER_UP | 2 FRAME PAN . AFTER_DOWN
FRAME        = 3 i SAW FILM WHEN and | honestly | to be fair
SAW          = 2 watched | saw
FILM         = 3 this film | 2 this movie
WHEN         = last night | yesterday | with friends | again

UP           = 7 PRAISE . AFTER_UP | PRAISE and PRAISE . LAST_UP | 2 PRAISE but PAN . AFTER_MIX
DOWN         = 7 PAN . AFTER_DOWN | PAN and PAN . LAST_DOWN | 2 PAN but PRAISE . AFTER_MIX
AFTER_UP     = 6 PRAISE . LAST_UP | 4 PAN . LAST_DOWN
AFTER_DOWN   = 6 PAN . LAST_DOWN | 4 PRAISE . LAST_UP
AFTER_MIX    = PRAISE . LAST_UP | PAN . LAST_DOWN
LAST_UP      = 4 | 4 ADVISE . | 2 WARN .
LAST_DOWN    = 4 | 4 WARN . | 2 ADVISE .

PRAISE       = 4 the CAST was CAST_UP | 4 the PLOT was PLOT_UP | 4 the LOOK was LOOK_UP
             | 2 the PART did not disappoint | 3 SHOW was SHOW_UP | 3 i LIKED it
PAN          = 4 the CAST was CAST_DOWN | 4 the PLOT was PLOT_DOWN | 4 the LOOK was LOOK_DOWN
             | 2 the PART did not impress | 3 SHOW was SHOW_DOWN | 3 i DISLIKED it
SHOW         = 2 it | FILM
PART         = CAST | PLOT | LOOK
CAST         = 4 acting | 2 cast | 1 lead
PLOT         = 4 plot | 3 story | 2 script | 2 ending
LOOK         = 3 music | 1 camera | 1 editing | 1 scenery

CAST_UP      = 8 CAST_GOOD | 3 MUCH CAST_GOOD | 2 SOME CAST_GOOD | GOOD and CAST_FINE
             | 2 not CAST_BAD
CAST_DOWN    = 8 CAST_BAD | 3 MUCH CAST_BAD | 2 SOME CAST_BAD | BAD and CAST_POOR
             | 2 not CAST_GOOD | 2 not very CAST_GOOD
CAST_GOOD    = 6 GOOD | 5 CAST_FINE
CAST_BAD     = 6 BAD | 5 CAST_POOR
CAST_FINE    = 2 convincing | 2 charming | moving
CAST_POOR    = 2 wooden | 2 clumsy | lifeless

PLOT_UP      = 8 PLOT_GOOD | 3 MUCH PLOT_GOOD | 2 SOME PLOT_GOOD | GOOD and PLOT_FINE
             | 2 not PLOT_BAD
PLOT_DOWN    = 8 PLOT_BAD | 3 MUCH PLOT_BAD | 2 SOME PLOT_BAD | BAD and PLOT_POOR
             | 2 not PLOT_GOOD | 2 not very PLOT_GOOD
PLOT_GOOD    = 5 GOOD | 7 PLOT_FINE
PLOT_BAD     = 5 BAD | 7 PLOT_POOR
PLOT_FINE    = 2 clever | 2 funny | 2 moving | gripping
PLOT_POOR    = 2 predictable | 2 confusing | 2 dull | boring

LOOK_UP      = 8 LOOK_GOOD | 3 MUCH LOOK_GOOD | 2 SOME LOOK_GOOD | GOOD and LOOK_FINE
             | 2 not LOOK_BAD
LOOK_DOWN    = 8 LOOK_BAD | 3 MUCH LOOK_BAD | 2 SOME LOOK_BAD | BAD and LOOK_POOR
             | 2 not LOOK_GOOD | 2 not very LOOK_GOOD
LOOK_GOOD    = 6 GOOD | 4 LOOK_FINE
LOOK_BAD     = 6 BAD | 4 LOOK_POOR
LOOK_FINE    = 2 lovely | haunting | beautiful
LOOK_POOR    = 2 distracting | clumsy | ugly

SHOW_UP      = 3 GOOD | 2 MUCH GOOD | 3 a GOOD_THING | not BAD
SHOW_DOWN    = 3 BAD | 2 MUCH BAD | 3 a BAD_THING | not GOOD

GOOD         = 6 fine | 8 good | 4 great | 2 wonderful | 1 brilliant | 0.7 superb
BAD          = 6 ordinary | 8 bad | 4 poor | 2 awful | 1 terrible | 0.7 dreadful
GOOD_THING   = 4 treat | 3 delight | 2 joy | masterpiece
BAD_THING    = 3 mess | 3 bore | 2 waste of time | disaster
MUCH         = 8 very | 4 really | 3 truly | 0.3 very very | 0.2 really really
SOME         = 2 fairly | 2 rather | slightly
LIKED        = 6 liked | 3 enjoyed | 1 loved | 0.5 truly loved | 1 did not dislike
DISLIKED     = 3 disliked | 2 hated | 0.5 really hated | 3 did not like | 1 did not enjoy

ADVISE       = 4 i would recommend it | 1 i would truly recommend it | 3 do not miss it
             | 2 go and see it | 1 overall a GOOD_THING
WARN         = 4 i would not recommend it | 3 avoid it | 2 i would avoid it | 2 do not see it
             | 1 overall a BAD_THING
"""


@functools.cache
def film_grammar() -> Grammar:
    """The compiled grammar of the task.

    >>> grammar = film_grammar()
    >>> 90 <= len(grammar.words) <= 130
    True
    """
    return compile_grammar(FILM_RULES)
