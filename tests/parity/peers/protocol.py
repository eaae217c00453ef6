"""How the tests and a peer's process talk: one file of questions, one of answers, numpy only.

A question names a function of the worker, its fixed options, its arrays with the draws along the
first axis, and the arrays to differentiate by. The answer holds, draw by draw, every output of the
function and the gradient of `sum(cotangent(value) * value)`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """Fixed unequal weights, so that the gradient of every entry of the value is seen."""
    return np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape)


def pack(questions: list[dict[str, Any]], path: str) -> None:
    """Writes questions: dicts with id, function, options, wrt and arrays."""
    spec = [{k: v for k, v in q.items() if k != "arrays"} for q in questions]
    arrays = {f"{q['id']}|{name}": x for q in questions for name, x in q["arrays"].items()}
    np.savez(path, spec=json.dumps(spec), **arrays)


def unpack(path: str) -> tuple[dict[str, Arrays], dict[str, str]]:
    """The answers by id, {output name: draws}, and the tracebacks of the questions that failed."""
    with np.load(path) as file:
        errors = json.loads(str(file["errors"]))
        answers: dict[str, Arrays] = {}
        for key in file.files:
            if key != "errors":
                id_, name = key.split("|")
                answers.setdefault(id_, {})[name] = file[key]
    return answers, errors


def _answer(question: dict[str, Any], arrays: Arrays, evaluate: Callable[..., Arrays]) -> Arrays:
    draws = len(next(iter(arrays.values())))
    rows = [
        evaluate(
            question["function"],
            {name: x[i] for name, x in arrays.items()},
            question["wrt"],
            question["options"],
        )
        for i in range(draws)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def serve(evaluate: Callable[..., Arrays]) -> None:
    """The worker's main program: `python worker.py questions.npz answers.npz`.

    Args:
        evaluate: (function name, arrays of one draw, names to differentiate by, options) ->
            {"value": ..., other outputs, "grad_<name>": ...}.
    """
    questions_path, answers_path = sys.argv[1:]
    with np.load(questions_path) as file:
        spec, arrays = json.loads(str(file["spec"])), {k: file[k] for k in file.files}
    results: Arrays = {}
    errors: dict[str, str] = {}
    for question in spec:
        id_ = question["id"]
        own = {k.split("|")[1]: x for k, x in arrays.items() if k.split("|")[0] == id_}
        try:
            answer = _answer(question, own, evaluate)
        except Exception:  # one question that fails must not take the others along
            errors[id_] = traceback.format_exc()
        else:
            results |= {f"{id_}|{name}": x for name, x in answer.items()}
    np.savez(answers_path, errors=json.dumps(errors), **results)
