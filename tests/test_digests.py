"""
The numbers of the paper's methods, written down: they do not move by a bit when the inside of the package changes.

Each digest is that of all parameters after fifty rounds on a ``SimulatedVecEnv``. The last bits of a matrix product depend on
the processor and on the libraries, and fifty rounds of learning magnify them. So the file also holds the version of torch
and the digest of some arithmetic; where these differ the others cannot be compared, and the test is skipped.

A change that is meant to move the numbers writes them anew: ``python tests/test_digests.py``.
"""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import DictEnv, LengthFromSeedEnv, parameters, run_rounds
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import AFedPG, FixedTimes, RennalaPG, SimulatedVecEnv, SyncPG

FILE = Path(__file__).with_name("digests.json")
N_ROUNDS = 50
HORIZON = 20
SCHEDULES = ("planned", "pipelined", "first_finished")
METHODS = {
    **{
        f"{algorithm.__name__} {schedule}": partial(algorithm, n_trajectories=7, schedule=schedule)
        for algorithm in (RennalaNIGT, MaleniaNIGT, RennalaPG)
        for schedule in SCHEDULES
    },
    "SyncNIGT": partial(SyncNIGT, n_trajectories=7),
    "SyncPG": partial(SyncPG, n_trajectories=7),
    "AFedPG": partial(AFedPG, n_initial_trajectories=3),
}


class ImageDictEnv(DictEnv):
    """The vector of ``DictEnv`` next to an image of the size that the library's convolutional network needs."""

    def __init__(self):
        super().__init__()
        image = gym.spaces.Box(0, 255, (1, 36, 36), np.uint8)
        self.observation_space = gym.spaces.Dict({"point": self.observation_space["point"], "image": image})

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return self._with_image(observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        return self._with_image(observation), *rest

    def _with_image(self, observation):
        x, y = np.asarray(observation["point"], dtype=np.float64)[:2]
        row, column = (round(17.5 * (1 + value)) for value in (float(x), float(y)))
        image = np.zeros((1, 36, 36), np.uint8)
        image[0, max(0, row - 3) : row + 3, max(0, column - 3) : column + 3] = 255
        return {"point": observation["point"], "image": image}


def workers(env_fn):
    return SimulatedVecEnv([env_fn] * 3, FixedTimes([1.0, 2.0, 5.0], [0.5, 0.0, 1.0]))


ENVS = {
    "plain": (lambda: workers(LengthFromSeedEnv), "MlpPolicy", {"net_arch": [8, 8]}),
    "VecNormalize": (lambda: VecNormalize(workers(LengthFromSeedEnv)), "MlpPolicy", {"net_arch": [8, 8]}),
    "Dict with an image": (
        lambda: workers(ImageDictEnv),
        "MultiInputPolicy",
        {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 4}},
    ),
    "Discrete": (lambda: workers(partial(gym.make, "CartPole-v1")), "MlpPolicy", {"net_arch": [8, 8]}),
}


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def arithmetic():
    """Digest of products, activations and sums as the package uses them."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((37, 37), dtype=np.float32) for _ in range(2))
    torch_part = th.tanh(th.from_numpy(a) @ th.from_numpy(b)).softmax(-1).log()
    image = th.nn.functional.conv2d(th.from_numpy(a)[None, None], th.from_numpy(b)[None, None, :8, :8])
    parts = [torch_part.numpy(), image.numpy(), np.tanh(a[0] @ b), np.logaddexp(a, 0.0), a.dot(b[0])]
    return digest(np.concatenate([part.ravel() for part in parts]))


def environment():
    return {"torch": th.__version__.partition("+")[0], "arithmetic": arithmetic()}


def trained(method, env):
    make_env, policy, policy_kwargs = ENVS[env]
    rate = 1e-3 if method.startswith(("RennalaPG", "SyncPG")) else 2**-6
    model = METHODS[method](
        policy, make_env(), horizon=HORIZON, learning_rate=rate, seed=5, device="cpu", policy_kwargs=policy_kwargs
    )
    before = digest(parameters(model))
    run_rounds(model, N_ROUNDS)
    after = digest(parameters(model))
    assert after != before
    return after


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("method", METHODS)
def test_parameters_after_fifty_rounds_are_those_written_down(method, env):
    written = json.loads(FILE.read_text(encoding="utf-8"))
    if written["environment"] != environment():
        pytest.skip("this processor or these libraries round differently from those of the file")
    assert trained(method, env) == written[env][method]


if __name__ == "__main__":
    found = {env: {method: trained(method, env) for method in METHODS} for env in ENVS}
    found["environment"] = environment()
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{FILE.name} written\n")
