"""Why a worker has failed: the cause in the first line, then where, without the package's own frames."""

import pytest
from envs import PointEnv

from sb3_nigt.sampling.infos import InfoCopies
from sb3_nigt.vec_env.pool.reasons import OWN, cause_of, in_first_line, stack_of, traceback_of


class Falls(PointEnv):
    def reset(self, *, seed=None, options=None):
        raise LookupError("the robot\nhas fallen over")


def error_of(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    return caught.value


def test_cause():
    assert cause_of(LookupError("the robot\nhas fallen over")) == "LookupError: the robot has fallen over"
    assert cause_of(KeyError()) == "KeyError"


def test_frames_before_the_environment_are_left_out():
    def called_by_the_package():
        exec(compile("call()", f"{OWN[0]}/pool/worker.py", "exec"), {"call": Falls().reset})

    error = error_of(called_by_the_package)
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # from here on it is as in a worker
    text = traceback_of(error)
    assert OWN[0] not in text
    assert text.count("File ") == 1
    assert "in reset" in text
    assert text.endswith("LookupError: the robot\nhas fallen over\n")


def test_an_error_of_the_package_itself_keeps_all_frames():
    code = compile("raise KeyError", f"{OWN[1]}/sampler.py", "exec")
    error = error_of(lambda: exec(code, {}))
    error.__traceback__ = error.__traceback__.tb_next.tb_next
    assert f"{OWN[1]}/sampler.py" in traceback_of(error)
    assert InfoCopies.__module__ == "sb3_nigt.sampling.infos"  # which lies there


DUMP = f"""Thread 0x01 (most recent call first):
  File "/usr/lib/python/connection.py", line 395 in _recv
  File "{OWN[0]}/process/worker.py", line 89 in _exit_with_parent

Thread 0x02 (most recent call first):
  File "/home/user/robot.py", line 5 in listen

Current thread 0x03 (most recent call first):
  File "/home/user/robot.py", line 11 in step
  File "{OWN[1]}/sampler.py", line 183 in advance
  File "{OWN[0]}/process/worker.py", line 82 in main
  File "<string>", line 1 in <module>
"""


def test_stacks_end_where_the_package_begins():
    assert stack_of(DUMP) == (
        "Thread 0x02 (most recent call first):\n"
        '  File "/home/user/robot.py", line 5 in listen\n\n'
        "Current thread 0x03 (most recent call first):\n"
        '  File "/home/user/robot.py", line 11 in step'
    )


def test_other_texts_stay():
    assert stack_of("(It imports its packages.)") == "(It imports its packages.)"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("exit code 9", "Worker 1: exit code 9. It is lost."),
        ("no licence.", "Worker 1: no licence. It is lost."),
        ("ValueError: x\nTraceback\n  File\n", "Worker 1: ValueError: x. It is lost.\nTraceback\n  File"),
    ],
)
def test_what_follows_is_in_the_first_line(reason, expected):
    assert in_first_line("Worker 1: ", reason, "It is lost.") == expected
