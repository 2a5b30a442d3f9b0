"""Observations and actions as bytes."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_nigt.vec_env.packing import pack, unpack, unpack_rows


def assert_same(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert np.array_equal(got, wanted)
    if isinstance(got, np.ndarray):
        assert got.flags.writeable


LEAVES = {
    "float": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "number": spaces.Box(-1.0, 1.0, (), np.float64),
    "discrete": spaces.Discrete(5),
    "multi": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(4),
}


@pytest.mark.parametrize("name", list(LEAVES))
def test_packing(name):
    space = LEAVES[name]
    values = np.array([space.sample() for _ in range(3)], dtype=space.dtype)
    for value in values:
        packed = pack(space, value)
        assert isinstance(packed, bytes)
        restored = unpack(space, packed)
        assert type(restored) is type(value)
        assert_same(restored, value)
    rows = unpack_rows(space, [pack(space, value) for value in values])
    assert_same(rows, values)


def test_what_is_not_as_its_space_says_stays_as_it_is():
    space = LEAVES["float"]
    for value in (np.zeros((2, 3)), np.zeros(6, np.float32), [[0.0] * 3] * 2, np.zeros((2, 3), ">f4"), None):
        assert pack(space, value) is value
    for value in (3, np.int32(3)):
        assert pack(LEAVES["discrete"], value) is value
    mixed = [np.ones((2, 3)), np.zeros((2, 3), np.float32)]
    assert_same(unpack_rows(space, [pack(space, value) for value in mixed]), np.array(mixed, dtype=np.float32))


def test_packing_of_parts():
    values = [{name: space.sample() for name, space in LEAVES.items()} for _ in range(2)]
    space = spaces.Dict(LEAVES)
    rows = unpack_rows(space, pickle.loads(pickle.dumps([pack(space, value) for value in values])))
    assert list(rows) == list(space.spaces)
    as_tuples = [tuple(value[name] for name in space.spaces) for value in values]
    tuple_space = spaces.Tuple(list(space.spaces.values()))
    columns = unpack_rows(tuple_space, [pack(tuple_space, value) for value in as_tuples])
    for column, (name, row) in zip(columns, rows.items(), strict=True):
        assert_same(row, np.array([value[name] for value in values], dtype=LEAVES[name].dtype))
        assert_same(column, row)
