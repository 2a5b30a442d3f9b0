"""
The same regression by hand, for MLPs on a CPU.

At minibatches of 64 rows torch spends its time between the kernels: four epochs over 2,000 rows take 8 ms here against 70 in
torch with 11 inputs, and 18 against 90 with 348 (one core). Matrix products are torch's, on one thread; NumPy's BLAS would
spread them over threads, which multiplies their time where workers keep all cores busy. The rest is NumPy, whose calls are
shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_nigt.critic.network import ValueNetwork
from sb3_nigt.critic.regression import AdamState, Permutations, Regression
from sb3_nigt.critic.rows import Rows
from sb3_nigt.threads import one_thread

Array = npt.NDArray[Any]
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam


class _Tanh:
    @staticmethod
    def apply(z: Array) -> None:
        np.tanh(z, out=z)

    @staticmethod
    def derivative(h: Array) -> Array:
        """As a function of the output h: 1 - h²."""
        squares: Array = h * h
        return np.subtract(1, squares, out=squares)


class _ReLU:
    @staticmethod
    def apply(z: Array) -> None:
        np.maximum(z, 0, out=z)

    @staticmethod
    def derivative(h: Array) -> Array:
        signs: Array = np.sign(h)
        return signs


ACTIVATIONS: dict[type[nn.Module], type[_Tanh] | type[_ReLU]] = {nn.Tanh: _Tanh, nn.ReLU: _ReLU}


def is_mlp(network: ValueNetwork) -> bool:
    """
    Tell whether ``NumpyRegression`` computes exactly this network: a plain MLP on a CPU, nothing to learn in front of it.

    :param network: any value network
    """
    extractor = network.features_extractor
    hidden = list(network.hidden)
    activations = {type(module) for module in hidden[1::2]}
    return (
        type(network) is ValueNetwork
        and isinstance(extractor, (FlattenExtractor, CombinedExtractor))
        and not list(extractor.parameters())
        and len(activations) <= 1
        and activations <= ACTIVATIONS.keys()
        and all(type(module) is nn.Linear for module in (*hidden[::2], network.value_net))
        and all(p.requires_grad for p in network.parameters())
        and network.device.type == "cpu"
    )


class NumpyRegression(Regression):
    """
    MLPs on a CPU, for which ``is_mlp`` holds.

    :param network: what is fitted, in place
    :param learning_rate: of Adam
    """

    def __init__(self, network: ValueNetwork, learning_rate: float) -> None:
        super().__init__(network, learning_rate)
        self._state = AdamState.zeros(network)
        self._features: Array = np.ones((0, 0))

    def fit(self, rows: Rows, permutations: Permutations, batch_size: int) -> float:
        """See ``Regression.fit``."""
        with th.no_grad(), one_thread():
            features = self._features_of(rows)
            mlp = _PackedMlp(self.network, self._state, self.learning_rate)
            targets, total = rows.targets.astype(features.dtype), 0.0
            for permutation in permutations:
                for start in range(0, len(rows), batch_size):
                    total += mlp.step(features, targets, permutation[start : start + batch_size])
            self._state = mlp.unload(self.network)
        return total / (len(rows) * len(permutations))

    def _features_of(self, rows: Rows) -> Array:
        """Inputs of the first layer, with a last column of ones; in memory that is used again."""
        tasks = th.as_tensor(rows.tasks)
        features = self.network.mlp_inputs(obs_as_tensor(rows.observations, th.device("cpu")), tasks).numpy()
        n_rows, n_inputs = features.shape
        if self._features.dtype != features.dtype or len(self._features) < n_rows:
            self._features = np.ones((n_rows, n_inputs + 1), features.dtype)
        self._features[:n_rows, :-1] = features
        return self._features[:n_rows]

    def adam_state(self) -> AdamState:
        """See ``Regression.adam_state``."""
        return AdamState(self._state.step, self._state.first.copy(), self._state.second.copy())

    def set_adam_state(self, state: AdamState) -> None:
        """See ``Regression.set_adam_state``."""
        dtype = AdamState.zeros(self.network).first.dtype
        self._state = AdamState(state.step, state.first.astype(dtype), state.second.astype(dtype))


class _Batch:
    """
    What one layer takes and gives for a number of rows, which are columns here; each array with the views that are needed.

    :param n_inputs: of the layer
    :param n_outputs: of the layer
    :param n_rows: of the minibatch
    :param dtype: of the parameters
    :ivar rows: inputs with a last column of ones, shape (n_rows, n_inputs + 1)
    :ivar values: inputs without the ones, shape (n_inputs, n_rows)
    :ivar delta: derivative of the loss by what the layer returns, shape (n_outputs, n_rows)
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_rows: int, dtype: Any, is_first: bool) -> None:
        # those of the first layer lie row by row, so that rows are copied as they are
        inputs = np.ones((n_inputs + 1, n_rows), dtype, order="F" if is_first else "C")
        self.rows, self.values, self.delta = inputs.T, inputs[:-1], np.empty((n_outputs, n_rows), dtype)
        self.rows_tensor, self.inputs_tensor = th.from_numpy(self.rows), th.from_numpy(inputs)
        self.values_tensor, self.delta_tensor = th.from_numpy(self.values), th.from_numpy(self.delta)


