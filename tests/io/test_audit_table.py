"""The tables at the end of an audit."""

import io

from rich.console import Console

from rlhf_jax.io.audit_table import print_audit


def record():
    arm = {"name": "clip", "group": "a", "note": "", "loss": -0.0123, "grad_norm": 0.5}
    arm |= {"clip_fraction": 0.25, "cosine": 1.0, "halves": None}
    term = {"name": "loss k1", "group": "b", "note": "", "kl": 0.3, "grad_norm": 0.1}
    term |= {"cosine_token": -0.2, "cosine_text": None, "halves": 0.0}
    place = {"policy": "dpo", "task": "imdb", "updates": 80, "kl": 5.0, "kl_coef": 0.15}
    place |= {"completions": 64, "tokens": 999, "steps": 8, "steps_per_update": 16}
    return {
        "own": "clip",
        "arms": [arm, arm | {"name": "gspo", "note": "is another thing"}],
        "kl_terms": [term],
        "place": place | {"ratio_max": 1.5},
        "first_step": {"cosine": 0.99999, "ratio_error": 2.5e-7},
    }


def printed(width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    print_audit(record(), console)
    return console.export_text()


def test_the_tables_fit_a_narrow_terminal_and_tell_all():
    text = printed()
    table = text[: text.index("gradient: its")]
    assert max(map(len, table.splitlines())) <= 80
    assert "-0.0123" in table and "cos clip" in table and "gspo *" in table and "-0.2" in table
    assert "* gspo is another thing." in text
    assert "dpo on imdb after 80 updates, 5 nats/text" in text
    assert "64 completions, 999 tokens; compared after 8 of 16 optimizer steps" in text
    assert "smallest cosine 1, largest |ratio - 1| 2e-07" in text


def test_what_is_unknown_is_a_dash():
    line = next(x for x in printed().splitlines() if x.strip().startswith("loss k1"))
    assert line.split() == ["loss", "k1", "0.3", "0.1", "-0.2", "-", "0"]
