"""Faults of environments in the processes of one rank: the group goes on, and the ranks agree on every round."""

import re
import warnings
from functools import partial

import numpy as np
import paper
import pytest
from envs import LengthFromSeedEnv, parameters, simulated
from faults import FAULTS, HANGING, FaultyEnv, NanOnce, marked, seconds_to_recover
from ranks import SECONDS, make, make_steps, on_ranks
from stable_baselines3.common.callbacks import BaseCallback

import sb3_nigt
from sb3_nigt import ProcessVecEnv

KINDS = (
    "process killed in step",
    "process stopped in step",
    "step hangs",
    "step raises",
    "leak until killed",
    "shape that would be broadcast",
)
pytestmark = pytest.mark.timeout(1200)
FAULTY = 3  # among the workers of all ranks: the second one of rank 1


class Until(BaseCallback):
    """Keeps what each round says; ends the run when a function of the last round says so."""

    def __init__(self, is_over):
        super().__init__()
        self.is_over, self.reports, self.goes_on = is_over, [], True

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)
        self.goes_on = not self.is_over(self.reports[-1])

    def _on_step(self):
        return self.goes_on


def train(rank, algorithm, rounds, env_fn, timeout, is_over):
    """Train until rank 1 has seen enough; return what all ranks must agree on, and what rank 1 was told."""
    env = ProcessVecEnv([LengthFromSeedEnv, env_fn], timeout=timeout) if rank == 1 else simulated([LengthFromSeedEnv] * 2)
    module, make_model = (sb3_nigt, make_steps) if rounds == "steps" else (paper, make)
    until = Until(is_over if rank == 1 else lambda report: False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = make_model(getattr(module, algorithm), env, timeout=30.0)
        model.learn(10**9, until)
    told = [(r.counts.tolist(), r.weights.tolist(), [(a.worker, a.rejected) for a in r.rejected]) for r in until.reports]
    env.close()
    return (told, parameters(model).tobytes()), [str(warning.message) for warning in said]


def takes_part_again(diary, report):
    return seconds_to_recover([diary]) > 0 and report.counts[FAULTY] > 0


def has_rejected(report):
    return bool(report.rejected)


def check_ranks(*args):
    """Train on two ranks, look at all rounds, and return what was told of them and the warnings of rank 1."""
    (first, _), (other, said) = on_ranks(2, train, *args, seconds=10 * SECONDS)  # rank 1 starts processes, one of them again
    assert first == other
    told, end = first
    assert np.isfinite(np.frombuffer(end, np.float32)).all()
    for counts, weights, _ in told:
        assert np.dot(weights, counts) == pytest.approx(1.0)
    return told, said


def is_usual(kind, rounds, algorithm):
    return (kind in (KINDS[0], "reward"), rounds, algorithm) == (True, "steps", "RennalaNIGT")


@pytest.mark.parametrize(("kind", "rounds", "algorithm"), marked(KINDS, is_usual))
def test_a_fault_ends_nothing(note_fault, tmp_path, kind, rounds, algorithm):
    """The worker is restarted, and takes part in a later round; meanwhile the other rank goes on."""
    diary = tmp_path / "diary"
    env_fn = partial(FaultyEnv, kind, "middle", diary)
    _, said = check_ranks(algorithm, rounds, env_fn, 2.0 if kind in HANGING else 60.0, partial(takes_part_again, diary))
    assert any(
        re.match(r"Worker 1 \(task 1\) failed: .*It is restarted", text) and re.search(FAULTS[kind][2], text) for text in said
    ), said
    note_fault(kind, "ranks", algorithm, rounds, "restarted", seconds_to_recover([diary]))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "rounds", "algorithm"), marked(["reward"], is_usual))
def test_a_number_that_is_not_finite(note_fault, what, rounds, algorithm):
    """All ranks know which worker it was; no worker is restarted."""
    told, said = check_ranks(algorithm, rounds, partial(NanOnce, what, 2), 60.0, has_rejected)
    reason = what if rounds == "steps" else "not finite, or its worker failed"  # a ledger says no more than that
    assert {rejected for *_, of_round in told for rejected in of_round} == {(FAULTY, reason)}
    assert not any("failed" in text for text in said)
    note_fault(f"{what} not finite", "ranks", algorithm, rounds, "rejected")
