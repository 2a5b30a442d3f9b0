"""The order of the folders, over the real imports: what may know what, and which names are private."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sb3_nigt

ROOT = Path(sb3_nigt.__file__).parent
MAX_LINES_OF_A_FILE = 300
MAX_LINES_OF_A_FUNCTION = 30

# From the ground up. A module may import from its own room and from the floors below it: rooms of one floor know nothing of
# each other. A room is a module, or a folder with all that is in it unless a part is listed as a room itself.
FLOORS: tuple[dict[str, str], ...] = (
    {
        "errors": "what can go wrong",
        "validation": "checks of single arguments",
        "messages": "records that travel between an algorithm and its workers",
        "moments": "means and variances that can be merged",
        "threads": "how many threads torch may use",
        "chooser": "who decides with whom a model trains",
        "dtypes": "arithmetic with the numbers of spaces",
    },
    {
        "timing": "clocks, and laws of how long a step takes",
        "aggregators": "when a round is complete and how it is weighed: functions of the counts",
        "optimizers": "from a gradient to the next parameters",
        "envs": "the tasks of the paper",
        "critic": "a value network and how it is fitted",
        "normalization": "running statistics of observations, as a part of the policy",
    },
    {
        "schedules": "which worker starts which trajectory: events in, starts out",
        "parameters": "a policy as a flat vector; the only place that knows offsets",
    },
    {"policies": "networks that act, with their normaliser and their critic"},
    {
        "sampling": "one worker's environment, one trajectory at a time",
        "recording": "a run as a file",
    },
    {
        "estimators": "from accepted trajectories to one coefficient a step, at the learner",
        "replica": "a copy of the policy that acts and differentiates",
    },
    {
        "vec_env.transforms": "what wrappers do to observations and rewards",
    },
    {
        "vec_env.base": "the contract of workers, wherever they are",
        "vec_env.positions": "where workers are between two rounds, as data",
        "vec_env.wrappers": "wrappers of Stable-Baselines3 around the workers",
        "vec_env.env_fns": "the functions that make the environments, checked and packed",
    },
    {
        "vec_env.lockstep": "workers made of any VecEnv of Stable-Baselines3",
        "vec_env.stepping": "rounds of steps on simulated speeds",
    },
    {"vec_env.connect": "finds the workers behind the environment that a model was given"},
    {
        "algorithms": "the round, the update and the six algorithms; they know workers by their contract only",
        "vec_env.simulated": "workers in this process, on a simulated clock",
        "vec_env.pool": "workers that can fail, wherever they run",
    },
    {
        "distributed": "ranks; a group that an algorithm trains in",
        "vec_env.process": "workers in processes of this machine",
        "vec_env.ray": "workers on a Ray cluster",
    },
    {"vec_env": "the classes of workers by name, and a function that makes them"},
    {
        "methods": "all methods in one list",
        "replay": "a recorded run once more",
        "testing": "conformance tests for implementations by users",
    },
    {"planning": "how long rounds take, before anything runs"},
    {"experiments": "the commands"},
    {"zoo": "the algorithms in rl_zoo3"},
    {"__init__": "the public names", "__main__": "the command line"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}

# Names with an underscore that belong to others, each with the reason why the package says them.
BORROWED = {
    "_replace": "named tuples: documented, the underscore keeps it apart from fields",
    "_exit": "os: documented, ends a process without running what it has inherited",
    "_current_frames": "sys: documented, the stack of a thread that hangs",
    "_NormBase": "torch: the parent of all BatchNorm layers has no public name",
    "_forward_hooks": "torch: hooks can be added and removed in public, but not counted",
    "_forward_pre_hooks": "torch: as _forward_hooks",
    "_backward_hooks": "torch: as _forward_hooks",
    "_backward_pre_hooks": "torch: as _forward_hooks",
    "_get_process_group_store": "torch: the store of a process group is not reachable in public",
    "_get_action_dist_from_latent": "Stable-Baselines3: what a policy overrides to have another distribution",
    "_patch_env": "Stable-Baselines3: what its own vectorised environments do with each environment",
    "_forkserver": "multiprocessing: a process that was forked cannot let go of its parent's fork server in public",
    "_forkserver_alive_fd": "multiprocessing: as _forkserver",
    "_forkserver_pid": "multiprocessing: as _forkserver",
    "_raylet": "Ray: the timeout of a first connection, and a token that has changed, which its public functions do not take",
}
# What is longer, each with the reason; a file or a function that fits again must leave the list.
LONG_FILES = {
    "algorithms.base": "the argument list of the constructor and its documentation",
    "algorithms.model": "Stable-Baselines3's interface of a model, which cannot be had in parts",
    "distributed.session": "all that ranks exchange in one learn()",
    "policies": "Stable-Baselines3's interface of an actor-critic policy, which cannot be had in parts",
    "testing.workers": "one test after the other",
    "vec_env.base": "the contract of workers, which is mostly its documentation",
    "vec_env.simulated": "Stable-Baselines3's interface, trajectories and rounds of steps on one clock",
}
LONG_FUNCTIONS = {
    "algorithms.base.AsyncPolicyGradient.__init__": "one line an argument",
    "distributed.session.Session.run_round": "the round with its exchanges, in order",
    "experiments.commands.benchmark.add_arguments": "one statement an argument",
    "experiments.commands.compare.add_arguments": "one statement an argument",
    "sampling.sampler.Sampler.advance": "one environment step, the innermost loop",
    "vec_env.ray.actor.make_actor_class": "a class that can only be made once Ray is there",
}


def _is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _walk(tree):
    """All nodes that run, those inside functions included."""
    for node in ast.iter_child_nodes(tree):
        if _is_for_type_checkers(node):
            for other in node.orelse:
                yield other
                yield from _walk(other)
        else:
            yield node
            yield from _walk(node)


def _name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


TREES = {_name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def _targets(node):
    """Modules of the package that a statement imports, without the packages that Python loads on the way to them."""
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        found = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in found:
        package, _, rest = name.partition(".")
        if package == ROOT.name:
            parts = rest.split(".")
            yield next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in TREES), "__init__")


IMPORTS = {name: {target for node in _walk(tree) for target in _targets(node)} for name, tree in TREES.items()}


def _room(module):
    parts = module.split(".")
    return next((room for n in range(len(parts), 0, -1) if (room := ".".join(parts[:n])) in FLOOR_OF), None)


def test_every_module_has_a_room():
    assert [module for module in TREES if _room(module) is None] == []
    assert set(map(_room, TREES)) == set(FLOOR_OF), "rooms without a module"


def test_no_module_imports_itself_through_others():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_lead_downwards():
    climbing = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in sorted(targets)
        if _room(module) != _room(target) and FLOOR_OF[_room(target)] >= FLOOR_OF[_room(module)]
    ]
    assert climbing == []


# Private names


def _is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _own_names(tree):
    """Private names that a module defines: of functions, classes and variables, and of attributes of ``self`` and ``cls``."""
    for node in _walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _is_self(node):
    return (isinstance(node, ast.Name) and node.id in ("self", "cls")) or ast.unparse(node) == "super()"


def _foreign_private_names(tree):
    own = set(_own_names(tree))
    for node in _walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
            yield from (part for part in node.module.split(".") if _is_private(part))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and not _is_self(node.value) and node.attr not in own:
            yield node.attr


def test_private_names_stay_in_their_module():
    """A class may use what it inherits through ``self``; everything else needs a public name."""
    found = {(module, name) for module, tree in TREES.items() for name in _foreign_private_names(tree)}
    assert sorted((module, name) for module, name in found if name not in BORROWED) == []
    assert sorted(BORROWED.keys() - {name for _, name in found}) == [], "not borrowed any more"


# Sizes


def _functions(node, prefix):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from _functions(child, name)
        else:
            yield from _functions(child, prefix)


def _lines_of_code(function):
    """From the first statement to the last one: neither the arguments nor the docstring."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    return function.end_lineno - first.lineno + 1


