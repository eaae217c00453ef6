"""Weighted rules written as text, the readable form of a grammar."""

from __future__ import annotations

Symbols = tuple[str, ...]
Rules = dict[str, list[tuple[float, Symbols]]]  # name -> (probability, symbols) of alternatives


class GrammarError(ValueError):
    """Rules that do not describe an automaton; the message names the rule."""


def parse_rules(text: str) -> Rules:
    """Reads lines `NAME = alternative | 2 alternative`; a leading number is the weight, else 1.

    Upper-case symbols name rules, all others are words; an alternative may be empty. A line that
    starts with `|` continues the rule above. `#` starts a comment.

    Raises:
        GrammarError: a rule defined twice, used but not defined, or with weights not positive.

    >>> parse_rules("A = good B | 2\\nB = film")
    {'A': [(0.3333333333333333, ('good', 'B')), (0.6666666666666666, ())], 'B': [(1.0, ('film',))]}
    """
    rules: Rules = {}
    for name, body in _rule_lines(text):
        if name in rules:
            raise GrammarError(f"rule {name} is defined twice")
        alternatives = [_alternative(name, part.split()) for part in body.split("|")]
        total = sum(weight for weight, _ in alternatives)
        rules[name] = [(weight / total, symbols) for weight, symbols in alternatives]
    used = {s for parts in rules.values() for _, symbols in parts for s in symbols}
    missing = sorted(s for s in used if s.isupper() and s not in rules)
    if missing or not rules:
        raise GrammarError(f"rules used but not defined: {', '.join(missing) or 'there are none'}")
    return rules


def _rule_lines(text: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for line in (raw.split("#")[0].strip() for raw in text.splitlines()):
        if line.startswith("|") and lines:
            lines[-1] = (lines[-1][0], f"{lines[-1][1]} {line}")
        elif line:
            name, equals, body = line.partition("=")
            if not equals or not name.strip().isupper():
                raise GrammarError(f"expected `NAME = ...`, got {line!r}")
            lines.append((name.strip(), body))
    return lines


def _alternative(name: str, symbols: list[str]) -> tuple[float, Symbols]:
    weight = 1.0
    if symbols and symbols[0].replace(".", "", 1).isdigit():
        weight = float(symbols.pop(0))
    if weight <= 0:
        raise GrammarError(f"rule {name}: weight {weight} is not positive")
    return weight, tuple(symbols)
