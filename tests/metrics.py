"""Dense metrics, and small optimizers that measure their steps in them."""

import numpy as np
import torch as th

from sb3_nigt import NIGT

SHAPES = [(3, 2), (4,), (), (1, 2, 2)]
SIZE = 15


def parameters(shapes=SHAPES, dtype=th.float64):
    return [th.nn.Parameter(th.zeros(shape, dtype=dtype)) for shape in shapes]


def split(vector, params):
    """A flat array as one tensor a parameter."""
    parts = np.split(np.asarray(vector), np.cumsum([p.numel() for p in params])[:-1])
    return [th.tensor(part, dtype=p.dtype).reshape(p.shape) for part, p in zip(parts, params, strict=True)]


def flat(tensors):
    return np.concatenate([t.detach().double().numpy().reshape(-1) for t in tensors])


def matrix_metric(matrix):
    """The metric v -> F v of a dense matrix; ``calls`` counts its products."""

    def metric(vectors):
        metric.calls += 1
        return split(np.asarray(matrix) @ flat(vectors), vectors)

    metric.calls = 0
    return metric


def one_step(optimizer, g):
    """Return by how much the parameters moved."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = flat(params)
    for p, part in zip(params, split(g, params), strict=True):
        p.grad = part
    optimizer.step()
    return flat(params) - before


def optimizer_in_the_plane(geometry, matrix, lr=1.0, **kwargs):
    optimizer = NIGT(parameters([(2,)]), lr=lr, geometry=geometry, **kwargs)
    optimizer.metric = matrix_metric(matrix)
    return optimizer


def random_metric(rng, size=SIZE):
    root = rng.standard_normal((size, size))
    return root @ root.T / size
