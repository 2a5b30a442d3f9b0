"""Settings of the whole suite."""

import pytest

pytest.register_assert_rewrite("conformance", "envs")

import torch as th  # noqa: E402

th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work
