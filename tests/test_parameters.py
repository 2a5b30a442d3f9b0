"""A policy as a flat vector: which number is where, on a module small enough to count."""

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_nigt.normalization import RunningNorm
from sb3_nigt.parameters import Layout, flatten, has_batch_norm, load_flat


class Module(nn.Module):
    """Parameters a (2 × 2) and b (1), then buffers of which only x and z are numbers that float32 can hold."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(th.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.b = nn.Parameter(th.tensor([5.0]))
        self.register_buffer("x", th.tensor([6.0, 7.0]))
        self.register_buffer("count", th.tensor(8))
        self.register_buffer("precise", th.tensor([9.0], dtype=th.float64))
        self.register_buffer("z", th.tensor([10.0], dtype=th.float16))


VECTOR = np.array([1, 2, 3, 4, 5, 6, 7, 10], dtype=np.float32)


def test_parameters_come_first_then_the_buffers_that_float32_can_hold():
    layout = Layout(Module())
    vector = layout.flatten()
    assert vector.dtype == np.float32
    assert vector.tolist() == VECTOR.tolist()
    assert (layout.size, layout.n_parameters) == (8, 5)


def test_values_by_parameter_replace_its_own():
    """θ̃ is given for the parameters that the optimizer holds; the others keep theirs."""
    module = Module()
    layout = Layout(module)
    assert layout.flatten({module.b: th.tensor([50.0])}).tolist() == [1, 2, 3, 4, 50, 6, 7, 10]
    assert flatten(module, {module.a: -module.a}).tolist() == [-1, -2, -3, -4, 5, 6, 7, 10]
    assert flatten(module).tolist() == VECTOR.tolist()


def test_load_is_the_inverse():
    module = Module()
    load_flat(module, 10 * VECTOR)
    assert module.a.tolist() == [[10, 20], [30, 40]]
    assert module.b.tolist() == [50]
    assert module.x.tolist() == [60, 70]
    assert module.z.tolist() == [100]
    assert (module.count.item(), module.precise.item()) == (8, 9.0)
    assert flatten(module).tolist() == (10 * VECTOR).tolist()
    assert module.a.requires_grad


def test_the_vector_shares_no_memory():
    module = Module()
    vector = flatten(module)
    vector[:] = 0
    assert module.a.tolist() == [[1, 2], [3, 4]]
    one = nn.Linear(1, 1, bias=False)  # a single tensor need not be joined with anything
    flatten(one)[:] = 7
    assert one.weight.item() != 7


@pytest.mark.parametrize("dtype", [th.float64, th.float16])
def test_a_vector_is_float32_whatever_the_module_is(dtype):
    assert flatten(nn.Linear(2, 1).to(dtype)).dtype == np.float32


def test_a_module_without_parameters_is_an_empty_vector():
    assert flatten(nn.Tanh()).tolist() == []


def test_parts_of_a_vector():
    module = Module()
    layout = Layout(module)
    assert layout.view(VECTOR, module.a).tolist() == [[1, 2], [3, 4]]
    assert layout.view(VECTOR, module.b).tolist() == [5]
    assert layout.view(VECTOR, module.z).tolist() == [10]
    assert layout.view(th.arange(5.0), module.b).tolist() == [4]  # a gradient, which has no buffers
    with pytest.raises(KeyError):
        layout.view(VECTOR, module.precise)


def test_frozen_parameters_get_no_gradient():
    module = Module()
    module.a.requires_grad_(False)
    ((parameter, part),) = Layout(module).by_parameter(th.arange(5.0))
    assert parameter is module.b
    assert part.tolist() == [4]
    module.a.requires_grad_(True)
    assert [part.tolist() for _, part in Layout(module).by_parameter(th.arange(5.0))] == [[[0, 1], [2, 3]], [4]]


def test_gradients_are_joined_with_zeros_where_there_is_none():
    module = Module()
    layout = Layout(module)
    assert layout.join({module.b: th.tensor([5.0])}).tolist() == [0, 0, 0, 0, 5]
    assert layout.join({module.a: th.tensor([[1.0, 2.0], [3.0, 4.0]]), module.b: None}).tolist() == [1, 2, 3, 4, 0]


def test_other_buffers_travel_by_name():
    module, other = Module(), Module()
    module.precise.requires_grad_()  # of a buffer that is differentiated only the value travels
    with th.no_grad():
        module.count += 1
        module.precise += 1 / 3
    buffers = Layout(module).other_buffers()
    assert list(buffers) == ["count", "precise"]
    with th.no_grad():
        module.count += 1
    assert buffers["count"] == 9  # as it was
    layout = Layout(other)
    layout.load_buffers(buffers)
    assert (other.count.item(), other.precise.item()) == (9, 9 + 1 / 3)  # no digit is lost
    layout.load_buffers({})
    assert other.count.item() == 9


def test_sampling_needs_no_bookkeeping_of_a_normaliser():
    """What mean and variance are rounded from is not sent to workers; a module's own buffers of the same name are."""
    module = nn.Module()
    module.norm = RunningNorm((2,))
    module.register_buffer("count", th.zeros(1, dtype=th.float64))
    layout = Layout(module)
    assert set(layout.other_buffers()) == {"count", "norm.count", "norm.exact_mean", "norm.exact_var"}
    assert set(layout.sampling_buffers()) == {"count"}
    assert layout.size == 4


def test_what_counts_as_batch_norm():
    """Only layers that keep statistics of what has passed through them."""
    assert has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert not has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
    assert not has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
