"""Settings of the whole suite."""

import os

import pytest

pytest.register_assert_rewrite("conformance", "envs")

import torch as th  # noqa: E402

th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work
os.environ["RAY_worker_niceness"] = "0"  # with Ray's own choice, 15, its workers starve beside the tests of other processes


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