def test_files_and_functions_are_short():
    files = {name for name, tree in TREES.items() if tree.body and tree.body[-1].end_lineno > MAX_LINES_OF_A_FILE}
    functions = {
        name
        for module, tree in TREES.items()
        for name, function in _functions(tree, module)
        if _lines_of_code(function) > MAX_LINES_OF_A_FUNCTION
    }
    assert files == LONG_FILES.keys()
    assert functions == LONG_FUNCTIONS.keys()


# The checks themselves


def test_the_checks_find_what_they_look_for():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from sb3_nigt.zoo import register\n"
        "def late():\n"
        "    from sb3_nigt.algorithms import base, RennalaNIGT\n"
        "    import sb3_nigt.messages\n"
        "    from sb3_nigt.errors import _hidden\n"
        "class A:\n"
        "    def f(self, other):\n"
        "        self._mine = self._inherited = 0\n"
        "        return other._mine, other._theirs, super()._parents, other.public, other.__dict__, self.other._deep\n"
    )
    assert {target for node in _walk(tree) for target in _targets(node)} == {
        "algorithms.base",
        "algorithms",
        "messages",
        "errors",
    }
    assert set(_foreign_private_names(tree)) == {"_hidden", "_theirs", "_deep"}
    assert [(name, _lines_of_code(function)) for name, function in _functions(tree, "m")] == [("m.late", 3), ("m.A.f", 2)]
