"""Faults that environments can have, and what a run must have done when one of its workers had them."""

import itertools
import math
import re
import resource
import time
from contextlib import suppress
from functools import partial

import numpy as np
import paper
import pytest
from envs import Enough, LengthFromSeedEnv, NanEnv, parameters, train_rounds
from processes import explode, hang, kill_myself, stop_myself
from stable_baselines3.common.callbacks import BaseCallback

import sb3_nigt
from sb3_nigt import Recording, RunRecorder, SimulatedVecEnv, replay

MEGABYTE = 2**20


def allocate_beyond_limit():
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MEGABYTE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    leaked = []
    while True:
        leaked.append(bytearray(10 * MEGABYTE))


def leak_until_killed():
    """As the kernel does it to a process that takes too much."""
    leaked = []
    while len(leaked) < 20:
        leaked.append(bytearray(MEGABYTE))
    kill_myself()


class CannotBeUnpickled(Exception):
    def __init__(self, joint, torque):
        super().__init__(f"joint {joint} broke at {torque} Nm")


def explode_oddly():
    raise CannotBeUnpickled("knee", 300)


SHAPE, LOOKUP = r"must have shape \(2,\) and dtype float32, got shape ", r"Traceback(?s:.*)in explode(?s:.*)LookupError: the p"
HUNG = r"no sign of life for .*\nIt was here:\n(?s:.*)in hang"
# kind -> where it strikes, what it does or gives, what the warning says
FAULTS = {
    "process killed in step": ("step", kill_myself, r"exit code -9"),
    "process killed in reset": ("reset", kill_myself, r"exit code -9"),
    "process stopped in step": ("step", stop_myself, "no sign of life for "),
    "step hangs": ("step", hang, HUNG),
    "reset hangs": ("reset", hang, HUNG),
    "step raises": ("step", explode, LOOKUP),
    "reset raises": ("reset", explode, LOOKUP),
    "step raises what cannot be unpickled": ("step", explode_oddly, "joint knee broke at 300 Nm"),
    "sys.exit": ("step", partial(exit, 3), "exit code 3"),
    "leak up to a limit": ("step", allocate_beyond_limit, r"MemoryError|exit code 1\b"),
    "leak until killed": ("step", leak_until_killed, "exit code -9"),
    "shape that would be broadcast": ("observation", np.zeros(1, np.float32), SHAPE + r"\(1,\)"),
    "text for an observation": ("observation", np.array(["a", "b"]), SHAPE + r"\(2,\) and dtype <U1"),
    "reward None": ("reward", None, "the reward must be one number, got NoneType"),
    "reward array": ("reward", np.zeros(2), "the reward must be one number, got ndarray"),
}
# what an environment in the process of the learner raises then; the other faults end the process, or all of its work
RAISED = {
    "step raises": LookupError,
    "reset raises": LookupError,
    "step raises what cannot be unpickled": CannotBeUnpickled,
    **dict.fromkeys(["shape that would be broadcast", "text for an observation", "reward None", "reward array"], ValueError),
}
HANGING = {"process stopped in step", "step hangs", "reset hangs"}


def events(diary):
    """What a ``FaultyEnv`` has noted: the name of each event, and when it was."""
    lines = diary.read_text().splitlines()
    return [(event, float(at)) for event, at in (line.split() for line in lines)]


class FaultyEnv(LengthFromSeedEnv):
    """
    One fault of a kind, once or in each of some lives.

    :param kind: a key of ``FAULTS``
    :param when: "start": at the first episode, "middle": in the middle of a later one, "restart": at the first one after
        the process was killed for the first time, "construction": when the environment is made again after that
    :param diary: a file that outlives the process: what has happened, and when
    """

    def __init__(self, kind, when, diary):
        super().__init__()
        self.where, self.does, _ = FAULTS[kind]
        self.when, self.diary, self.n = when, diary, {"reset": 0, "step": 0}
        self.struck = False
        self._note("made")
        self.life = [event for event, _ in events(diary)].count("made")
        if when == "construction" and self.life == 2:
            self.does()

    def _note(self, event):
        with self.diary.open("a") as file:
            file.write(f"{event} {time.monotonic()}\n")

    def _strikes(self, where):
        if self.struck or not self._is_due(where):
            return False
        self.struck = True
        self._note("fault")
        return True

    def _is_due(self, where):
        in_step = where != "reset"
        if self.life == 1 and self.when in ("restart", "construction"):
            if where == "step" and self.n["step"] == 4:
                self._note("fault")
                kill_myself()
            return False
        if where != self.where or self.when == "construction":
            return False
        number = self.n["step" if in_step else "reset"]
        if self.when == "middle":
            return self.life == 1 and number >= 5 and (self._t >= 1 or not in_step)
        # the first reset of the first life is that of ``learn``
        return self.life == (2 if self.when == "restart" else 1) and number == (2 if not in_step and self.life == 1 else 1)

    def reset(self, *, seed=None, options=None):
        self.n["reset"] += 1
        if self._strikes("reset"):
            self.does()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.n["step"] += 1
        if self._strikes("step"):
            self.does()
        observation, reward, *rest = super().step(action)
        if self._strikes("observation"):
            observation = self.does
        if self._strikes("reward"):
            reward = self.does
        if self.n["step"] == 1:
            self._note("step")
        return observation, reward, *rest


