"""Ray is an extra: the package works without it, and says what to install for the workers that need it."""

import subprocess
import sys

from processes import SECONDS


def test_the_package_does_not_import_ray():
    subprocess.run(
        [sys.executable, "-c", "import sb3_nigt, sys; assert 'ray' not in sys.modules"], check=True, timeout=SECONDS
    )


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
import sb3_nigt
for name in ("RayVecEnv", "NoVecEnv"):
    try:
        getattr(sb3_nigt, name)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, error)
"""


def test_without_ray():
    """In a fresh interpreter, since another test may have imported the class."""
    said = subprocess.run([sys.executable, "-c", WITHOUT_RAY], check=True, timeout=SECONDS, capture_output=True, text=True)
    first, second = said.stdout.splitlines()
    assert first.startswith("ImportError")
    assert 'RayVecEnv needs Ray: pip install "sb3_nigt[ray]"' in first
    assert second.startswith("AttributeError")
    assert "no attribute 'NoVecEnv'" in second
