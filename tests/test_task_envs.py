"""Tasks for the workers: what each changes, by hand; the same on every kind of worker; training on all of them."""

import math
import re
import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from envs import FixedLengthEnv, PointEnv, accepted, parameters, run_rounds
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from paper import MaleniaNIGT
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import ProcessVecEnv, SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.envs import FlippedObservation, TargetVelocity, make_task_env, make_tasks

PAPER = ["Humanoid-v4", "Reacher-v4", "Walker2d-v4", "Hopper-v4"]
LOCOMOTION = [
    f"{robot}-{version}" for robot in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d") for version in ("v4", "v5")
]
IDS = [env_id for env_id in gym.registry if env_id.startswith("sb3_nigt/")]
FAMILIES = ["flipped", "velocity", "direction", "gravity", "friction"]


def pair(env_id, family, **kwargs):
    """An environment and its task, both reset with the same seed."""
    plain, task = gym.make(env_id), make_task_env(family, env_id, **kwargs)
    return plain, task, plain.reset(seed=3)[0], task.reset(seed=3)[0]


def test_ids_are_registered():
    assert len(IDS) == 2 * (5 * 5 + 1)
    assert {f"sb3_nigt/Flipped{env_id}" for env_id in PAPER} <= set(IDS)


def complaints(env):
    """What gymnasium's and Stable-Baselines3's check_env warn of; they raise for worse."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # there is a v5 of every v4
        check_env(env, skip_render_check=True)
        sb3_check_env(env)
    return {re.sub("<.*>", "", str(warning.message)) for warning in caught}  # without the name of the environment


@pytest.mark.one_in(4)
@pytest.mark.parametrize("env_id", IDS)
def test_registered_tasks_are_clean(env_id):
    """Only the robot itself is complained about."""
    env = gym.make(env_id)
    assert complaints(env) <= complaints(gym.make(env.spec.kwargs["env_id"]))


@pytest.mark.parametrize("env_id", IDS[::5])
def test_a_task_can_be_made_again_from_its_spec(env_id):
    env = gym.make(env_id)
    again = gym.make(env.spec)
    np.testing.assert_array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])


def test_registered_tasks_take_arguments_of_the_task_and_of_the_robot():
    env = gym.make("sb3_nigt/FlippedHopper-v5", flip=False, append_bit=False, healthy_reward=3.0)
    plain = gym.make("Hopper-v5", healthy_reward=3.0)
    np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])
    action = np.zeros(3, np.float32)
    assert env.step(action)[1] == plain.step(action)[1]


# Observations


@pytest.mark.parametrize("env_id", PAPER)
@pytest.mark.parametrize(("flip", "sign", "bit"), [(False, 1.0, 0.0), (True, -1.0, 1.0)])
def test_flipped_observation_with_and_without_the_bit(env_id, flip, sign, bit):
    plain, task, first, task_first = pair(env_id, "flipped", flip=flip)
    without = make_task_env("flipped", env_id, flip=flip, append_bit=False)
    np.testing.assert_array_equal(task_first, [*sign * first, bit])
    np.testing.assert_array_equal(without.reset(seed=3)[0], sign * first)
    action = plain.action_space.high / 2
    expected, reward, *_ = plain.step(action)
    observation, task_reward, *_ = task.step(action)
    np.testing.assert_array_equal(observation, [*sign * expected, bit])
    np.testing.assert_array_equal(without.step(action)[0], sign * expected)
    assert task_reward == reward
    assert observation.dtype == task.observation_space.dtype == plain.observation_space.dtype
    assert task.observation_space.contains(observation)


@pytest.mark.parametrize("append_bit", [False, True])
def test_both_tasks_have_one_space_that_holds_both(append_bit):
    """MountainCar's position is in [-1.2, 0.6]: the hull of it and of its negative is [-1.2, 1.2]."""
    flipped, unflipped = (FlippedObservation(gym.make("MountainCar-v0"), flip, append_bit) for flip in (True, False))
    assert flipped.observation_space == unflipped.observation_space
    high = np.array([1.2, 0.07] + [1.0] * append_bit, np.float32)
    low = np.array([-1.2, -0.07] + [0.0] * append_bit, np.float32)
    assert flipped.observation_space == spaces.Box(low, high)


