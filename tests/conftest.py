"""Settings of the whole suite."""

import pytest

pytest.register_assert_rewrite("conformance", "envs")

import torch as th  # noqa: E402

th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work


@pytest.fixture
def runs_in_this_process(monkeypatch):
    """Experiments without processes of their own, which take seconds to start."""
    from sb3_nigt.experiments import campaign
    from sb3_nigt.experiments.training import execute

    def attempt(waiting, directory, *others):
        for run in waiting:
            execute(run, directory)

    monkeypatch.setattr(campaign, "_attempt", attempt)
