"""
Run Stable-Baselines3's own tests with our classes in its lists.

The tests are part of its source distribution, which pip downloads in the version that is installed.

Usage:
    python tests/sb3_suite/run.py [--algo RennalaNIGT] [--vec-env SimulatedVecEnv] [pytest arguments]
    python tests/sb3_suite/run.py --vec-env-tests forkserver|spawn [pytest arguments]

The first form runs the tests of algorithms; the second those of vectorised environments, on SimulatedVecEnv and on
ProcessVecEnv with the given start method.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import stable_baselines3

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".ci" / ".cache"
NEEDS_MORE_PACKAGES = ["test_utils.py"]  # Atari; none of its tests has an algorithm in a list
VEC_ENV_TESTS = [f"test_vec_{name}.py" for name in ("envs", "normalize", "monitor", "check_nan")]
VEC_ENV_TESTS += ["test_dict_env.py", "test_her.py", "test_utils.py"]  # these in part


def fetch_tests() -> Path:
    """Return the folder of the suite, downloading it once."""
    name = f"stable_baselines3-{stable_baselines3.__version__}"
    if not (CACHE / name).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # whole or not at all: two of these may run side by side
            subprocess.run([*pip, "--dest", folder, f"stable-baselines3=={stable_baselines3.__version__}"], check=True)
            shutil.unpack_archive(Path(folder, f"{name}.tar.gz"), folder)
            with suppress(OSError):  # the other one was first
                Path(folder, name).rename(CACHE / name)
    return CACHE / name / "tests"


def main() -> int:
    """Run the suite and return its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", default="RennalaNIGT")
    parser.add_argument("--vec-env", default="")
    parser.add_argument("--vec-env-tests", choices=["forkserver", "spawn"])
    args, rest = parser.parse_known_args()
    tests = fetch_tests()
    if args.vec_env_tests:
        chosen = [tests / name for name in VEC_ENV_TESTS]
        plugin, settings = "vec_env_plugin", {"SB3_SUITE_START_METHOD": args.vec_env_tests}
    else:
        chosen = [*(f"--ignore={tests / name}" for name in NEEDS_MORE_PACKAGES), tests]
        plugin, settings = "plugin", {"SB3_SUITE_ALGO": args.algo, "SB3_SUITE_VEC_ENV": args.vec_env}
    # by way of the environment, since worker processes import the tests as well
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", ""), str(HERE / "stubs")])
    command = [sys.executable, "-m", "pytest", "-p", plugin, "-q", "-W", "ignore", "--rootdir", tests.parent, *chosen, *rest]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **settings}, cwd=tests.parent, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