# Rewards


@pytest.mark.parametrize("env_id", LOCOMOTION)
def test_rewards_follow_the_target(env_id):
    """With v_x the velocity and w its weight, r - w v_x is the rest of the reward; each task adds a term of its own to it."""
    action = gym.make(env_id).action_space.high / 3
    weight = 1.25 if env_id.startswith("Humanoid") else 1.0
    plain, faster, *_ = pair(env_id, "velocity", target=2.0)
    _, backward, *_ = pair(env_id, "direction", angle=180)
    _, forward, *_ = pair(env_id, "direction", angle=0)
    for _ in range(3):
        _, reward, *_, info = plain.step(action)
        velocity = info["x_velocity"]
        rest = reward - weight * velocity
        assert velocity != 0
        assert faster.step(action)[1] == pytest.approx(rest - weight * abs(velocity - 2.0), abs=1e-12)
        assert backward.step(action)[1] == pytest.approx(rest - weight * velocity, abs=1e-12)
        assert forward.step(action)[1] == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize("env_id", ["Ant-v4", "Humanoid-v5"])
def test_sideways(env_id):
    """At 90 degrees y counts and x does not; at 30 degrees the unit vector is (√3/2, 1/2)."""
    plain, left, *_ = pair(env_id, "direction", angle=90)
    _, oblique, *_ = pair(env_id, "direction", angle=30)
    weight = 1.25 if env_id.startswith("Humanoid") else 1.0
    action = plain.action_space.high / 3
    _, reward, *_, info = plain.step(action)
    x, y = info["x_velocity"], info["y_velocity"]
    assert left.step(action)[1] == pytest.approx(reward + weight * (y - x))
    assert oblique.step(action)[1] == pytest.approx(reward + weight * (math.sqrt(3) / 2 * x + y / 2 - x))


def test_weight_of_the_forward_term_is_the_tasks():
    """HalfCheetah's reward is w v - 0.1 |a|²: at rest with target 1 and w = 3 it is -3."""
    env = TargetVelocity(gym.make("HalfCheetah-v5", forward_reward_weight=3.0, reset_noise_scale=0.0), 1.0)
    env.reset()
    _, reward, *_, info = env.step(np.zeros(6, np.float32))
    assert reward == pytest.approx(-3.0 * abs(info["x_velocity"] - 1.0))
    assert abs(info["x_velocity"]) < 0.1


def test_monitor_reports_the_return_of_the_task():
    env, total, done = Monitor(make_task_env("velocity", "Hopper-v5", target=1.0)), 0.0, False
    env.reset(seed=0)
    while not done:
        _, _, terminated, truncated, info = env.step(np.ones(3, np.float32))
        # Hopper's reward is 1 while it stands, plus v, minus 0.001 |a|²; when it falls the 1 is missing
        total += (not terminated) - abs(info["x_velocity"] - 1.0) - 0.003
        done = terminated or truncated
    assert info["episode"]["r"] == pytest.approx(total, abs=1e-5)


# Physics


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Hopper-v5", "Humanoid-v4"])
@pytest.mark.parametrize("scale", [0.0, 0.38, 2.0])
def test_free_fall(env_id, scale):
    """From rest and in the air the centre of mass falls by g t²/2, also after resets."""
    env = make_task_env("gravity", env_id, scale=scale)
    env.reset(seed=0)
    env.reset(seed=1)
    robot = env.unwrapped
    position = robot.init_qpos.copy()
    position[1 if env_id.startswith("Hopper") else 2] += 20.0
    robot.set_state(position, np.zeros_like(robot.init_qvel))
    start = robot.data.subtree_com[0, 2]
    robot.do_simulation(np.zeros(robot.model.nu), 40)
    mujoco.mj_forward(robot.model, robot.data)
    seconds = 40 * robot.model.opt.timestep
    # the integrator's own error is a step's worth, g t Δt/2, at most
    tolerance = 9.81 * scale * seconds * robot.model.opt.timestep / 2 + 1e-6
    assert start - robot.data.subtree_com[0, 2] == pytest.approx(9.81 * scale * seconds**2 / 2, abs=tolerance)


