"""Faults of environments in Ray actors: the same checks as for processes, at one moment each."""

from functools import partial

import pytest
from envs import FixedLengthEnv
from faults import FAULTS, ROUNDS, NanOnce, algorithms, both_rounds, check_faults

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,  # an actor starts in seconds, and each test starts two
    pytest.mark.filterwarnings("ignore:.*accelerator:FutureWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.timeout(600),
]

ENDED = r"its actor has died|is unavailable"  # an actor has no exit code
KINDS = {
    "process killed in step": ENDED,
    "process stopped in step": None,
    "step hangs": None,
    "step raises": None,
    "leak until killed": ENDED,
    "shape that would be broadcast": None,
}


@algorithms
@both_rounds
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_nothing(ray_workers, note_fault, tmp_path, algorithm, rounds, kind):
    """One of two workers has it in the middle of an episode."""
    assert kind in FAULTS
    check_faults(ray_workers, note_fault, "Ray", tmp_path, algorithm, rounds, kind, ["middle"], 3.0, KINDS[kind])


@algorithms
@both_rounds
def test_a_number_that_is_not_finite(ray_workers, note_fault, tmp_path, algorithm, rounds):
    env = ray_workers(partial(FixedLengthEnv, 3), partial(NanOnce, "reward", 2))
    run = ROUNDS[rounds](algorithm, env, tmp_path)
    run.train_until(lambda: run.seen.rejected)
    run.check_rounds()
    assert run.seen.rejected == [(1, "reward")]
    assert env.restarts == 0
    note_fault("reward not finite", "Ray", algorithm, rounds, "rejected")
