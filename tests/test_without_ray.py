"""Ray is an extra: the package works without it, and says what to install for the workers that need it."""

import re
import subprocess
import sys

import pytest
from processes import SECONDS

import sb3_nigt


def test_the_package_does_not_import_ray():
    subprocess.run(
        [sys.executable, "-c", "import sb3_nigt, sys; assert 'ray' not in sys.modules"], check=True, timeout=SECONDS
    )


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sb3_nigt.vec_env.ray.vec_env", raising=False)
    with pytest.raises(ImportError, match=re.escape('RayVecEnv needs Ray: pip install "sb3_nigt[ray]"')):
        sb3_nigt.RayVecEnv  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'NoVecEnv'"):
        sb3_nigt.NoVecEnv  # noqa: B018
