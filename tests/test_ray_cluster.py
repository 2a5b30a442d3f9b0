"""Connecting to Ray: who may connect, what is started here, and that all of it ends."""

import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from unittest.mock import Mock

import pytest
from envs import LengthFromSeedEnv
from processes import SECONDS, descendants, ends_of

TESTS = os.path.dirname(__file__)


ray = pytest.importorskip("ray")

from sb3_nigt.vec_env.ray import cluster, vec_env  # noqa: E402

ENVS = [LengthFromSeedEnv] * 2


@pytest.fixture
def no_ray(monkeypatch):
    """Whatever is tested must not connect to Ray."""

    def init(*args, **kwargs):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"env_fns": []}, "env_fns=[] is not allowed"),
        ({"address": 6379}, "address=6379 is not allowed: give"),
        ({"address": ""}, "address='' is not allowed: give"),
        ({"num_cpus": -1}, "num_cpus=-1.0 is not allowed"),
        ({"num_cpus": [1, 2, 3]}, "num_cpus has 3 values for 2 workers"),
        ({"num_gpus": "one"}, "num_gpus='one' is not allowed"),
        ({"resources": {"CPU": 1}}, "resources={'CPU': 1} is not allowed: give a dict of custom resources"),
        ({"resources": "simulator"}, "resources='simulator' is not allowed"),
        ({"resources": {"simulator": 0}}, "resources['simulator']=0 is not allowed"),
        ({"resources": [{"simulator": 1}]}, "resources has 1 entries for 2 workers"),
        ({"scheduling_strategy": ["SPREAD"]}, "scheduling_strategy has 1 entries for 2 workers"),
        ({"timeout": 0}, "timeout=0 is not allowed"),
        ({"max_restarts": -1}, "max_restarts=-1 is not allowed"),
        ({"min_workers": 0}, "min_workers=0 is not allowed"),
        ({"min_workers": 3}, "min_workers=3 is not allowed: there are 2 env_fns"),
        ({"placement_timeout": -1.0}, "placement_timeout=-1.0 is not allowed"),
        ({"allow_unauthenticated": "yes"}, "allow_unauthenticated='yes' is not allowed: give True or False"),
        ({"task_ids": ["a"]}, "task_ids has 1 entries for 2 workers"),
        ({"time_model": 1.0}, "time_model=1.0 is not allowed"),
    ],
)
def test_bad_arguments(kwargs, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        vec_env.RayVecEnv(**{"env_fns": ENVS, **kwargs})


# Who may connect


@pytest.mark.parametrize(
    ("prints", "says"),
    [
        ("", "requires no token.*RAY_AUTH_MODE=token.*allow_unauthenticated=True"),
        ("RpcError: no answer", "It is not known whether .* requires a token: RpcError: no answer"),
        ("AuthenticationError: no token", None),
    ],
)
def test_only_a_cluster_that_refuses_strangers(no_ray, monkeypatch, prints, says):
    monkeypatch.setattr(cluster, "PROBE", f"print({prints!r})")
    error, says = (AssertionError, "Ray was started") if says is None else (ValueError, says)
    for address in ({"address": "example.org:6379"}, {}):
        monkeypatch.setenv("RAY_ADDRESS", "example.org:6379")
        with pytest.raises(error, match=says):
            vec_env.RayVecEnv(ENVS, **address)
    with pytest.raises(AssertionError, match="Ray was started"):
        vec_env.RayVecEnv(ENVS, allow_unauthenticated=True)


def test_no_ray_of_our_own_without_a_token(no_ray, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match=r"RAY_AUTH_MODE='disabled' is not allowed: .*listens on all network interfaces"):
        vec_env.RayVecEnv(ENVS)
    with pytest.raises(AssertionError, match="Ray was started"):
        vec_env.RayVecEnv(ENVS, allow_unauthenticated=True)


def test_nobody_else_can_read_the_token(no_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".ray" / "auth_token"
    tokens = set()
    for _ in range(2):
        with pytest.raises(AssertionError, match="Ray was started"):
            vec_env.RayVecEnv(ENVS, address="local")
        assert path.stat().st_mode & 0o777 == 0o600
        tokens.add(path.read_text())
    assert len(tokens) == 1
    assert len(tokens.pop()) >= 32


def test_a_token_that_has_changed_is_read_again(no_ray, monkeypatch, tmp_path):
    """Ray keeps the first one that it needs, and a second Ray of the same process would be refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    for token in ("first", "second", ""):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(AssertionError, match="Ray was started"):
            vec_env.RayVecEnv(ENVS)
        assert loader.get_raw_token() == (token or (tmp_path / ".ray" / "auth_token").read_text())


def test_a_start_that_takes_too_long_is_tried_again(no_ray, monkeypatch):
    """Ray gives up after 30 s, which is not long enough on a busy machine. Any other error is the user's to see."""
    answers = [Exception("The current node timed out during startup."), None]
    monkeypatch.setattr(ray, "init", Mock(side_effect=answers))
    monkeypatch.setattr(cluster, "_make_token", lambda: None)
    cluster._start(False, 1.0, {})
    assert ray.init.call_count == 2
    monkeypatch.setattr(ray, "init", Mock(side_effect=[Exception("no memory"), None]))
    with pytest.raises(Exception, match="no memory"):
        cluster._start(False, 1.0, {})
    monkeypatch.setattr(ray, "init", Mock(side_effect=Exception("The current node timed out during startup.")))
    with pytest.raises(Exception, match="timed out"):
        cluster._start(False, 1.0, {})


def test_version():
    cluster.check_version("2.52.0")
    cluster.check_version("3.0.0rc1")
    cluster.check_version("2.52rc1")  # has what the release has
    cluster.check_version("2.60.0.dev0+abc")
    with pytest.raises(ValueError, match=r"Ray 2.9.3 is too old, 2.52 or newer is needed"):
        cluster.check_version("2.9.3")


# A Ray of our own


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from envs import LengthFromSeedEnv
from sb3_nigt import RayVecEnv, RennalaNIGT
from stable_baselines3.common.callbacks import BaseCallback
import ray

class Told(BaseCallback):
    def _on_step(self):
        if self.n_calls == 1:
            print("learning", *self.training_env.worker_pids, flush=True)
        return True

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background lets it be ignored
first, second = [RayVecEnv([LengthFromSeedEnv] * n, num_cpus=0.5) for n in (2, 1)]
assert len(set(first.worker_pids + second.worker_pids)) == 3
first.close()
model = RennalaNIGT("MlpPolicy", second, n_trajectories=4, n_steps=20, seed=0)  # Ray goes on for the second one
try:
    model.learn({timesteps}, callback=Told())
    print("learned", flush=True)
    sys.stdin.readline()
except KeyboardInterrupt:
    model.learn(50, reset_num_timesteps=False)
    print("interrupted", flush=True)
second.close()
assert not ray.is_initialized()
"""


@pytest.fixture
def script(tmp_path):
    """Start the script, with a new token and no dashboard to look at."""
    running = []

    def start(timesteps):
        environment = {**os.environ, "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment.pop("RAY_ADDRESS", None)
        (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(tests=TESTS, timesteps=timesteps)))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "script.py"]
        running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def learning(process):
    """Wait until it learns; return the processes of its workers."""
    said, *pids = process.stdout.readline().split()
    assert said == "learning"
    return [int(pid) for pid in pids]


@pytest.mark.slow
def test_close_ends_a_ray_of_our_own(script):
    process = script(50)
    learning(process)
    assert process.stdout.readline() == "learned\n"
    pids = descendants(process.pid)
    assert len(pids) > 3  # Ray's own processes as well
    with ends_of(pids):
        process.communicate("go on\n", timeout=SECONDS)
    assert process.returncode == 0


@pytest.mark.slow
def test_workers_end_with_their_parent(script):
    """Ray's own processes do so as well, its agents within a minute."""
    process = script(10**9)
    with ends_of(learning(process)):
        process.kill()


@pytest.mark.slow
def test_interrupt(script):
    """Ctrl-C reaches all processes of a terminal; the model can be trained further with the same workers."""
    process = script(10**9)
    with ends_of(learning(process)):
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate("go on\n", timeout=SECONDS)
    assert (said, process.returncode) == ("interrupted\n", 0)


@pytest.mark.slow
def test_unauthenticated_cluster(tmp_path):
    """A real one, which is refused unless the user says so."""
    code = """
        from envs import LengthFromSeedEnv
        from ray.cluster_utils import Cluster
        from sb3_nigt import RayVecEnv
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            RayVecEnv([LengthFromSeedEnv], address=cluster.address)
        except ValueError as error:
            print(error)
        env = RayVecEnv([LengthFromSeedEnv], address=cluster.address, allow_unauthenticated=True)
        print(env.reset().shape)
        env.close()
        cluster.shutdown()
    """
    paths = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": paths}
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=100
    )
    assert "requires no token" in said.stdout, said.stderr
    assert "(1, 2)" in said.stdout


@pytest.mark.slow
@pytest.mark.parametrize("token", [secrets.token_hex(16), None], ids=["wrong", "missing"])
def test_a_token_that_is_wrong_or_missing(token, tmp_path):
    """Ray's own words do not say where it belongs."""
    right = secrets.token_hex(16)
    private = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in private}
    environment.update(RAY_AUTH_MODE="token", HOME=str(tmp_path), PYTHONPATH=os.pathsep.join([TESTS, *sys.path]))
    head = """
        import sys
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        print(cluster.address, flush=True)
        sys.stdin.read()
        cluster.shutdown()
    """
    script = """
        import sys
        from envs import LengthFromSeedEnv
        from sb3_nigt import RayVecEnv
        RayVecEnv([LengthFromSeedEnv], address=sys.argv[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(head)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**environment, "RAY_AUTH_TOKEN": right}, **pipes) as started:
        address = next(line.strip() for line in started.stdout if re.fullmatch(r"\S+:\d+\s*", line))
        own = {} if token is None else {"RAY_AUTH_TOKEN": token}
        command = [sys.executable, "-c", textwrap.dedent(script), address]
        said = subprocess.run(command, env={**environment, **own}, capture_output=True, text=True, timeout=SECONDS)
    assert "ValueError: The Ray cluster at" in said.stderr
    assert "rejects the token of this process: copy ~/.ray/auth_token from the head" in said.stderr
