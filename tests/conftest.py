"""Settings of the whole suite."""

import json
import math
import os
import re
import signal
import zlib
from collections import defaultdict

import pytest

SUITES = [
    "sb3_nigt.testing.aggregators",
    "sb3_nigt.testing.step_rounds",
    "sb3_nigt.testing.worker_vec_envs",
    "sb3_nigt.testing.workers",
]
pytest.register_assert_rewrite("copies", "envs", "faults", "rosters", "scheduling", *SUITES)

import torch as th  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  with Ray's own choice, 15, its workers starve


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """One process for all that starts Ray, a dozen processes at a time, and one for ranks, which are trained once for all."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            together = re.search(r"test_ray|_ray\.py|guide/ray\.md|test_distributed(_steps)?\.py", nodeid)
            return re.sub(r".*ray.*", "ray", together[0]) if together else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Of a test or a class with the mark one_in(n), one case in n is not slow: always the same ones, which no order aligns."""
    tables = defaultdict(list)
    for item in items:
        for node, mark in item.iter_markers_with_node("one_in"):
            tables[node.nodeid.partition("[")[0], mark.args[0]].append(item)
    for (_, n), cases in tables.items():
        cases.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        for item in cases[math.ceil(len(cases) / n) :]:
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser):
    parser.addoption("--fault-table", metavar="FILE", help="add what tests of faults have seen; fault_table.py prints it")


@pytest.fixture(scope="session")
def note_fault(request):
    """Give a function that keeps what a fault has done, and how many seconds that took, if the option says where."""
    path = request.config.getoption("--fault-table")

    def note(*line):
        if path is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return note


@pytest.fixture(scope="module")
def ray_connection():
    """A Ray that stays for all tests of a file."""
    from envs import PointEnv

    from sb3_nigt import RayVecEnv

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)  # the actors import ``envs``
        first = RayVecEnv([PointEnv], address="local", num_cpus=0.01)
        yield first
        first.close()


@pytest.fixture
def ray_workers(ray_connection):
    """Give a function that makes actors, which are gone afterwards."""
    from sb3_nigt import RayVecEnv

    made = []

    def make(*env_fns, **kwargs):
        made.append(RayVecEnv(list(env_fns), num_cpus=0.01, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def lines():
    """The lines of three ranks to one store."""
    import torch.distributed as dist

    from sb3_nigt.distributed.line import StoreLine

    store = dist.HashStore()
    lines = [StoreLine(store, rank, 3, timeout=5.0) for rank in range(3)]
    yield lines
    for line in lines:
        line.close()


@pytest.fixture
def runs_in_this_process(monkeypatch):
    """Experiments without processes of their own, which take seconds to start."""
    from sb3_nigt.experiments import campaign
    from sb3_nigt.experiments.training import execute

    def attempt(waiting, directory, *others):
        for run in waiting:
            execute(run, directory)

    monkeypatch.setattr(campaign, "_attempt", attempt)


@pytest.fixture(scope="module")
def rl_zoo3():
    """The zoo. Its import puts a TimeLimit of its own into gymnasium, which is not meant for the rest of the suite."""
    from gymnasium import wrappers
    from gymnasium.envs import registration

    with pytest.MonkeyPatch.context() as patch:
        for module in (wrappers, wrappers.common):
            patch.setattr(module, "TimeLimit", module.TimeLimit)  # what comes back at the end
        patch.setattr(registration, "TimeLimit", None, raising=False)
        yield pytest.importorskip("rl_zoo3", reason="needs the extra: pip install 'sb3_nigt[zoo]'")
