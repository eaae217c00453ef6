"""Puts a finished report card into the README and docs/card.md.

python -m experiments.exact hydra.run.dir=outputs/card
python -m benchmarks.card outputs/card
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown as tables
from benchmarks.records import ROOT, as_command
from rlhf_jax.config import UserError
from rlhf_jax.report.card import load_card, markdown, table

README, PAGE = ROOT / "README.md", ROOT / "docs" / "card.md"
SHOWN = ("gap", "own_gap", "beta_error", "beta_r2", "kl_efficiency")
SAMPLED = ("ppo", "rloo", "dr_grpo", "reinforce")  # that the gates hold to the optimum
K1, K3 = "rloo_k1_in_loss", "rloo_k3_in_loss"


def excerpt(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that the README shows."""
    bandit = [line for line in lines if line["task"] == "bandit" and line["kind"] == "trained"]
    return [line for line in lines if line["task"] == "token_tree"] + bandit


def meaning(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the card says, in three sentences."""
    by = {(line["task"], line["algo"]): line for line in lines}
    wanted = [("token_tree", algo) for algo in (*SAMPLED, "dpo")] + [("bandit", K1), ("bandit", K3)]
    for cell in wanted:
        if cell not in by:
            raise UserError(f"the card lacks {'/'.join(cell)}; run all of it")
    of = lambda task, algo, name: 100 * by[(task, algo)][name].value
    gap = max(of("token_tree", algo, "gap") for algo in SAMPLED)
    price = max(of("token_tree", algo, "beta_error") for algo in SAMPLED)
    dpo, k1, k3 = of("token_tree", "dpo", "gap"), of("bandit", K1, "gap"), of("bandit", K3, "gap")
    own = of("bandit", K3, "own_gap")
    return (
        f"What it says: told the same objective, PPO, RLOO, Dr. GRPO and REINFORCE all come within "
        f"{gap:.1f} % of the\nknown optimum and behave by the price of KL they were given to "
        f"{price:.1f} %; DPO on pairs is {dpo:.1f} % away.\nMove the KL into the loss on `bandit`, "
        f"and RLOO ends {k3:.0f} % of the gap away with k3, which is its own predicted\nfixed "
        f"point to {own:.2f} %, and {k1:.0f} % with k1, which has no gradient there.\nSo a "
        f"difference between two curves can be a finding about the objective, an unfinished run or "
        f"a bug, and here it\nis known which."
    )


def verdict(gates: Sequence[Mapping[str, Any]]) -> str:
    """How many gates passed, and which did not."""
    missed = [f"{gate['name']} ({gate['found']})" for gate in gates if not gate["passed"]]
    tail = f"; missed: {'; '.join(missed)}" if missed else ""
    return f"{len(gates) - len(missed)} of {len(gates)} gates passed{tail}."


def took(card: Mapping[str, Any]) -> str:
    """Minutes and machine."""
    minutes, seconds = divmod(round(card["facts"]["seconds"]), 60)
    return f"{minutes}:{seconds:02d} minutes on {card['facts']['device']}"


def in_readme(card: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """The block of the README."""
    settings = card["settings"]
    return (
        f"{markdown(excerpt(lines), SHOWN)}\n\n{meaning(lines)} {verdict(card['gates'])}\n`gap` is "
        f"the share of what could be gained that is left (interquartile mean over "
        f"{settings['instances']} instances and {settings['seeds']} seeds, [95 %\nbootstrap "
        f"interval]); `completions` are drawn, or read in pairs; rows in italics are not trained. "
        f"The whole card took\n{took(card)}. All tables: [docs/card.md](docs/card.md)."
    )


def command(card: Mapping[str, Any]) -> str:
    """What makes this card again: as it was typed, but for where it was written."""
    typed = shlex.split(card["facts"]["command"])
    place = ("hydra.run.dir=", "resume=")
    return shlex.join([word for word in typed if not word.startswith(place)])


def in_docs(card: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """All tables."""
    passed = {True: "passed", False: "**missed**"}
    gates = [
        [passed[gate["passed"]], *(gate[name] for name in ("name", "wanted", "found"))]
        for gate in card["gates"]
    ]
    parts = [
        "# The report card",
        f"`{command(card)}`, {took(card)}. What the columns mean: [exact.md](exact.md).",
        markdown(lines),
        "**Gates**",
        tables.table(["", "gate", "wanted", "found"], gates),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("card", type=Path, help="directory of the card")
    path = parser.parse_args().card
    try:
        card = load_card(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no finished card ({error})") from None
    lines = table(card)
    README.write_text(tables.replaced(README.read_text(), "card", in_readme(card, lines)))
    PAGE.write_text(in_docs(card, lines))
    print(meaning(lines), verdict(card["gates"]), sep="\n")


if __name__ == "__main__":
    as_command(main)
