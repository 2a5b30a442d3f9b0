"""Blocks of shared memory: those of a run that was killed as a whole are removed by the next one, those of others are not."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from sb3_nigt.vec_env.process import blocks
from sb3_nigt.vec_env.process.shared_memory import SharedArrays

FIELDS = {"numbers": ((3,), "float64")}
SHM = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="blocks cannot be listed here")

SCRIPT = """
import os, signal
from sb3_nigt.vec_env.process.shared_memory import SharedArrays

arrays = SharedArrays({"numbers": ((3,), "float64")}, 2)
arrays.of(0)["numbers"][:] = 7.0
print(arrays.layout.name, flush=True)
signal.pause()
"""


def test_what_a_run_leaves_behind_is_removed_by_the_next_one():
    """Killed with all its processes, among them the one of multiprocessing that would have tidied up."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        name = run.stdout.readline().strip()
        SharedArrays(FIELDS, 1).close()
        assert (SHM / name).exists()  # it lives
        os.killpg(run.pid, signal.SIGKILL)
    assert (SHM / name).exists()
    SharedArrays(FIELDS, 1).close()
    assert not (SHM / name).exists()


def test_a_block_is_its_makers_until_it_is_closed():
    before = len(os.listdir("/dev/fd"))
    first, second = SharedArrays(FIELDS, 2), SharedArrays(FIELDS, 2)
    attached = SharedArrays.attach(first.layout)
    first.of(1)["numbers"][:] = [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(attached.of(1)["numbers"], [1.0, 2.0, 3.0])
    attached.close()
    assert (SHM / first.layout.name).exists()
    for arrays in (first, second):
        assert arrays.layout.name.startswith(blocks.PREFIX)
        arrays.close()
        assert not (SHM / arrays.layout.name).exists()
    assert len(os.listdir("/dev/fd")) == before


def test_other_blocks_are_left_alone(tmp_path, monkeypatch):
    """Only those of this package are looked at; one that may not be opened belongs to another user."""
    monkeypatch.setattr(blocks, "FOLDER", tmp_path)
    for name in ("psm_of_others", "sb3_nigt_abandoned"):
        (tmp_path / name).touch()
    (tmp_path / "sb3_nigt_directory").mkdir()  # cannot be opened for writing
    SharedArrays(FIELDS, 1).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["psm_of_others", "sb3_nigt_directory"]


def test_where_blocks_cannot_be_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(blocks, "PREFIX", "unlisted_")  # tests beside this one would remove a block that has no lock
    arrays = SharedArrays(FIELDS, 1)
    arrays.of(0)["numbers"][:] = 1.0
    arrays.close()