class SlidingBox(gym.Env):
    """A box on a plane that is given 2 m/s; the friction is that of the geoms (0.4), or one declared for their pair."""

    XML = """<mujoco><option timestep="0.001" impratio="10" cone="elliptic"/><worldbody>
        <geom name="floor" type="plane" size="10 10 1" friction="0.4 0.005 0.0001"/>
        <body pos="0 0 0.1"><freejoint/>
        <geom name="box" type="box" size="0.4 0.4 0.1" mass="1" friction="0.4 0.005 0.0001"/></body>
        </worldbody><contact>{pair}</contact></mujoco>"""
    PAIR = '<pair geom1="floor" geom2="box" condim="3" friction="0.4 0.4 0.005 0.0001 0.0001"/>'

    def __init__(self, pair):
        self.model = mujoco.MjModel.from_xml_string(self.XML.format(pair=self.PAIR if pair else ""))
        self.observation_space = self.action_space = spaces.Box(-1, 1, (1,))

    def slide(self):
        data = mujoco.MjData(self.model)
        mujoco.mj_step(self.model, data, 200)  # comes to rest on the floor
        start, data.qvel[0] = data.qpos[0], 2.0
        mujoco.mj_step(self.model, data, 2000)
        return data.qpos[0] - start


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_sliding_distance(pair, scale):
    """The deceleration is μ g, so the box stops after v²/(2 μ g)."""
    env = make_task_env("friction", SlidingBox, scale=scale, pair=pair)
    assert env.unwrapped.slide() == pytest.approx(2.0**2 / (2 * 0.4 * scale * 9.81), rel=0.02)


@pytest.mark.parametrize("family", ["gravity", "friction"])
def test_scales_survive_resets_and_act_on_the_robots(family):
    plain, task, *_ = pair("Walker2d-v4", family, scale=0.2)
    model = task.unwrapped.model
    before = model.opt.gravity.copy(), model.geom_friction.copy()
    task.reset(seed=3)
    np.testing.assert_array_equal(before[0], model.opt.gravity)
    np.testing.assert_array_equal(before[1], model.geom_friction)
    steps = [[env.step(np.full(6, 0.5, np.float32))[0] for _ in range(40)] for env in (plain, task)]
    assert not np.allclose(*steps)


# Tasks for all workers


def test_tasks_of_the_paper():
    tasks = make_tasks("flipped", "Humanoid-v4", n_workers=2)
    assert tasks["task_ids"] == ["flipped=False", "flipped=True"]
    env = make_worker_vec_env(**tasks, step_times=[1, 10])
    assert isinstance(env, SimulatedVecEnv)
    assert list(env.task_ids) == tasks["task_ids"]
    np.testing.assert_array_equal(env.reset()[:, -1], [0.0, 1.0])
    assert env.observation_space.shape == (377,)


def test_workers_take_the_values_in_turn():
    tasks = make_tasks("gravity", "Hopper-v5", n_workers=5, values=np.array([0.5, 2.0]), healthy_reward=2.0)
    assert tasks["task_ids"] == ["gravity=0.5", "gravity=2.0"] * 2 + ["gravity=0.5"]
    env = make_worker_vec_env(**tasks)
    for worker, scale in enumerate([0.5, 2.0, 0.5, 2.0, 0.5]):
        (robot,) = env.get_attr("unwrapped", worker)
        assert robot.model.opt.gravity[2] == -9.81 * scale
        assert robot._healthy_reward == 2.0


