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
    for name in [name for name in sys.modules if name.startswith("sb3_nigt.vec_env.ray")]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported them
    with pytest.raises(ImportError, match=re.escape('RayVecEnv needs Ray: pip install "sb3_nigt[ray]"')):
        sb3_nigt.RayVecEnv  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'NoVecEnv'"):
        sb3_nigt.NoVecEnv  # noqa: B018
