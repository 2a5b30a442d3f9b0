"""A tabular MDP with a random end and a horizon: small enough to list every trajectory with its probability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory

N_STATES, N_ACTIONS = 2, 2  # the last column of P is the terminal state, from which nothing follows

# Observations of the three states; they do not span the plane evenly, so that a linear policy couples the states.
FEATURES = np.array([[1.0, 0.5], [-0.5, 2.0], [0.0, 0.0]], dtype=np.float32)
START = np.array([0.75, 0.25])
# P[s, a, s'] with terminal state s' = 2; every row sums to one, and (s=1, a=1) never ends the episode
P = np.array([[[0.25, 0.5, 0.25], [0.5, 0.125, 0.375]], [[0.125, 0.375, 0.5], [0.75, 0.25, 0.0]]])
# R[s, a, s']: depends on all three, has both signs
R = np.array([[[1.0, -0.5, 2.0], [0.25, 0.0, -1.0]], [[-2.0, 1.5, 0.5], [0.75, -0.25, 9.0]]])


@dataclass(frozen=True)
class Path:
    """One possible trajectory: states s_0 … s_L, actions and rewards of L steps, the last state terminal or L = H."""

    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]

    @property
    def terminated(self) -> bool:
        return self.states[-1] == N_STATES

    def probability(self, action_probs: Any) -> Any:
        """Under π(a | s) = action_probs[s][a], a NumPy array or a tensor."""
        product: Any = START[self.states[0]]
        for s, a, following in zip(self.states, self.actions, self.states[1:], strict=False):
            product = product * P[s, a, following] * action_probs[s][a]
        return product

    def discounted_return(self, gamma: float) -> float:
        return sum(gamma**h * reward for h, reward in enumerate(self.rewards))

    def trajectory(self, point: SamplingPoint) -> Trajectory:
        """As the workers would have recorded it."""
        actions = np.array(self.actions, dtype=np.int64)
        return Trajectory(
            key=TrajectoryKey(0, 0, 0),
            point=point,
            observations=FEATURES[list(self.states[:-1])],
            final_observation=FEATURES[self.states[-1]],
            samples=actions,
            actions=actions,
            rewards=np.array(self.rewards),
            terminated=self.terminated,
            truncated=False,
            infos=[{} for _ in self.actions],
        )


def all_paths(horizon: int) -> list[Path]:
    """Every trajectory with a positive probability under a policy that gives each action one."""

    def extended(path: Path) -> Iterator[Path]:
        if path.terminated or len(path.actions) == horizon:
            yield path
            return
        s = path.states[-1]
        for a in range(N_ACTIONS):
            for following in np.flatnonzero(P[s, a]).tolist():
                reward = float(R[s, a, following])
                yield from extended(Path((*path.states, following), (*path.actions, a), (*path.rewards, reward)))

    return [path for s in range(N_STATES) for path in extended(Path((s,), (), ()))]


def expected_return(action_probs: th.Tensor, gamma: float, horizon: int) -> th.Tensor:
    """
    J_H by backward induction, differentiable: no trajectory is listed, and no score appears.

    V_H = 0 and V_h(s) = Σ_a π(a|s) Σ_s' P(s'|s,a) (R(s,a,s') + γ V_{h+1}(s')), J = Σ_s START(s) V_0(s).
    """
    transition, reward, start = (th.as_tensor(array, dtype=th.float64) for array in (P, R, START))
    value = th.zeros(N_STATES + 1, dtype=th.float64)
    for _ in range(horizon):
        q = (transition * (reward + gamma * value)).sum(dim=-1)
        value = th.cat([(action_probs * q).sum(dim=-1), value[-1:]])
    return (start * value[:-1]).sum()


class ToyEnv(gym.Env):
    """The MDP as an environment; the horizon is the sampler's business."""

    observation_space = spaces.Box(-10.0, 10.0, shape=FEATURES.shape[1:], dtype=np.float32)
    action_space = spaces.Discrete(N_ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(N_STATES, p=START))
        return FEATURES[self.state], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        following = int(self.np_random.choice(N_STATES + 1, p=P[self.state, int(action)]))
        reward = float(R[self.state, int(action), following])
        self.state = following
        return FEATURES[following], reward, following == N_STATES, False, {}
