"""The README's code runs, and its first commands are the ones the gate runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_snippet_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    printed = [float(x) for x in capsys.readouterr().out.strip("[] \n").split()]
    said = re.search(r"# \[(.*)\]", code)
    assert said and printed == pytest.approx([float(x) for x in said.group(1).split()])


def test_the_gate_runs_the_first_commands():
    start = README.split("## Start")[1].split("## ")[0]
    commands = [c for block in re.findall(r"```\n(.*?)```", start, re.S) for c in block.split("&&")]
    wanted = [c.strip() for c in commands if c.strip().startswith(("pip ", "python ", "pytest"))]
    gate = (ROOT / ".ci" / "run").read_text().replace("--quiet ", "")
    assert len(wanted) == 4 and all(command in gate for command in wanted)