class _PackedMlp:
    """
    Working copy of an MLP: parameters, gradient and Adam's moments as vectors, with each layer as the matrix [W b].

    The constant 1 is one more input of each layer, and every array is used again: few calls, without copies.
    """

    def __init__(self, network: ValueNetwork, state: AdamState, learning_rate: float) -> None:
        layers = [module for module in (*network.hidden, network.value_net) if isinstance(module, nn.Linear)]
        shapes = [(layer.out_features, layer.in_features + 1) for layer in layers]
        self._activation = ACTIVATIONS[type(network.hidden[1])] if len(network.hidden) else _Tanh
        self._order = _packed_order(shapes)
        self._theta = nn.utils.parameters_to_vector(network.parameters()).numpy()[self._order]
        # without the factors 1 - β, which the step size makes up for
        self._first = state.first[self._order] / (1 - BETA1)
        self._second = state.second[self._order] / (1 - BETA2)
        self._gradient, self._scratch = np.empty_like(self._theta), np.empty_like(self._theta)
        self._weights, self._gradients = (_matrices(vector, shapes) for vector in (self._theta, self._gradient))
        self._step, self._learning_rate = state.step, learning_rate
        self._transposed = [weight[:, :-1].T for weight in self._weights]
        self._batches: dict[int, list[_Batch]] = {}  # of each layer, by the number of rows

    def step(self, features: Array, targets: Array, chosen: npt.NDArray[np.int64]) -> float:
        """
        Make one step of Adam and return the sum of squared errors before it.

        :param features: of all rows, with a last column of ones
        :param targets: of all rows
        :param chosen: rows of the minibatch
        """
        layers = self._layers(len(chosen))
        features.take(chosen, axis=0, out=layers[0].rows, mode="clip")  # the other modes go through a copy
        for weight, below, above in zip(self._weights, layers, layers[1:], strict=False):
            th.mm(weight, below.inputs_tensor, out=above.values_tensor)
            self._activation.apply(above.values)
        last = layers[-1]
        th.mm(self._weights[-1], last.inputs_tensor, out=last.delta_tensor)
        error = last.delta
        error -= targets[chosen]
        loss = float(np.vdot(error, error))
        error *= 2 / len(chosen)
        self._backward(layers)
        self._adam()
        return loss

    def _backward(self, layers: list[_Batch]) -> None:
        """Write the gradient; the delta of the last layer is there."""
        for number in reversed(range(len(layers))):
            layer = layers[number]
            th.mm(layer.delta_tensor, layer.rows_tensor, out=self._gradients[number])
            if number:
                below = layers[number - 1]
                th.mm(self._transposed[number], layer.delta_tensor, out=below.delta_tensor)
                below.delta *= self._activation.derivative(layer.values)

    def _adam(self) -> None:
        """θ ← θ - α m̂ / (v̂^{1/2} + ε), m̂ and v̂ with their bias corrections; everything in place."""
        self._step += 1
        gradient, first, second, scratch = self._gradient, self._first, self._second, self._scratch
        correction = ((1 - BETA2**self._step) / (1 - BETA2)) ** 0.5
        first *= BETA1
        first += gradient
        gradient *= gradient
        second *= BETA2
        second += gradient
        np.sqrt(second, out=scratch)
        scratch += EPSILON * correction
        np.divide(first, scratch, out=scratch)
        scratch *= self._learning_rate * (1 - BETA1) / (1 - BETA1**self._step) * correction
        self._theta -= scratch

    def _layers(self, n_rows: int) -> list[_Batch]:
        if n_rows not in self._batches:
            shapes = [tuple(weight.shape) for weight in self._weights]
            self._batches[n_rows] = [
                _Batch(below - 1, above, n_rows, self._theta.dtype, is_first=number == 0)
                for number, (above, below) in enumerate(shapes)
            ]
        return self._batches[n_rows]

    def unload(self, network: ValueNetwork) -> AdamState:
        """Write the parameters into the network and return Adam's moments."""
        vectors = [np.empty_like(self._theta) for _ in range(3)]
        parts = (self._theta, self._first * (1 - BETA1), self._second * (1 - BETA2))
        for vector, packed in zip(vectors, parts, strict=True):
            vector[self._order] = packed
        parameters, position = th.from_numpy(vectors[0]), 0
        for p in network.parameters():
            p.copy_(parameters[position : position + p.numel()].view_as(p))
            position += p.numel()
        return AdamState(self._step, vectors[1], vectors[2])


def _packed_order(shapes: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Index with which a vector of weights and biases in torch's order becomes one of matrices [W b]."""
    parts, position = [], 0
    for rows, columns in shapes:
        weight = position + np.arange(rows * (columns - 1)).reshape(rows, columns - 1)
        position += weight.size
        parts.append(np.column_stack([weight, position + np.arange(rows)]).ravel())
        position += rows
    return np.concatenate(parts)


def _matrices(vector: Array, shapes: list[tuple[int, int]]) -> list[th.Tensor]:
    """Views of a packed vector."""
    parts = th.split(th.from_numpy(vector), [rows * columns for rows, columns in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
