"""The list of methods: what it says is what the algorithms do, and one more entry is all that commands and plans need."""

import dataclasses

import pytest
from envs import PointEnv, simulated

import sb3_nigt.algorithms
from sb3_nigt.experiments import plan as plan_command
from sb3_nigt.experiments.methods import check_method
from sb3_nigt.experiments.tune import grid
from sb3_nigt.methods import METHODS, kinds_of_rounds
from sb3_nigt.planning import plan
from sb3_nigt.schedules import Planned

every_method = pytest.mark.parametrize("method", list(METHODS.values()), ids=list(METHODS))
TASKS = ("a", "b", "a")


@pytest.mark.one_in(2)
@every_method
@pytest.mark.filterwarnings("ignore:The workers hold different tasks")
def test_an_entry_says_what_the_algorithm_does(method):
    """Workers 0 and 2 share a task, so Malenia's rule is one for tasks, not for workers."""
    model = method.algorithm("MlpPolicy", simulated([PointEnv] * 3, task_ids=list(TASKS)), seed=0, device="cpu")
    model.learn(1)  # the aggregator of Malenia asks the workers for their tasks
    assert model.make_aggregator(model.n_trajectories) == method.aggregator(model.n_trajectories, TASKS)
    assert type(model.make_schedule()) is method.schedules[method.default_schedule]
    assert method.has_choice_of_schedule == method.takes("schedule")
    assert method.takes(method.size_argument)
    if method.has_choice_of_schedule:
        assert model.schedule == method.default_schedule


def test_every_algorithm_has_one_entry():
    assert sorted(method.algorithm.__name__ for method in METHODS.values()) == sorted(sb3_nigt.algorithms.__all__)
    assert len({method.zoo_name for method in METHODS.values()}) == len(METHODS)


def test_methods_with_the_same_rounds_are_planned_once():
    assert {name: method.name for name, method in kinds_of_rounds().items()} == {
        "Rennala": "rennala",  # so are those of rennalapg
        "Malenia": "malenia",
        "Synchronous": "sync",
        "AFedPG": "afedpg",
    }
    for method in METHODS.values():
        kind = kinds_of_rounds()[method.rounds]
        assert (kind.aggregator, kind.schedules) == (method.aggregator, method.schedules)


def test_one_more_entry_is_enough(monkeypatch, tmp_path):
    new = dataclasses.replace(METHODS["rennalapg"], name="new", rounds="New", schedules={"planned": Planned})
    monkeypatch.setitem(METHODS, "new", new)
    assert check_method("new") == "new"
    with pytest.raises(ValueError, match="new has no choice of schedule"):
        check_method("new:planned")
    assert all("eta" not in arguments for arguments in grid("new").values())
    planned = plan([1.0, 2.0], n_trajectories=4)
    assert [row.method for row in planned.methods[-2:]] == ["AFedPG", "New"]
    assert dataclasses.replace(planned["New", "planned"], method="Rennala").counts.tolist() == (
        planned["Rennala", "planned"].counts.tolist()
    )
    plan_command.draw(planned, range(2), tmp_path / "plan.png")  # an odd number of columns leaves a gap
    assert (tmp_path / "plan.png").stat().st_size > 0
