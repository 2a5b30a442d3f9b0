"""Minibatch regression of a value network with Adam, in torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.utils import obs_as_tensor

from sb3_nigt.critic.network import ValueNetwork
from sb3_nigt.critic.rows import Rows

Permutations = Sequence[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class AdamState:
    """
    Moments of Adam, laid out like the parameters of the network one after the other.

    :param step: number of minibatches so far
    :param first: running mean of the gradient, shape (d,)
    :param second: running mean of its square, shape (d,)
    """

    step: int
    first: npt.NDArray[Any]
    second: npt.NDArray[Any]

    @classmethod
    def zeros(cls, network: ValueNetwork) -> AdamState:
        """
        Return the state before the first minibatch.

        :param network: the network, which determines size and precision
        """
        size = sum(p.numel() for p in network.parameters())
        dtype = network.value_net.weight.detach().cpu().numpy().dtype
        return cls(0, np.zeros(size, dtype), np.zeros(size, dtype))


class Regression(ABC):
    """
    Minimises the mean of (V(s) - y)² over minibatches, one step of ``torch.optim.Adam`` each.

    Implementations differ in speed and in rounding only.

    :param network: what is fitted, in place
    :param learning_rate: of Adam
    """

    def __init__(self, network: ValueNetwork, learning_rate: float) -> None:
        self.network, self.learning_rate = network, learning_rate

    @abstractmethod
    def fit(self, rows: Rows, permutations: Permutations, batch_size: int) -> float:
        """
        Run through the rows once for each permutation.

        :param rows: at least one
        :param permutations: order of the rows in each epoch
        :param batch_size: rows of a minibatch; the last one of an epoch may be smaller
        :return: mean over all rows and epochs of (V - y)², each with the parameters before its minibatch's step
        """

    @abstractmethod
    def adam_state(self) -> AdamState:
        """Return a copy of Adam's moments."""

    @abstractmethod
    def set_adam_state(self, state: AdamState) -> None:
        """
        Continue from these moments.

        :param state: of ``adam_state`` of any implementation
        """


class TorchRegression(Regression):
    """Any network, on any device."""

    def __init__(self, network: ValueNetwork, learning_rate: float) -> None:
        super().__init__(network, learning_rate)
        self.optimizer = th.optim.Adam(network.parameters(), lr=learning_rate)

    def fit(self, rows: Rows, permutations: Permutations, batch_size: int) -> float:
        """See ``Regression.fit``."""
        total = 0.0
        for batch in _minibatches(rows, permutations, batch_size):
            self.network.train(len(batch) > 1)  # BatchNorm has no variance of a single row
            observations = obs_as_tensor(batch.observations, self.network.device)
            tasks, targets = (th.as_tensor(x, device=self.network.device) for x in (batch.tasks, batch.targets))
            values = self.network(observations, tasks)
            loss = th.nn.functional.mse_loss(values, targets.to(values.dtype))
            if loss.requires_grad:  # not where all of it is frozen
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
            total += loss.item() * len(batch)
        self.network.eval()
        return total / (len(rows) * len(permutations))

    def adam_state(self) -> AdamState:
        """See ``Regression.adam_state``."""
        states = self.optimizer.state
        if not states:
            return AdamState.zeros(self.network)
        first, second = (
            th.cat([(states[p][name] if p in states else th.zeros_like(p)).reshape(-1) for p in self.network.parameters()])
            for name in ("exp_avg", "exp_avg_sq")  # a parameter that has had no gradient has no state
        )
        step = max(int(state["step"]) for state in states.values())
        return AdamState(step, first.detach().cpu().numpy(), second.detach().cpu().numpy())

    def set_adam_state(self, state: AdamState) -> None:
        """See ``Regression.set_adam_state``."""
        parameters = list(self.network.parameters())
        ends = np.cumsum([p.numel() for p in parameters])[:-1]
        parts = zip(parameters, np.split(state.first, ends), np.split(state.second, ends), strict=True)
        self.optimizer.state.clear()
        for p, *moments in parts if state.step else ():
            first, second = (th.as_tensor(m.copy(), dtype=p.dtype, device=p.device).view_as(p) for m in moments)
            self.optimizer.state[p] = {"step": th.tensor(float(state.step)), "exp_avg": first, "exp_avg_sq": second}


def _minibatches(rows: Rows, permutations: Permutations, batch_size: int) -> Iterator[Rows]:
    for permutation in permutations:
        for start in range(0, len(permutation), batch_size):
            yield rows.take(permutation[start : start + batch_size])
