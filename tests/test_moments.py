"""Merged moments are those of all the data, however it is split."""

import numpy as np
import pytest

from sb3_nigt.moments import Moments


def assert_same(a, b):
    for name in ("weight", "mean", "m2"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-12)


def test_by_hand():
    """(1, 3) has mean 2 and M2 = 1 + 1; with (8) it has mean 4 and M2 = 9 + 1 + 16 = 26 = 2 + 0 + 6²·2·1/3."""
    first, second = Moments.of(np.array([1.0, 3.0])), Moments.of(np.array([8.0]))
    assert (first.weight, first.mean, first.m2) == (2.0, 2.0, 2.0)
    both = first.merge(second)
    assert (both.weight, both.mean) == (3.0, 4.0)
    assert both.m2 == pytest.approx(26.0, abs=1e-14)
    assert both.variance == pytest.approx(26 / 3, abs=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_any_split_gives_the_same(shape):
    rng = np.random.default_rng(0)
    rows = 100 + rng.standard_normal((50, *shape))  # a mean far from 0, where Σx² - n·mean² would lose eleven digits
    whole = Moments.of(rows)
    np.testing.assert_allclose(whole.variance, rows.var(axis=0), rtol=1e-12)
    for seed in range(20):
        cuts = np.sort(np.random.default_rng(seed).integers(0, 51, size=4))  # some parts are empty
        parts = [Moments.of(part) for part in np.split(rows, cuts)]
        assert_same(Moments.empty(shape).merge_all(parts), whole)
        assert_same(parts[0].merge_all(reversed(parts[1:])), whole)


def test_empty_is_neutral():
    some = Moments.of(np.array([[1.0, 2.0], [5.0, 4.0]]))
    empty = Moments.of(np.zeros((0, 2)))
    assert_same(empty.merge(some), some)
    assert_same(some.merge(empty), some)
    assert_same(empty.merge(empty), empty)
    assert empty.variance.tolist() == [0.0, 0.0]


def test_scaled_is_a_repetition():
    rows = np.array([1.0, 4.0, 6.0])
    assert_same(Moments.of(rows).scaled(3.0), Moments.of(np.tile(rows, 3)))


def test_sums_are_in_float64():
    """Three float32 numbers whose squares and sum float32 does not hold."""
    rows = np.array([1e8, 1e8 + 8, 1e8 + 16], dtype=np.float32)
    moments = Moments.of(rows)
    assert (moments.mean, moments.m2) == (1e8 + 8, 128.0)
    assert rows.tolist() == [1e8, 1e8 + 8, 1e8 + 16]


def test_vector_is_read_back_bit_for_bit():
    of_rows = Moments.of(np.random.default_rng(1).standard_normal((5, 2, 3)))
    of_entries = Moments(np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0]))
    for moments in (of_rows, of_entries):
        again = moments.from_vector(moments.vector())
        for name in ("weight", "mean", "m2"):
            np.testing.assert_array_equal(getattr(again, name), getattr(moments, name), strict=True)


def test_prior_is_a_unit_normal_of_little_weight():
    prior = Moments.prior((2,))
    assert prior.variance.tolist() == [1.0, 1.0]
    assert_same(
        prior.merge(Moments.of(np.full((10**6, 2), 3.0))), Moments(1e6 + 1e-4, np.full(2, 3 - 3e-10), np.full(2, 1e-3))
    )