@pytest.mark.parametrize("family", FAMILIES)
def test_default_tasks_differ(family):
    tasks = make_tasks(family, "Hopper-v4", n_workers=10)
    assert len(set(tasks["task_ids"])) == (2 if family in ("flipped", "direction") else 10)
    assert len(make_tasks(family, "Hopper-v4", n_workers=1)["task_ids"]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_each_family(family):
    """Two rounds; every task is in each, with half of the weight."""
    env = make_worker_vec_env(**make_tasks(family, "Hopper-v4", n_workers=2), step_times=[1, 10])
    model = MaleniaNIGT("MlpPolicy", env, n_trajectories=4, horizon=20, seed=0, device="cpu")
    start = parameters(model)
    for report in run_rounds(model, 2):
        assert report.counts.min() > 0
        np.testing.assert_allclose(report.counts * report.weights, 0.5)
    assert np.isfinite(parameters(model)).all()
    assert not np.array_equal(parameters(model), start)


@pytest.mark.parametrize(
    "tasks", [("flipped", "sb3_nigt/GravityHopper-v4"), ("direction", "Hopper-v4"), ("friction", "Hopper-v4")]
)
def test_processes_run_the_trajectories_of_the_simulator(tasks):
    """The ids are known in the worker processes, and the tasks are the same ones there."""
    results = []
    for vec_env_cls in (SimulatedVecEnv, ProcessVecEnv):
        env = make_worker_vec_env(**make_tasks(*tasks, n_workers=2), vec_env_cls=vec_env_cls)
        model = MaleniaNIGT("MlpPolicy", env, n_trajectories=2, horizon=60, seed=1, device="cpu")
        model.learn(1)
        results.append({t.key: t for t in accepted(model)})
        env.close()
    simulator, processes = results
    assert processes.keys() == simulator.keys()
    for key, trajectory in processes.items():
        np.testing.assert_array_equal(trajectory.observations, simulator[key].observations)
        np.testing.assert_array_equal(trajectory.rewards, simulator[key].rewards)


# Bad input

BAD_TASKS = {
    r"family='gravitation' is not allowed: give one of 'flipped'": {"family": "gravitation"},
    r"family=None is not allowed": {"family": None},
    r"env_id='Hoper-v4' is not allowed.*Hopper": {"env_id": "Hoper-v4"},
    r"env_id=3 is not allowed: give a registered id": {"env_id": 3},
    r"n_workers=0 is not allowed": {"n_workers": 0},
    r"values=\[\] is not allowed: give a list of 1 to n_workers=2 numbers": {"values": []},
    r"values=\[1, 2, 3\] is not allowed": {"values": [1, 2, 3]},
    r"values=0.5 is not allowed": {"values": 0.5},
    r"values=\['heavy'\] is not allowed": {"values": ["heavy"]},
    r"values=\[\[1\], \[2, 3\]\] is not allowed": {"values": [[1], [2, 3]]},
    r"scale=-1.0 is not allowed: give a finite number in \[0, inf\)": {"values": [0.5, -1.0]},
    r"scale=nan is not allowed": {"family": "friction", "values": [math.nan]},
    r"scale=0.5 is not allowed: the tasks differ in it, so give a list, values=": {"scale": 0.5},
    r"env=.*CartPole.* has no MuJoCo model: give a MuJoCo environment": {"env_id": "CartPole-v1"},
    r"env=.*Reacher.* does not report x_velocity in info: give": {"family": "velocity", "env_id": "Reacher-v4"},
    r"env=.*does not report y_velocity in info: give": {"family": "direction", "values": [0, 90]},
    r"angle=400 is not allowed: give a finite number in \[-360, 360\]": {"family": "direction", "values": [400]},
    r"target=inf is not allowed": {"family": "velocity", "values": [math.inf]},
    r"flip=2 is not allowed: give True or False": {"family": "flipped", "values": [2]},
    r"append_bit='yes' is not allowed: give True or False": {"family": "flipped", "append_bit": "yes"},
}


@pytest.mark.parametrize("message", BAD_TASKS)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        make_tasks(**{"family": "gravity", "env_id": "Hopper-v4", "n_workers": 2, **BAD_TASKS[message]})


class SpaceEnv(PointEnv):
    def __init__(self, space):
        super().__init__()
        self.observation_space = space


def test_observations_that_cannot_be_flipped():
    for space in (spaces.Discrete(3), spaces.Box(0, 255, (4, 4, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"observation space .* cannot be negated: give one with a Box of floats"):
            FlippedObservation(SpaceEnv(space), True, False)
    matrix = SpaceEnv(spaces.Box(-1, 1, (2, 2)))
    with pytest.raises(ValueError, match=r"append_bit=True needs a vector, env has the shape \(2, 2\): give append_bit=False"):
        FlippedObservation(matrix, True, True)
    assert FlippedObservation(matrix, True, False).observation_space.shape == (2, 2)


def test_any_environment_can_be_flipped():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(make_task_env("flipped", FixedLengthEnv, length=3))
