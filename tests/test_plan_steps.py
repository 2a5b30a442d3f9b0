"""Plans of rounds of steps: by hand, and against the clock of simulated workers."""

import numpy as np
import pytest
from envs import run_rounds

from sb3_nigt import MaleniaNIGT, RennalaNIGT, SyncNIGT, make_worker_vec_env
from sb3_nigt.experiments.command_line import main
from sb3_nigt.planning import plan_steps
from sb3_nigt.planning.step_rounds import N_ROUNDS

ROW_OF = {RennalaNIGT: "Rennala", MaleniaNIGT: "Malenia", SyncNIGT: "Synchronous"}
SPEEDS = [1.0, 2.5, 4.0]
MESSAGES = [2.0, 1.0, 3.0]


def test_by_hand():
    """Two workers, h = 1 and 3, rounds of four steps: all of them begin and end together."""
    planned = plan_steps([1, 3], n_steps=2)
    assert planned["Rennala"].counts.tolist() == [3, 1]
    assert planned["Rennala"].update_seconds == 3
    for method in ("Malenia", "Synchronous"):  # the slow one needs its two steps
        assert planned[method].counts.tolist() == [6, 2]
        assert planned[method].update_seconds == 6
    ppo = planned["PPO"]
    assert (ppo.steps, ppo.update_seconds) == (2048, 1024 * 3)
    assert ppo.shares.tolist() == [0.5, 0.5]
    assert planned.lead("PPO") == (4 / 3 * 3 / 2, 1024)
    assert planned.lead("Synchronous") == (1.0, 2.0)


def test_a_step_under_way_delays_its_worker():
    """h = 1 and 2.5, rounds of four steps: 0 to 3, 3 to 7, where the slow one is late, and 7 to 10; then all over again."""
    row = plan_steps([1, 2.5], n_steps=2)["Rennala"]
    counts = np.array([[3, 1], [4, 0], [3, 1]])
    assert row.counts == pytest.approx(np.mean([counts[i % 3] for i in range(1, N_ROUNDS)], axis=0))
    ends = [3, 7, 10]
    assert row.update_seconds == (ends[(N_ROUNDS - 1) % 3] + 10 * ((N_ROUNDS - 1) // 3) - ends[0]) / (N_ROUNDS - 1)


def test_a_message_ends_a_round():
    """The longest message counts, of a server the sum; a step goes on meanwhile."""
    assert plan_steps([1, 1], 2, [4, 5])["Rennala"].update_seconds == 2 + 5
    assert plan_steps([1, 1], 2, [4, 5], link="serial", aggregation="server")["Rennala"].update_seconds == 2 + 9
    row = plan_steps([1, 100], 2, [4, 5])["Rennala"]  # the slow one delivers nothing
    assert (row.round_seconds, row.update_seconds, row.counts[1]) == (4, 4 + 4, 0)
    assert plan_steps([1, 1], 2, [4, 5])["PPO"].update_seconds == 1024 + 5


@pytest.mark.one_in(3)
@pytest.mark.parametrize("link", ["all_reduce", "server"])
@pytest.mark.parametrize("algorithm", ROW_OF, ids=ROW_OF.values())
def test_simulated_workers_do_what_was_planned(algorithm, link):
    links = {"link": "parallel" if link == "all_reduce" else "serial", "aggregation": link}
    env = make_worker_vec_env("CartPole-v1", 3, step_times=SPEEDS, message_times=MESSAGES, **links)
    row = plan_steps(SPEEDS, 5, MESSAGES, **links)[ROW_OF[algorithm]]
    reports = run_rounds(algorithm("MlpPolicy", env, n_steps=5, seed=0), N_ROUNDS)
    ends = [max(message.ended for message in report.messages) for report in reports]
    assert row.update_seconds == pytest.approx((ends[-1] - ends[0]) / (N_ROUNDS - 1))
    np.testing.assert_allclose(row.counts, np.mean([report.counts for report in reports[1:]], axis=0))


def test_all_workers_step_together():
    env = make_worker_vec_env("CartPole-v1", 3, step_times=SPEEDS)
    env.reset()
    for _ in range(4):
        env.step(np.zeros(3, dtype=int))
    assert env.clock.now() == 4 * plan_steps(SPEEDS)["PPO"].update_seconds / round(2048 / 3)
    env.close()


def test_the_default_is_that_of_the_algorithms():
    model = RennalaNIGT("MlpPolicy", make_worker_vec_env("CartPole-v1", 3), seed=0)
    model.learn(1)
    assert plan_steps([1, 1, 1])["Rennala"].steps == model.last_round.used_steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None), "step_times"),
        (([1, -1], None), "step_times"),
        (([1e-300, 1e300], None), "step_times: .* leave such workers out"),
        (([1, 1], 0), "n_steps"),
        (([1, 1], 1, [1, 1, 1]), "message_times"),
        (([1, 2], None, 1e17), "message_times: 1e\\+17 is more than 1,000,000,000 times 1.0: give less"),
        (([1, 1], 1, 0.0, ["a"]), "task_ids"),
        (([1, 1], 1, 0.0, None, "parallel", "server"), "aggregation"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_steps(*arguments)


def test_command(capsys):
    main(["plan", "--rollout", "steps", "--step-times", "1,1,1,1,1,1,1,1,1,10"])
    text = capsys.readouterr().out
    assert "10 workers, rounds of 1,000 steps" in text
    assert text.splitlines()[5].split() == ["4", "PPO", "2,050", "2,050", "2,050", "1", "9.10", "-"]
    assert text.splitlines()[-1].split() == ["9", "10", "0", "1.1", "1.1", "1.1", "10.0"]


def test_command_with_a_recorded_run(tmp_path, capsys):
    from sb3_nigt import RunRecorder

    env = make_worker_vec_env("CartPole-v1", 3, step_times=SPEEDS, message_times=2.0)
    RennalaNIGT("MlpPolicy", env, seed=0).learn(3_000, callback=RunRecorder(tmp_path / "run.jsonl"))
    main(["plan", "--from", str(tmp_path / "run.jsonl")])  # the kind of rounds is that of the run
    recorded = capsys.readouterr().out
    main(["plan", "--rollout", "steps", "--step-times", "1,2.5,4", "--message-times", "2"])
    assert recorded == capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", "--rollout", "trajectories", "--from", str(tmp_path / "run.jsonl")])
    assert "give --rollout steps, or the lengths by --trajectory-steps" in capsys.readouterr().err
    main(["plan", "--rollout", "trajectories", "--from", str(tmp_path / "run.jsonl"), "--trajectory-steps", "20"])
    assert "20 steps per trajectory" in capsys.readouterr().out


def test_there_is_no_row_of_other_methods():
    with pytest.raises(KeyError, match="TRPO"):
        plan_steps([1, 2])["TRPO"]