def seconds_to_recover(diaries):
    """Longest time from a fault to the first step of the next process."""
    longest = 0.0
    for diary in diaries:
        noted = events(diary)
        for number, (event, at) in enumerate(noted):
            following = next((later for name, later in noted[number:] if name == "step"), None)
            if event == "fault" and following is not None:
                longest = max(longest, following - at)
    return longest


class NanOnce(NanEnv):
    """One trajectory of the worker's whole life goes wrong, counted from 0; with a period more of them, one in so many."""

    def __init__(self, what, number, period=math.inf):
        super().__init__(what)
        self.number, self.period, self.n_resets = number, period, -1  # the first reset is that of ``learn``

    def reset(self, *, seed=None, options=None):
        self.n_resets += 1
        observation, info = super().reset(seed=seed, options=options)
        if self.what == "reset" and self._is_bad():
            observation[1] = np.inf
        return observation, info

    def step(self, action):
        step = super().step if self._is_bad() else super(NanEnv, self).step
        return step(action)

    def _is_bad(self):
        return (self.n_resets - 1 - self.number) % self.period == 0

    def _episode_length(self, first_action):
        return 3


# What a run must have done


class OfTrajectories:
    """
    A worker that fails repeats its trajectory with the same random numbers.

    So the yardstick is the same training without faults, on simulated workers.

    :param algorithm: "RennalaNIGT" or "MaleniaNIGT"
    :param env: of the run
    :param kwargs: further arguments
    """

    def __init__(self, algorithm, env, directory, **kwargs):
        self.arguments = {"n_trajectories": 12, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}, **kwargs}
        # measured speeds decide how many trajectories Malenia wants of each task; here they are equal, as in the simulator
        measured = env.predicted_durations
        env.predicted_durations = lambda n_steps: np.where(np.isfinite(measured(n_steps)), n_steps, np.inf)
        self.model, self.seen = getattr(paper, algorithm)("MlpPolicy", env, **self.arguments), _Reports()

    def train_until(self, is_over, workers=None):
        """Train for a few rounds, and more until something has happened; which workers take part then is of no interest."""
        train_rounds(self.model, 3, self.seen)
        while not is_over():
            assert self.model.n_updates < 300
            train_rounds(self.model, self.model.n_updates + 1, self.seen)

    def check_rounds(self):
        """Look at all rounds."""
        for report in self.seen.reports:
            assert report.counts.sum() == len(report.arrivals) == 12
            assert report.weights @ report.counts == pytest.approx(1.0)
        assert np.isfinite(parameters(self.model)).all()

    def check(self, env_fns):
        """Look at all rounds, and compare with a run without faults."""
        self.check_rounds()
        reference = type(self.model)("MlpPolicy", SimulatedVecEnv(env_fns), **self.arguments)
        train_rounds(reference, self.model.n_updates)
        np.testing.assert_allclose(parameters(self.model), parameters(reference), rtol=2e-4, atol=2e-5)


class OfSteps:
    """
    A worker that fails loses its segment and starts a new episode, so other steps count than without faults.

    The yardstick is what is recorded of the rounds, repeated on simulated workers without faults: the same steps, and the
    same parameters bit for bit. All arguments but the seed and the sizes are the defaults.

    :param algorithm: "RennalaNIGT" or "MaleniaNIGT"
    :param env: of the run
    :param directory: for the recording
    """

    def __init__(self, algorithm, env, directory):
        self.arguments = {"n_steps": 25, "seed": 1, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
        self.env, self.recorder = env, RunRecorder(directory / "run.jsonl")
        self.model, self.seen = getattr(sb3_nigt, algorithm)("MlpPolicy", env, **self.arguments), _Reports()

    def train_until(self, is_over, workers=None):
        """Train for a few rounds, and more until something has happened and all workers, or some, take part again."""
        workers = list(range(self.env.num_envs)) if workers is None else workers
        with suppress(Enough):
            self.model.learn(10**9, [self.recorder, self.seen, _Until(is_over, workers)], reset_num_timesteps=False)

    def check_rounds(self):
        """Look at all rounds."""
        rule = self.model.make_aggregator(25 * self.env.num_envs)
        for report in self.seen.reports:
            assert rule.is_complete(report.counts)
            assert report.counts.sum() == report.used_steps
            assert report.weights @ report.counts == pytest.approx(1.0)
        assert np.isfinite(parameters(self.model)).all()

    def check(self, env_fns):
        """Look at all rounds, and repeat the run."""
        self.check_rounds()
        env = SimulatedVecEnv(env_fns, task_ids=self.env.task_ids)
        env.tasks_differ = self.env.tasks_differ
        again = type(self.model)("MlpPolicy", env, **self.arguments)
        replay(again, Recording.load(self.recorder.path))
        assert np.array_equal(parameters(self.model), parameters(again))


class _Reports(BaseCallback):
    """Keeps what each round says of itself."""

    def __init__(self):
        super().__init__()
        self.reports = []

    @property
    def rejected(self):
        return [(arrival.worker, arrival.rejected) for report in self.reports for arrival in report.rejected]

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)

    def _on_step(self):
        return True


