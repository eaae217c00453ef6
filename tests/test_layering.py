"""Who may import whom. Arrows point down: a room imports only rooms before it in `ORDER`."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    {"types"},
    {"ops"},
    {"losses"},
    {"models", "optim", "envs", "tasks"},
    {"sampling"},
    {"rollout"},
    {"exact"},
    {"train"},
    {"lab", "sweep"},
    {"experiments"},
]
SIDE = {"config", "checks", "machine", "runtime", "io", "report"}
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
# Rooms at the side may be imported from anywhere, but stand below training themselves.
SIDE_MAY_IMPORT = SIDE | {"types"}


def imports(source, package=""):
    """Dotted names a module imports, without those only type checkers see."""
    found = []

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                self.generic_visit(node)

        def visit_Import(self, node):
            found.extend(alias.name for alias in node.names)

        def visit_ImportFrom(self, node):
            base = package if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            found.extend(f"{base}.{alias.name}" for alias in node.names)

    Visitor().visit(ast.parse(source))
    return found


def room(name):
    """The room of a module: `rlhf_jax.train.sft` stands in `train`; None outside our packages."""
    parts = name.split(".")
    if parts[0] == "experiments":
        return "experiments"
    inside = parts[0] == "rlhf_jax" and len(parts) > 1 and parts[1] != "__version__"
    return parts[1] if inside else None


def upward(module, source):
    """Edges of one module that point up or sideways."""
    here = room(module)
    edges = {room(name) for name in imports(source, module.rpartition(".")[0])} - {None, here}
    if here in SIDE:
        return sorted(edges - SIDE_MAY_IMPORT)
    allowed = SIDE | {r for r, rank in RANK.items() if rank < RANK[here]}
    return sorted(edges - allowed)


@functools.cache
def sources():
    """Every module of the library and its programs, by dotted name."""
    files = [f for top in ("rlhf_jax", "experiments") for f in (ROOT / top).rglob("*.py")]
    named = {".".join(f.relative_to(ROOT).with_suffix("").parts): f.read_text() for f in files}
    return {name.removesuffix(".__init__"): text for name, text in named.items()}


MODULES = sorted(name for name in sources() if room(name))


@pytest.mark.parametrize("module", MODULES)
def test_no_edge_points_up(module):
    assert room(module) in SIDE | set(RANK), "a new room: give it a place above"
    assert upward(module, sources()[module]) == []


def importers(*packages):
    heads = set(packages)
    return {m for m in MODULES if heads & {name.split(".")[0] for name in imports(sources()[m])}}


def test_flax_stays_in_models():
    assert {room(m) for m in importers("flax")} == {"models"}


def test_hydra_and_omegaconf_stay_at_the_door():
    assert {room(m) for m in importers("hydra", "omegaconf")} <= {"config", "sweep", "experiments"}


JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}


@functools.cache
def edges(module):
    """What a module of ours imports."""
    return imports(sources()[module], module.rpartition(".")[0])


def reaches_jax(module):
    """The chain of imports from a module of ours to jax, () if there is none."""
    chains = {module: (module,)}
    todo = [module]
    for here in todo:
        for name in edges(here):
            if name.split(".")[0] in JAX:
                return (*chains[here], name)
            target = next((n for n in (name, name.rpartition(".")[0]) if n in sources()), None)
            if target and target not in chains:
                chains[target] = (*chains[here], target)
                todo.append(target)
    return ()


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "report"])
def test_reports_are_read_without_jax(module):
    assert reaches_jax(module) == ()


@pytest.mark.parametrize("module", ["rlhf_jax.config", "rlhf_jax.checks"])
def test_settings_are_checked_before_jax_is_imported(module):
    assert reaches_jax(module) == ()


@pytest.mark.parametrize(
    "module, line",
    [
        ("rlhf_jax.ops.kl", "from rlhf_jax.losses.ppo import value_loss"),
        ("rlhf_jax.tasks.x", "import rlhf_jax.models.transformer"),
        ("rlhf_jax.sampling.decode", "from rlhf_jax.train import sft"),
        ("rlhf_jax.train.sft", "from experiments._cli import launch"),
        ("rlhf_jax.io.sinks", "from rlhf_jax.train.loop import Session"),
        ("rlhf_jax.exact.policy", "from rlhf_jax.train.state import TrainState"),
        ("rlhf_jax.ops.kl", "def late():\n    from rlhf_jax.models import cache"),
    ],
)
def test_the_test_itself_catches_an_upward_edge(module, line):
    assert upward(module, line)


def test_the_test_itself_lets_a_downward_edge_pass():
    source = "from rlhf_jax.ops.kl import kl_k1\nfrom rlhf_jax.config import dynamic\nimport jax"
    assert upward("rlhf_jax.train.sft", source) == []
    hidden = "if TYPE_CHECKING:\n    from rlhf_jax.train.loop import Session"
    assert upward("rlhf_jax.io.sinks", hidden) == []
    assert {room("rlhf_jax.train.sft"), room("jax.numpy")} == {"train", None}


def test_the_test_itself_finds_jax_behind_other_modules():
    assert reaches_jax("rlhf_jax.train.sft")[-1].split(".")[0] in JAX
    assert len(reaches_jax("experiments.audit")) > 1
