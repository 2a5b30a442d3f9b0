"""Observations, actions and whole trajectories as bytes."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.steps import StepField, StepTable
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.pool.infos import InfoWriter, read_infos
from sb3_nigt.vec_env.pool.packing import pack, unpack, unpack_rows
from sb3_nigt.vec_env.ray.buffers import BufferLayout, ReceivedArrays


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


# Trajectories as flat buffers

FIELDS = {
    "rewards": StepField((), np.dtype(np.float64)),
    "samples": StepField((), np.dtype("<i8")),
    "actions": StepField((2,), np.dtype("|u1")),
    "observation/image": StepField((2, 2, 3), np.dtype(np.uint8), n_extra=1),
    "observation/point": StepField((3,), np.dtype(np.float32), n_extra=1),
    "observation/side": StepField((), np.dtype(np.int64), n_extra=1),
}
LAYOUT = BufferLayout(StepTable(FIELDS), n_parameters=3, rows=10)
NO_INFOS = np.zeros(0, np.uint8)


def make_trajectory(n):
    rng = np.random.default_rng(n)

    def observations(rows):
        return {
            "image": rng.integers(0, 255, (*rows, 2, 2, 3)).astype(np.uint8),
            "point": rng.normal(size=(*rows, 3)).astype(np.float32),
            "side": np.array(rng.integers(0, 2, rows), dtype=np.int64),
        }

    return Trajectory(
        key=TrajectoryKey(0, 0, 0),
        point=SamplingPoint(0, np.zeros(5, np.float32)),
        observations=observations((n,)),
        final_observation=observations(()),
        samples=rng.integers(0, 4, n),
        actions=rng.integers(0, 4, (n, 2)).astype(np.uint8),
        rewards=rng.normal(size=n),
        terminated=False,
        truncated=False,
        infos=[{}] * n,
    )


@pytest.mark.parametrize("n", [0, 1, 7, 9])
def test_a_trajectory_comes_back_as_it_was(n):
    received = ReceivedArrays(LAYOUT, n_workers=2)
    trajectory = make_trajectory(n)
    buffer = LAYOUT.pack(trajectory, NO_INFOS)
    assert buffer.dtype == np.uint8
    buffer.setflags(write=False)  # as it comes out of the object store
    received.take_trajectory(1, n, buffer)
    arrays = received.of(1)
    for name in ("rewards", "samples", "actions"):
        assert_same(arrays[name], getattr(trajectory, name))
    for name, rows in trajectory.observations.items():
        assert_same(arrays[f"observation/{name}"][:n], rows)
        assert_same(arrays[f"observation/{name}"][n], trajectory.final_observation[name])
    assert received.of(0)["rewards"].shape == (0,)
    assert received.of(0)["observation/point"].shape == (1, 3)  # enough for a trajectory without steps


def test_buffers_of_another_size():
    received = ReceivedArrays(LAYOUT, n_workers=1)
    buffer = LAYOUT.pack(make_trajectory(3), NO_INFOS)
    for n, wrong in ((3, buffer[:-1]), (4, buffer)):
        with pytest.raises(ValueError, match=rf"a trajectory of {n} steps has \d+ bytes at least, got {len(wrong)}"):
            received.take_trajectory(0, n, wrong)
    received.take_gradient(0, np.arange(3, dtype=np.float32).view(np.uint8))
    assert received.of(0)["gradient"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="a gradient has 3 numbers, got 4"):
        received.take_gradient(0, np.arange(4, dtype=np.float32).view(np.uint8))


def test_parts_of_segments_survive_unless_their_size_is_wrong():
    arrays = LAYOUT.new_arrays()
    rng = np.random.default_rng(0)
    for array in arrays.values():
        array[...] = rng.integers(0, 100, array.shape)
    InfoWriter(arrays["infos"], ())  # there are none
    for n_steps, n_pieces in ((0, 0), (0, 1), (3, 1), (5, 4), (9, 2)):
        buffer = LAYOUT.pack_segment(arrays, n_steps, n_pieces)
        unpacked = LAYOUT.unpack_segment(n_steps, n_pieces, buffer)
        assert unpacked.keys() == arrays.keys()
        for name, array in unpacked.items():
            assert np.array_equal(array, arrays[name][: len(array)])
        assert len(unpacked["notes"]) == n_pieces
        assert len(unpacked["rewards"]) == max(0, n_steps + n_pieces - 1)
        with pytest.raises(ValueError, match="bytes"):
            LAYOUT.unpack_segment(n_steps + 20, n_pieces, buffer)


def test_a_worker_that_has_sent_nothing_has_an_empty_trajectory():
    """Its first one may be rejected since the worker has failed."""
    arrays = ReceivedArrays(LAYOUT, n_workers=1).of(0)
    assert {name: len(array) for name, array in arrays.items()} == {
        **{name: shape[0] for name, (shape, _) in LAYOUT.table.shapes(0).items()},
        "infos": 0,
    }
    assert read_infos(arrays["infos"], 0, 0) == []
