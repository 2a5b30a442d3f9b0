"""The critic as the algorithm uses it: values for a round, then a fit to its λ-returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from torch import nn

from sb3_nigt.critic.network import ValueNetwork
from sb3_nigt.critic.numpy_regression import NumpyRegression, is_mlp
from sb3_nigt.critic.regression import AdamState, Regression, TorchRegression
from sb3_nigt.critic.rows import RoundPool, Rows
from sb3_nigt.moments import FloatArray

MAX_ELEMENTS = 2**22  # numbers of observation in one forward pass, bounds the memory of long rounds of images


@dataclass(frozen=True)
class FitReport:
    """
    What is logged about a fit.

    :param value_loss: mean of (V - y)² over all rows and epochs, in normalised units
    :param explained_variance: 1 - Var(y - V) / Var(y) on the new round with the values before the fit; nan if Var(y) is 0
    """

    value_loss: float
    explained_variance: float


class Critic:
    """
    Value network with its own Adam, fitted to the λ-returns of the last rounds together.

    Its random numbers are its own: a fit is a function of the seed and the data. Values are in normalised units.

    :param network: the value network; an MLP on a CPU is fitted in NumPy, any other in torch
    :param seed: of the order of the rows, a non-negative integer
    :param learning_rate: of Adam
    :param n_epochs: passes over the rows in one fit
    :param batch_size: rows of a minibatch
    :param n_rounds: how many rounds are fitted together
    """

    def __init__(
        self,
        network: ValueNetwork,
        seed: int,
        learning_rate: float = 1e-3,
        n_epochs: int = 4,
        batch_size: int = 128,
        n_rounds: int = 4,
    ) -> None:
        self.network = network
        self.n_epochs, self.batch_size = n_epochs, batch_size
        self.pool = RoundPool(n_rounds)
        self._rng, self._learning_rate = np.random.default_rng(seed), learning_rate
        self._regression: Regression = (NumpyRegression if is_mlp(network) else TorchRegression)(network, learning_rate)

    def values(self, observations: Any, tasks: npt.NDArray[np.int64] | None = None) -> FloatArray:
        """
        Return V in normalised units.

        :param observations: as the policy saw them, array or dict of arrays with leading dimension n
        :param tasks: number of each row's task, shape (n,); None: all of task 0
        :return: shape (n,)
        """
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        if not len(first):
            return np.zeros(0)
        rows = Rows(observations, np.zeros(len(first)), np.zeros(len(first), np.int64) if tasks is None else tasks)
        arrays = observations.values() if isinstance(observations, dict) else [observations]
        size = max(1, MAX_ELEMENTS * len(first) // max(1, sum(array.size for array in arrays)))
        self.network.eval()
        return np.concatenate([self._values(rows.take(slice(i, i + size))) for i in range(0, len(first), size)])

    def _values(self, rows: Rows) -> FloatArray:
        with th.no_grad():
            observations = obs_as_tensor(rows.observations, self.network.device)
            values: th.Tensor = self.network(observations, th.as_tensor(rows.tasks, device=self.network.device))
        return values.cpu().numpy().astype(np.float64)

    def fit(
        self, observations: Any, targets: FloatArray, values: FloatArray, tasks: npt.NDArray[np.int64] | None = None
    ) -> FitReport:
        """
        Add a round to the pool and fit the network to all rounds in it.

        :param observations: as the policy saw them, array or dict of arrays with leading dimension n ≥ 1
        :param targets: λ-returns in normalised units, shape (n,)
        :param values: V of the same steps before this fit, shape (n,)
        :param tasks: number of each step's task, shape (n,); None: all of task 0
        """
        self.pool.add(Rows.of(observations, targets, tasks))
        rows = self.pool.rows()
        permutations = [self._rng.permutation(len(rows)) for _ in range(self.n_epochs)]
        if isinstance(self._regression, NumpyRegression) and not is_mlp(self.network):  # it was frozen, or moved, in between
            state, self._regression = self._regression.adam_state(), TorchRegression(self.network, self._learning_rate)
            self._regression.set_adam_state(state)
        loss = self._regression.fit(rows, permutations, self.batch_size)
        return FitReport(loss, float(explained_variance(values, targets)))

    def take_mean(self, mean: Callable[[FloatArray, float], FloatArray | None]) -> None:
        """
        Replace network and Adam's moments by their mean over several critics that were fitted to different rows.

        :param mean: a function of this critic's vector and, as its weight, the number of its rows; None if no critic has rows
        """
        vector = mean(self.vector(), float(sum(len(rows) for rows in self.pool.rounds)))
        if vector is not None:
            self.set_vector(vector)

    def vector(self) -> FloatArray:
        """Return parameters and state of Adam as one vector."""
        adam = self._regression.adam_state()
        parameters = nn.utils.parameters_to_vector(self.network.parameters()).detach().cpu().numpy()
        return np.concatenate([parameters, adam.first, adam.second, [adam.step]]).astype(np.float64)

    def set_vector(self, vector: FloatArray) -> None:
        """
        Go on with other parameters and another state of Adam.

        :param vector: of ``vector`` of a critic with the same network
        """
        parameters, first, second = np.split(vector[:-1], 3)
        position = 0
        with th.no_grad():
            for p in self.network.parameters():
                p.copy_(th.from_numpy(parameters[position : position + p.numel()]).view_as(p))
                position += p.numel()
        self._regression.set_adam_state(AdamState(round(vector[-1]), first, second))

    def state_dict(self) -> dict[str, Any]:
        """All that changes in a run: parameters, Adam's moments, random numbers and the pool."""
        return {
            # arrays: tensors of a GPU could not be loaded without one
            "network": {name: tensor.cpu().numpy().copy() for name, tensor in self.network.state_dict().items()},
            "adam": astuple(self._regression.adam_state()),
            "generator": self._rng.bit_generator.state,
            "pool": [(rows.observations, rows.targets, rows.tasks) for rows in self.pool.rounds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continue from a state.

        :param state: of ``state_dict``, of a critic with the same arguments
        """
        self.network.load_state_dict({name: th.as_tensor(array) for name, array in state["network"].items()})
        self._regression.set_adam_state(AdamState(*state["adam"]))
        self._rng.bit_generator.state = state["generator"]
        self.pool.rounds.clear()
        self.pool.rounds.extend(Rows(*parts) for parts in state["pool"])
