"""Ray actors: the contract that all workers share, the numbers of the simulator, failures, and nodes that come and go."""

import os
import re
import secrets
import signal
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from copies import PolicyCopyTests
from envs import FixedLengthEnv, LengthFromSeedEnv, PointEnv, job, parameters, prepared, run, same, train_rounds
from odd_envs import IdTests, OddEnvTests, registry  # noqa: F401  a fixture
from paper import MaleniaNIGT, RennalaNIGT
from processes import FAILED, Bell, FaultyEnv, ends_of, explode, hang, kill_myself, ring, stop_myself
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import Recording, RunRecorder, SimulatedVecEnv, WorkerError, make_worker_vec_env, replay
from sb3_nigt.testing import StepRoundsTests, WorkerVecEnvTests

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from sb3_nigt import RayVecEnv  # noqa: E402
from sb3_nigt.vec_env.ray import vec_env as ray_vec_env  # noqa: E402
from sb3_nigt.vec_env.ray.cluster import read_environment  # noqa: E402
from sb3_nigt.vec_env.ray.handle import RayWorker  # noqa: E402

STORE = 80 * 2**20
ARGUMENTS = {"n_trajectories": 6, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}
LEFT = "ignore:Worker .* lost its node and will restart on another one:UserWarning"

pytestmark = pytest.mark.filterwarnings("ignore:.*accelerator:FutureWarning")