class _Until(BaseCallback):
    """Ends a run after three rounds or more, when something has happened and some workers take part."""

    def __init__(self, is_over, workers):
        super().__init__()
        self.is_over, self.workers, self.n_rounds = is_over, workers, 0

    def _on_rollout_start(self):
        if self.n_rounds and self.is_over() and self.n_rounds >= 3 and self.model.last_round.counts[self.workers].all():
            raise Enough

    def _on_rollout_end(self):
        self.n_rounds += 1

    def _on_step(self):
        return True


ROUNDS = {"trajectories": OfTrajectories, "steps": OfSteps}
algorithms = pytest.mark.parametrize("algorithm", ["RennalaNIGT", "MaleniaNIGT"])
in_usual_runs = pytest.mark.parametrize(  # the other half of a long table is for the slow ones
    "algorithm", ["RennalaNIGT", pytest.param("MaleniaNIGT", marks=pytest.mark.slow)]
)
both_rounds = pytest.mark.parametrize("rounds", ROUNDS)


# One of each way to fail: the process ends, hangs, raises, or delivers what is not a reward.
USUAL_FAULTS = ("process killed in step", "step hangs", "reset raises", "reward None")


def cases(kinds):
    """All kinds of faults, rounds and algorithms; the usual runs have a few, and the death of a process in both rounds."""

    def is_usual(kind, rounds, algorithm):
        is_usual_round = rounds == "steps" or kind == "process killed in step"
        return kind in USUAL_FAULTS and is_usual_round and algorithm == "RennalaNIGT"

    return marked(kinds, is_usual)


def marked(kinds, is_usual):
    """
    Return the arguments of tests for kinds of faults, rounds and algorithms.

    :param kinds: of faults
    :param is_usual: tells which are not slow
    """
    every = itertools.product(kinds, ROUNDS, ["RennalaNIGT", "MaleniaNIGT"])
    return [pytest.param(*case, marks=[] if is_usual(*case) else pytest.mark.slow) for case in every]


def have_failed(env, wanted):
    """Tell whether each worker has failed as often as wanted."""
    slots = env._roster.slots
    return lambda: all(slot.history.failures >= n for slot, n in zip(slots, wanted, strict=True))


def check_faults(make, note_fault, where, directory, algorithm, rounds, kind, whens, seconds=2.0, says=None):
    """
    Train with faults; check what became of the run, and what was said of each fault.

    :param make: makes workers
    :param note_fault: takes a line for the table of faults
    :param where: what the workers are, for that table
    :param whens: when each worker but the first one has the fault, see ``FaultyEnv``
    :param seconds: after which a worker hangs
    :param says: what the warning says of the fault; None: as in ``FAULTS``
    """
    n, diaries = len(whens) + 1, [directory / when for when in whens]
    task_ids, hangs = list("abcdef"[:n]), kind in HANGING
    env_fns = [LengthFromSeedEnv, *(partial(FaultyEnv, kind, *pair) for pair in zip(whens, diaries, strict=True))]
    env = make(*env_fns, timeout=seconds if hangs else 60.0, task_ids=task_ids)
    env.tasks_differ = False
    run = ROUNDS[rounds](algorithm, env, directory)
    with pytest.warns(UserWarning, match="failed") as caught:
        run.train_until(have_failed(env, [0, *(2 if when == "restart" else 1 for when in whens)]))
    run.check([LengthFromSeedEnv] * n)
    said = [str(warning.message) for warning in caught]
    for worker in range(1, n):
        pattern = rf"Worker {worker} \(task '{task_ids[worker]}'\) failed: .*It is restarted"
        assert any(re.match(pattern, text) and re.search(says or FAULTS[kind][2], text) for text in said), said
    assert hangs or len(said) == len(whens) + whens.count("restart")
    note_fault(kind, where, algorithm, rounds, "restarted", seconds_to_recover(diaries))