@pytest.fixture(scope="module")
def cluster():
    """A cluster with a token; this process is connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)  # the actors import ``envs``
        read_environment()
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
        )
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        for _, actor in SpareWorker.spare:
            ray.kill(actor)
        SpareWorker.spare.clear()
        ray.shutdown()
        cluster.shutdown()
    read_environment()


class SpareWorker(RayWorker):
    """Its actor serves another environment when it has closed this one: a new process imports PyTorch, for seconds."""

    spare: ClassVar[list] = []

    def _new_actor(self, options):
        self._options = options
        match = next((pair for pair in self.spare if pair[0] == options), None)
        if match is None:
            return super()._new_actor(options)
        self.spare.remove(match)
        return match[1]

    def close(self, seconds):
        self.kept = self._end is None and bool(ray.wait([self._command], timeout=seconds)[0])
        if self.kept:
            self.spare.append((self._options, self._actor))
            self._end = "it is spare"
        else:
            self.kill()

    def kill(self, dump_stack=False):
        if not getattr(self, "kept", False):
            super().kill(dump_stack)


class SpareRayVecEnv(RayVecEnv):
    _worker_class = SpareWorker

    def __init__(self, env_fns, **kwargs):
        super().__init__(env_fns, **{"num_cpus": 0.01, **kwargs})


@pytest.mark.one_in(4)
@pytest.mark.usefixtures("cluster")
class TestRayVecEnv(WorkerVecEnvTests, StepRoundsTests):
    make_workers = SpareRayVecEnv
    infos_of_all_steps = False


@pytest.mark.one_in(4)
@pytest.mark.usefixtures("cluster")
class TestPolicyCopies(PolicyCopyTests):
    vec_env_cls = SpareRayVecEnv
    pickles = True


@pytest.fixture
def make(cluster):
    """Make workers that are closed after the test, and whose processes are then gone or kept for the next one."""
    made = []

    def make(*env_fns, **kwargs):
        made.append(SpareRayVecEnv(list(env_fns), **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()
        env.close()  # twice is fine


@pytest.mark.slow  # the same on processes is not
class TestOddEnvs(OddEnvTests, IdTests):
    all_infos_travel = False

    @pytest.fixture
    def make(self, make):
        return make


def simulated_rounds(n_workers, n_rounds, algorithm=RennalaNIGT):
    return train_rounds(algorithm("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * n_workers), **ARGUMENTS), n_rounds)


# The numbers of the simulator


def test_ppo_and_normalization(make):
    env = VecNormalize(make(LengthFromSeedEnv, LengthFromSeedEnv))
    PPO("MlpPolicy", env, n_steps=16, batch_size=32, seed=0).learn(64)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, seed=0).learn(100)
    seen = env.obs_rms.count
    model.learn(1, reset_num_timesteps=False)
    assert env.obs_rms.count == pytest.approx(seen + model.last_round.used_steps)


class PushEnv(PointEnv):
    """Four steps, each worth what is pushed."""

    def _episode_length(self, first_action):
        return 4

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(action[0]), *rest


@pytest.mark.parametrize("algorithm", ["RennalaNIGT", pytest.param("PPO", marks=pytest.mark.slow)])
def test_it_learns(make, algorithm):
    """From a mean of nearly 0 to pushing right: no threshold that noise could reach, four actions are in [-4, 4]."""
    env = make_worker_vec_env(PushEnv, n_workers=2, vec_env_cls=lambda env_fns, **kwargs: make(*env_fns, **kwargs))
    if algorithm == "PPO":
        model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, learning_rate=0.01, gamma=0.9, seed=0).learn(2500)
    else:
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=10, learning_rate=0.1, eta=0.5, seed=0).learn(2500)
    observations = np.random.default_rng(0).uniform(-0.5, 0.5, (100, 2)).astype(np.float32)
    assert model.predict(observations, deterministic=True)[0].mean() > 0.5


@pytest.mark.parametrize("schedule", ["pipelined", "first_finished"])
def test_a_recorded_run_is_repeated_in_the_simulator_bit_for_bit(make, tmp_path, schedule):
    model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 3), **ARGUMENTS, schedule=schedule)
    model.learn(150, callback=RunRecorder(tmp_path / "run.jsonl"))
    again = RennalaNIGT("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * 3), **ARGUMENTS, schedule=schedule)
    replay(again, Recording.load(tmp_path / "run.jsonl"))
    assert again._n_updates == model._n_updates > 3
    assert np.array_equal(parameters(again), parameters(model))


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_evaluation_on_other_actors(make):
    evaluation = EvalCallback(make(FixedLengthEnv), n_eval_episodes=3, eval_freq=4, verbose=0, warn=False)
    model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 2), **ARGUMENTS).learn(60, callback=evaluation)
    assert np.isfinite(evaluation.last_mean_reward)
    np.testing.assert_allclose(parameters(model), parameters(simulated_rounds(2, model._n_updates)), rtol=2e-4, atol=2e-5)


# Failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "says"),
    [
        (explode, r"LookupError: the physics exploded.*\nTraceback(?s:.*)in explode"),
        (kill_myself, "its actor has died(?s:.*)its worker process has died|is unavailable"),
        (stop_myself, r"no sign of life for .* \(timeout=3\)"),
        (hang, r"no sign of life for .*\nIt was here:(?s:.*)in hang"),
    ],
    ids=["raises", "killed", "stopped", "hangs"],
)
def test_a_failure_loses_nothing(make, tmp_path, does, says):
    """The worker starts anew and repeats its trajectory: the parameters are those without the failure; one warning."""
    env = make(
        LengthFromSeedEnv,
        partial(FaultyEnv, does, flag=tmp_path / "happened"),
        timeout=3.0 if does in (stop_myself, hang) else 60.0,
    )
    first = env.worker_pids[1]
    with ends_of([first]):
        with pytest.warns(UserWarning, match="failed") as caught:
            model = train_rounds(RennalaNIGT("MlpPolicy", env, **ARGUMENTS), 6)
        (warning,) = caught
    assert re.match(r"Worker 1 \(task 1\) failed: .*It is restarted", str(warning.message))
    assert re.search(says, str(warning.message))
    assert env.restarts == 1
    np.testing.assert_allclose(parameters(model), parameters(simulated_rounds(2, 6)), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(FAILED)
def test_beyond_the_limits(make, tmp_path):
    """Rennala goes on with the others; Malenia says which worker, which task, and what happened there."""
    env_fns = [LengthFromSeedEnv, partial(FaultyEnv, explode, flag=tmp_path / "a")]
    env = make(*env_fns, max_restarts=0, task_ids=["easy", "hard"])
    with pytest.warns(UserWarning, match="speed"):
        model = RennalaNIGT("MlpPolicy", env, **ARGUMENTS)
    train_rounds(model, 6)
    assert env.lost() == {1}
    assert model.last_round.counts.tolist() == [6, 0]
    env_fns = [LengthFromSeedEnv, partial(FaultyEnv, explode, flag=tmp_path / "b")]
    malenia = MaleniaNIGT("MlpPolicy", make(*env_fns, max_restarts=0, task_ids=["easy", "hard"]), **ARGUMENTS)
    lost = r"Worker 1 \(task 'hard'\): it is lost after too many restarts"
    with pytest.raises(WorkerError, match=rf"{lost}(?s:.*)Traceback(?s:.*)in explode(?s:.*)the physics exploded"):
        malenia.learn(10_000)


def test_environment_that_cannot_be_made(cluster):
    with pytest.raises(LookupError, match="the physics exploded") as caught:
        SpareRayVecEnv([explode])
    assert "in worker 0" in str(caught.value.__cause__)
    assert "in explode" in str(caught.value.__cause__)


class StuckEnv(PointEnv):
    """Rings when its first step has begun, which never ends."""

    def __init__(self, bell):
        super().__init__()
        self.bell = bell

    def step(self, action):
        ring(self.bell)
        hang()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["first_finished", "planned"])
def test_straggler_does_not_gate_a_round(make, tmp_path, schedule):
    """No round waits for an endless step; the rounds end, and so does ``close``."""
    with Bell(tmp_path / "stuck") as bell:
        env = make(FixedLengthEnv, FixedLengthEnv, partial(StuckEnv, bell.path))
        if schedule == "planned":  # which knows by its speed that it is slow
            for worker, seconds in enumerate([0.001, 0.001, 3600.0]):
                env._roster.speeds.note(worker, seconds, 1, now=0.0)
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=6, schedule=schedule, seed=0)
        train_rounds(model, 5)
        assert model.last_round.counts[2] == 0
        if schedule == "first_finished":
            bell.wait()
        pids = env.worker_pids
        with ends_of([pids[2]] if schedule == "first_finished" else []):
            env.close()


def test_a_command_that_raises_and_one_that_does_not_return(make):
    env = make(partial(FaultyEnv, explode), LengthFromSeedEnv, timeout=2.0)
    assert env.get_attr("longest") == [6, 6]
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    env.reset()
    actions = np.zeros((2, 1), dtype=np.float32)
    for _ in range(6):
        env.step(actions)
    with pytest.raises(LookupError, match="the physics exploded") as caught:
        env.step(actions)
    assert "in explode" in str(caught.value.__cause__)
    env.reset()
    assert env.step(actions)[0].shape == (2, 2)


@pytest.mark.filterwarnings(FAILED)
def test_killed_between_two_steps(make):
    env = make(LengthFromSeedEnv, LengthFromSeedEnv)
    env.reset()
    actions = np.zeros((2, 1), dtype=np.float32)
    first = env.worker_pids[0]
    with ends_of([first]):
        os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"Worker 0 \(task 0\): .*[aA]ctor"):
        env.step(actions)
    env.reset()
    assert env.step(actions)[0].shape == (2, 2)
    assert env.worker_pids[0] != first


def test_what_an_interrupt_leaves(make):
    """Ctrl-C may come when a call is under way and is not noted yet; nothing waits for the timeout then."""
    env, point = prepared(make(LengthFromSeedEnv, LengthFromSeedEnv))
    expected = run(env, job(point, 0))
    env.submit(job(point, 0))
    env._transport.handles[0]._job = None
    assert same(env.next_arrival()[1], expected)
    env.submit(job(point, 0))
    env._transport.handles[0]._job = None
    env.cancel()
    env.submit(job(point, 0))
    assert same(env.next_arrival()[1], expected)
    env._driver.carry_out(env._roster.prepare(0, 0, env._now()))
    env._transport.handles[0]._command = None
    env, point = prepared(env)
    assert same(run(env, job(point, 0)), expected)
    assert env.restarts == 0


def test_an_address_while_connected(cluster):
    with pytest.raises(ValueError, match="is not allowed, since this process is connected to Ray already"):
        RayVecEnv([LengthFromSeedEnv], address=cluster.address)


# Nodes that come and go


@pytest.mark.slow
@pytest.mark.filterwarnings(LEFT)
def test_a_node_leaves_and_another_joins(cluster, make, monkeypatch):
    """Rennala goes on with who is there, nothing is lost, and who has been away takes part again."""
    monkeypatch.setattr(ray_vec_env, "PLACE_SECONDS", 1.0)
    spot = {"num_cpus": 1, "resources": {"spot": 1}, "object_store_memory": STORE}
    node = cluster.add_node(**spot)
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, resources=[{}, {"spot": 1}], max_restarts=0)
    model = RennalaNIGT("MlpPolicy", env, **ARGUMENTS)
    train_rounds(model, 3)
    with ends_of([env.worker_pids[1]]):
        cluster.remove_node(node)
    while not env.absent:
        train_rounds(model, model._n_updates + 1)
    train_rounds(model, model._n_updates + 3)
    assert model.last_round.counts.tolist() == [6, 0]
    expected = parameters(simulated_rounds(2, model._n_updates))
    np.testing.assert_allclose(parameters(model), expected, rtol=2e-4, atol=2e-5)
    assert model.learn(1).last_round.counts.sum() == 6  # learn resets the environments, as far as they are there
    node = cluster.add_node(**spot)
    try:
        while model.last_round.counts[1] == 0:
            train_rounds(model, model._n_updates + 1)
        assert not env.absent
        assert env.restarts == 0  # a node that leaves is not a failure
        assert env.reset().shape == (2, 2)
        assert env.step(np.zeros((2, 1), dtype=np.float32))[0].shape == (2, 2)
    finally:
        env.close()
        cluster.remove_node(node)


@pytest.mark.slow
def test_start_with_fewer_workers(cluster, make, monkeypatch):
    monkeypatch.setattr(ray_vec_env, "PLACE_SECONDS", 0.5)
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, resources=[{}, {"none": 1}], min_workers=1, placement_timeout=1.0)
    model = train_rounds(RennalaNIGT("MlpPolicy", env, **ARGUMENTS), 2)
    assert env.absent == {1}
    assert model.last_round.counts.tolist() == [6, 0]
    np.testing.assert_allclose(parameters(model), parameters(simulated_rounds(2, 2)), rtol=2e-4, atol=2e-5)
    for schedule in ("pipelined", "first_finished"):  # the latter gives it something to do, and does not wait for it
        model = train_rounds(RennalaNIGT("MlpPolicy", env, **ARGUMENTS, schedule=schedule), 20)
        assert model.last_round.counts.tolist() == [6, 0]
    with pytest.raises(WorkerError, match=r"Worker 1 \(task 1\): the cluster could not place it .*'none': 1"):
        PPO("MlpPolicy", env, n_steps=4, batch_size=8).learn(8)
    with pytest.raises(WorkerError, match=r"Worker 1 \(task 1\): the cluster could not place it"):
        MaleniaNIGT("MlpPolicy", env, **ARGUMENTS).learn(100)
    with pytest.raises(WorkerError, match=r"Worker 0 .*'none': 1.*min_workers"):
        make(LengthFromSeedEnv, resources={"none": 1}, placement_timeout=0.5)


@pytest.mark.slow
def test_placement(cluster, make):
    head, nowhere = cluster.head_node.node_id, "0" * 56
    strategies = [NodeAffinitySchedulingStrategy(head, soft=False), "SPREAD"]
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, scheduling_strategy=strategies, num_cpus=[0.01, 0.02])
    assert env._transport.handles[0].node_id == head
    with pytest.raises(WorkerError, match=r"Worker 0 \(task 0\): ActorUnschedulableError"):
        make(LengthFromSeedEnv, scheduling_strategy=NodeAffinitySchedulingStrategy(nowhere, soft=False))


@pytest.mark.slow
@pytest.mark.filterwarnings(FAILED)
def test_a_node_that_is_cut_off_for_a_while(cluster, make, monkeypatch):
    """Nothing on it answers, and nothing says that it has ended; afterwards it serves again."""
    monkeypatch.setattr(ray_vec_env, "PLACE_SECONDS", 1.0)
    node = cluster.add_node(num_cpus=1, resources={"island": 1}, object_store_memory=STORE)
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, resources=[{}, {"island": 1}], timeout=2.0)
    model = train_rounds(RennalaNIGT("MlpPolicy", env, **ARGUMENTS), 3)
    frozen = [env.worker_pids[1], *(process.process.pid for process in node.all_processes["raylet"])]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        while not env.absent:
            train_rounds(model, model._n_updates + 1)
        assert model.last_round.counts.sum() == 6
        assert env.restarts == 1
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    while model.last_round.counts[1] == 0:
        train_rounds(model, model._n_updates + 1)
    env.close()
    cluster.remove_node(node)
