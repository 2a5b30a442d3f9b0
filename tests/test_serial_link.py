"""A learner that takes one message at a time: golden timelines worked out by hand, bounds, recordings, pictures, commands."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
from envs import run_rounds, simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT

import sb3_nigt
from sb3_nigt import AFedPG, FixedTimes, RandomTimes, Recording, ReplayedTimes, RunRecorder, VaryingTimes, make_worker_vec_env
from sb3_nigt.__main__ import main
from sb3_nigt.aggregators import Rennala
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.campaign import is_finished
from sb3_nigt.experiments.figures import FIGURES
from sb3_nigt.experiments.plots import MESSAGE_COLOR, draw_timeline
from sb3_nigt.experiments.setting import Budget, Run, Setting, title
from sb3_nigt.experiments.tuned import Tuned, load, save
from sb3_nigt.messages import Message
from sb3_nigt.planning import Workload, link_load, measure, plan, saturating_n_workers, serial_afedpg_bounds
from sb3_nigt.planning.simulation import simulate
from sb3_nigt.schedules import Immediate

SERVER = {"link": "serial", "aggregation": "server"}


def train(algorithm, env, n_rounds, **kwargs):
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [2]}, **{"horizon": 10, **kwargs})
    return run_rounds(model, n_rounds)


def messages(reports):
    return [(a.worker, a.finished_at, a.sent_at, a.arrived_at) for report in reports for a in report.arrivals]


# Golden timelines

# τ = 2, 2, 4 and κ = 3, 1, 2. At 2 w0 and w1 end, w0 comes first and has the link until 5, w1 until 6; w2, which ends at 4,
# until 8. Each starts again when its message has arrived: w0 ends at 7 and has the link from 8 to 11; w1 ends at 8, has it
# until 12; w2 started at 8, ends at 12, when the link is free, has it until 14; w0, since 11, ends at 13, has it until 17.
QUEUE = [(0, 2, 2, 5), (1, 2, 5, 6), (2, 4, 6, 8), (0, 7, 8, 11), (1, 8, 11, 12), (2, 12, 12, 14), (0, 13, 14, 17)]
# Over a parallel link: w0 every 5, w1 every 3, w2 every 6 seconds; at 6 w2 had started first.
SIDE_BY_SIDE = [(1, 2, 2, 3), (0, 2, 2, 5), (2, 4, 4, 6), (1, 5, 5, 6), (1, 8, 8, 9), (0, 7, 7, 10), (2, 10, 10, 12)]


@pytest.mark.parametrize(("link", "expected"), [("serial", QUEUE), ("parallel", SIDE_BY_SIDE)])
@pytest.mark.parametrize("per", ["step", "trajectory"])
def test_afedpg_waits_for_the_link(link, expected, per):
    unit = 1 if per == "trajectory" else 2  # steps of an episode that each take τ over them
    env = simulated([2, 2, 2], np.array([2, 2, 4]) / unit, [3, 1, 2], per, link=link)
    reports = train(AFedPG, env, 7)
    assert messages(reports) == expected
    assert [r.finished_at for r in reports] == [arrived_at for *_, arrived_at in expected]
    assert [r.arrivals[0].staleness for r in reports][:3] == [0, 1, 2]
    if link == "serial":
        assert [r.arrivals[0].staleness for r in reports][3:] == [2] * 4
        assert [r.arrivals[0].started_at for r in reports] == [0, 0, 0, 5, 6, 8, 11]
    assert all(report.messages == () for report in reports)


def test_a_message_that_takes_no_time_waits_its_turn():
    """
    τ = 1, 4, 2 and κ = 4, 0, 0: w0 has the link from 1 to 5. w2 waits since 2 and w1 since 4, so w2 comes first at 5.

    By their starts it would be w1. At 5 w0, w2 and w1 start again; w0 ends at 6 and has the link until 10.
    """
    reports = train(AFedPG, simulated([1, 1, 1], [1, 4, 2], [4, 0, 0], link="serial"), 6)
    assert messages(reports) == [(0, 1, 1, 5), (2, 2, 5, 5), (1, 4, 5, 5), (0, 6, 6, 10), (2, 7, 10, 10), (1, 9, 10, 10)]


def test_a_mean_at_the_start_comes_through_the_queue():
    """τ = 2, 2, κ = 1: arrivals at 3 and 4; the third is w0 again, since 3, at 5 + 1; the update is then."""
    (report,) = train(AFedPG, simulated([2, 2], 1, 1, link="serial"), 1, n_initial_trajectories=3)
    assert messages([report]) == [(0, 2, 2, 3), (1, 2, 3, 4), (0, 5, 5, 6)]


@pytest.mark.parametrize("schedule", ["first_finished", "planned"])
@pytest.mark.parametrize(
    ("link", "expected", "end"),
    [
        # The round of test_timelines.py: h = 1, 2, 5, two steps, M = 5, complete at 8 without w2; κ = 0.5, 3, 100.
        ({}, [Message(0, 8, 8.5), Message(1, 8, 11)], 11.0),
        ({"link": "serial"}, [Message(0, 8, 8.5), Message(1, 8, 11)], 11.0),
        (SERVER, [Message(0, 8, 8.5), Message(1, 8.5, 11.5)], 11.5),
    ],
)
def test_a_server_takes_all_messages_of_a_round(schedule, link, expected, end):
    env = simulated([2, 2, 2], [1, 2, 5], [0.5, 3, 100], **link)
    first, second = train(RennalaNIGT, env, 2, n_trajectories=5, schedule=schedule)
    assert list(first.messages) == expected
    assert (first.finished_at, second.started_at, second.finished_at) == (end, end, 2 * end)
    assert all(a.sent_at is None and a.arrived_at == a.finished_at for a in first.arrivals)


def test_a_server_of_synchronous_and_malenia():
    """
    τ = 2, 4, κ = 1, 3, M = 3: synchronous is complete at 8 with (2, 2), Malenia at 6 with (3, 1); then 1 + 3 seconds.

    Malenia needs 1/c_0 + 1/c_1 ≤ 4/3. At 4 w1 started first, so 1/1 + 1/1, then 1/2 + 1/1; at 6 1/3 + 1/1.
    """
    for algorithm, counts, end in ((SyncNIGT, [2, 2], 8), (MaleniaNIGT, [3, 1], 6)):
        (report,) = train(algorithm, simulated([2, 2], [1, 2], [1, 3], **SERVER), 1, n_trajectories=3)
        assert report.counts.tolist() == counts
        assert report.messages == (Message(0, end, end + 1), Message(1, end + 1, end + 4))
        assert report.finished_at == end + 4


def test_a_server_in_rounds_of_steps():
    """The example of how_it_works.md, h = 1, 2, 5 and 12 steps: complete at 8; three messages of one second."""
    env = simulated([100] * 3, [1, 2, 5], 1, **SERVER)
    model = sb3_nigt.RennalaNIGT("MlpPolicy", env, n_steps=4, seed=0, device="cpu", stagger=False)
    first, second = run_rounds(model, 2)
    assert first.counts.tolist() == [8, 4, 1]
    assert first.messages == (Message(0, 8, 9), Message(1, 9, 10), Message(2, 10, 11))
    assert (first.finished_at, second.started_at) == (11, 11)


def test_a_reset_empties_the_queue():
    """At 5 the first update has been made, w1 has the link until 6 and w2 waits. After a reset w0 sends at once, at 5 + 2."""
    env = simulated([2, 2, 2], [1, 1, 2], [3, 1, 2], link="serial")
    model = AFedPG("MlpPolicy", env, seed=0, device="cpu", horizon=10)
    (before,) = run_rounds(model, 1)
    assert before.finished_at == 5
    env.reset()
    assert messages(run_rounds(model, 2)) == [(0, 7, 7, 10), (1, 7, 10, 11)]


def test_link_of_the_helper_and_of_all_time_models():
    models = [
        FixedTimes([1, 2], 1, **SERVER),
        RandomTimes([1, 2], 1, variation=0.0, **SERVER),
        VaryingTimes(lambda now: [1, 2], 1, **SERVER),
        ReplayedTimes([[1], [2]], 1, **SERVER),
    ]
    made = [make_worker_vec_env("CartPole-v1", n_workers=2, time_model=model) for model in models]
    made.append(make_worker_vec_env("CartPole-v1", n_workers=2, step_times=[1, 2], message_times=1, **SERVER))
    for env in made:
        assert (env.link, env.aggregation) == ("serial", "server")
        env.aggregate_messages([0, 1])
        assert env.clock.now() == 2.0
    usual = make_worker_vec_env("CartPole-v1", n_workers=2, message_times=1)
    assert (usual.link, usual.aggregation) == ("parallel", "all_reduce")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"link": "slow"}, "link='slow' is not allowed: give 'parallel' or 'serial'"),
        ({"aggregation": None}, "aggregation=None is not allowed: give 'all_reduce' or 'server'"),
        ({"aggregation": "server"}, 'aggregation="server" needs link="serial"'),
    ],
)
def test_bad_arguments(arguments, message):
    for call in (
        FixedTimes,
        lambda **kwargs: plan([1.0], **kwargs),
        lambda **kwargs: make_worker_vec_env("None-v0", **kwargs),
    ):
        with pytest.raises(ValueError, match=message):
            call(**arguments)


# Plans


def updates(tau, kappa, n_updates):
    """Times of the updates of AFedPG, by a queue written down once more; of equal ends the one that started first is first."""
    ends, free, found = [(t, worker) for worker, t in enumerate(tau)], 0.0, []
    while len(found) < n_updates:
        first = min(ends, key=lambda pair: pair[0])  # the list is in the order of the starts
        ends.remove(first)
        free = max(free, first[0]) + kappa[first[1]]
        ends.append((free + tau[first[1]], first[1]))
        found.append(free)
    return found


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_bounds_of_afedpg(pairs):
    """In the long run, of which 2000 updates miss a few trajectories and messages at both ends."""
    tau, kappa = zip(*pairs, strict=True)
    found, (low, high) = updates(tau, kappa, 2000), serial_afedpg_bounds(tau, kappa)
    assert low * 0.98 <= found[-1] / 2000 <= high * 1.02
    load = Workload(np.array(tau), np.array(kappa), (1,), tuple(range(len(tau))), "serial")
    rounds = simulate(load, Rennala(1), Immediate())
    assert [report.finished_at for report in islice(rounds, 60)] == found[:60]


def test_row_of_afedpg_is_the_limit_of_its_rounds():
    """τ = 1, 2, 5, κ = 1, 0, 2: the link is not always busy, and some messages wait."""
    tau, kappa = [1.0, 2.0, 5.0], np.array([1.0, 0.0, 2.0])
    row, found = plan(tau, 20, 1, kappa, link="serial")["AFedPG", "immediate"], updates(tau, kappa, 3000)
    assert row.update_seconds == pytest.approx((found[-1] - found[999]) / 2000, rel=0.02)
    assert row.counts.sum() == pytest.approx(1)
    assert row.link == pytest.approx(row.counts @ kappa / row.update_seconds)
    assert row.link < 0.95
    assert row.update_seconds > 1.01 / np.sum(1 / (tau + kappa))


@pytest.mark.parametrize(("n", "interval", "link"), [(1, 10.0, 0.1), (5, 2.0, 0.5), (10, 1.0, 1.0), (20, 1.0, 1.0)])
def test_a_server_saturates(n, interval, link):
    """τ = 9, κ = 1: ten workers load the link fully, each further one only waits. max(κ, (τ + κ)/n)."""
    assert saturating_n_workers([9.0] * n, 1.0) == 10
    assert link_load([9.0] * n, 1.0) == pytest.approx(n / 10)
    low, high = serial_afedpg_bounds([9.0] * n, 1.0)
    assert (low, high) == pytest.approx((interval, (9 + n) / n))
    row = plan([9.0] * n, 20, 1, 1.0, link="serial")["AFedPG", "immediate"]
    assert (row.update_seconds, row.link, row.staleness) == pytest.approx((interval, link, n - 1))
    assert row.idle == pytest.approx(1 - 9 / (n * interval))


def test_saturation_by_hand():
    """τ = 1, 3, κ = 1, 1: ρ = 1/2 + 1/4. Two of these are ρ = 3/4, so 8/3 of them would be 1. Messages for nothing: never."""
    assert link_load([1, 3], 1) == 0.75
    assert saturating_n_workers([1, 3], 1) == 3
    assert saturating_n_workers([1, 3], 0) is None
    # rates 1/2 and 1/4 fit the link; with κ = 1, 9 the second has half of the link for it: 1/18, at most 1/12
    assert serial_afedpg_bounds([1, 3], 1)[0] == pytest.approx(4 / 3)
    assert serial_afedpg_bounds([1, 3], [1, 9])[0] == pytest.approx(1 / (1 / 2 + 1 / 18))
    assert serial_afedpg_bounds([1, 3], [1, 9])[1] == pytest.approx(1 / (1 / 11 + 1 / 13))


def test_rows_of_rounds_with_a_server():
    """
    τ = 1, 3, κ = 1/2, 1, M = 3, the table of test_planning.py: rounds of 3, 3 and 6 seconds by both workers.

    Then 1.5 seconds of messages in place of 1.
    """
    planned = plan([1, 3], 3, 1, [0.5, 1.0], **SERVER)
    for name, seconds in ((("Rennala", "planned"), 3), (("Malenia", "planned"), 3), (("Synchronous", "barrier"), 6)):
        row = planned[name]
        assert (row.round_seconds, row.update_seconds) == pytest.approx((seconds, seconds + 1.5))
        assert row.link == pytest.approx(1.5 / (seconds + 1.5))
    usual = plan([1, 3], 3, 1, [0.5, 1.0])
    assert usual["Rennala", "planned"].link == pytest.approx(1 / 4)
    assert usual["AFedPG", "immediate"].link == pytest.approx(1 / 3 + 1 / 4)


# Recordings and pictures


@pytest.mark.parametrize(
    ("algorithm", "link", "kappa"),
    [
        (AFedPG, {"link": "serial"}, [3.0, 1.0, 2.0]),
        (RennalaNIGT, SERVER, [3.0, 1.0, 2.0]),
        (RennalaNIGT, {}, [3.0, 1.0, 2.0]),
    ],
)
def test_recorded(algorithm, link, kappa, tmp_path):
    """Messages are measured without the time that they waited; the plan has the link of the run."""
    env = simulated([2] * 3, [1, 1, 2], kappa, **link)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", horizon=10, policy_kwargs={"net_arch": [2]})
    reports = run_rounds(model, 7, RunRecorder(tmp_path / "run.jsonl"))
    recording = Recording.load(tmp_path / "run.jsonl")
    assert (recording.link, recording.aggregation) == (link.get("link", "parallel"), link.get("aggregation", "all_reduce"))
    assert [(r.messages, messages([r])) for r in recording.reports] == [(r.messages, messages([r])) for r in reports]
    measured = measure(recording)
    assert measured.message_times == pytest.approx(kappa)
    assert measured.step_times == pytest.approx([1, 1, 2])


def test_a_recording_of_an_earlier_version(tmp_path):
    """It knows neither links nor messages; the mean of the aggregations is known, 2 s."""
    env = simulated([2] * 2, [1, 2], [2.0, 2.0])
    model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", horizon=10, policy_kwargs={"net_arch": [2]})
    run_rounds(model, 3, RunRecorder(tmp_path / "run.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("link", "aggregation", "messages"):
            line.pop(name, None)
        for arrival in line.get("arrivals", []):
            del arrival["sent_at"]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    recording = Recording.load(tmp_path / "old.jsonl")
    assert (recording.link, recording.aggregation) == ("parallel", "all_reduce")
    assert measure(recording).message_times == pytest.approx([2, 2])


def test_messages_in_a_picture():
    def drawn(reports):
        ax = Figure().subplots()
        draw_timeline(ax, reports)
        orange = [bar for bar in ax.patches if bar.get_facecolor()[:3] == pytest.approx((0xE6 / 255, 0x9F / 255, 0))]
        return [(round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in orange]

    assert MESSAGE_COLOR == "#E69F00"
    queued = train(AFedPG, simulated([2] * 3, [1, 1, 2], [3, 1, 2], link="serial"), 3)
    assert drawn(queued) == [(0, 2, 3), (1, 5, 1), (2, 6, 2)]
    served = train(RennalaNIGT, simulated([2] * 3, [1, 2, 5], [0.5, 3, 100], **SERVER), 1, n_trajectories=5)
    assert drawn(served) == [(0, 8, 0.5), (1, 8.5, 3)]
    assert drawn(train(AFedPG, simulated([2] * 3), 3)) == []


# Commands


def test_plan_of_a_serial_link(capsys):
    command = "plan --step-times 9 --n-workers 20 --trajectory-steps 1 --message-times 1 --link serial"
    main(command.split())
    printed = capsys.readouterr().out
    assert "20 workers, M = 20, 1 steps per trajectory, serial link, all-reduce" in printed
    assert "idle      link" in printed
    row = next(line for line in printed.splitlines() if "immediate" in line)
    assert row.split() == ["8", "AFedPG", "immediate", "1", "1", "1", "1", "1", "19", "0.0%", "55.0%", "100.0%"]
    assert "an update every 1 to 1.45 s; its workers offer the link 2 s of messages a second" in printed
    assert "a serial link saturates at 10 workers like these" in printed


@pytest.mark.slow
def test_plan_of_a_run_over_a_serial_link(tmp_path, capsys):
    env = simulated([2] * 2, [1, 2], 1.0, **SERVER)
    model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", horizon=10, policy_kwargs={"net_arch": [2]})
    run_rounds(model, 3, RunRecorder(tmp_path / "run.jsonl"))
    main(["plan", "--from", str(tmp_path / "run.jsonl"), "--output", str(tmp_path / "plan.png")])
    assert "serial link, server" in capsys.readouterr().out
    main(["plan", "--from", str(tmp_path / "run.jsonl"), "--link", "serial", "--aggregation", "all_reduce"])
    assert "serial link, all-reduce" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "plan --step-times 1,2 --aggregation server",
        "compare --env CartPole-v1 --step-times 1,2 --timesteps 9 --aggregation server",
        "tune --env CartPole-v1 --step-times 1,2 --timesteps 9 --aggregation server",
        "reproduce reacher-communication --aggregation server",
        "reproduce reacher-communication-serial --link parallel --aggregation server",
    ],
)
def test_a_server_needs_a_serial_link(command, capsys):
    with pytest.raises(SystemExit):
        main(command.split())
    assert "--aggregation server needs --link serial" in capsys.readouterr().err


def run_of(**link):
    setting = Setting("CartPole-v1", (1.0, 2.0), (1.0, 1.0), **link)
    return Run("rennala", 0, setting, Budget(timesteps=100))


def test_settings_in_files(tmp_path):
    """A file from before there was a choice has the usual link, so its run goes on; another link is another run."""
    earlier = run_of().as_json()
    del earlier["setting"]["link"], earlier["setting"]["aggregation"]
    (tmp_path / "rennala-seed0.json").write_text(json.dumps({"run": earlier}))
    (tmp_path / "rennala-seed0.csv").write_text("seconds,return\n0,1\n")
    assert is_finished(run_of(), tmp_path)
    for run, other in ((run_of(), run_of(link="serial")), (run_of(**SERVER), run_of(link="serial"))):
        (tmp_path / "rennala-seed0.json").write_text(json.dumps({"run": run.as_json()}))
        assert is_finished(run, tmp_path)
        with pytest.raises(UsageError, match="another setting"):
            is_finished(other, tmp_path)


def test_tuned_for_a_link(tmp_path):
    entries = [
        Tuned("sync", run_of(**link).setting, Budget(100), {"eta": eta}, []) for link, eta in (({}, 0.1), (SERVER, 0.2))
    ]
    for entry in entries:
        save(entry, tmp_path / "tuned.json")
    assert load(tmp_path / "tuned.json") == entries


def test_setting_over_a_serial_link():
    """Its workers, and the words above a picture."""
    setting = run_of(**SERVER).setting
    workers = setting.make_workers(0)
    assert (workers.link, workers.aggregation) == ("serial", "server")
    changing = dataclasses.replace(setting, final_step_times=(2.0, 2.0), change_seconds=5.0).make_workers(0)
    assert (changing.link, changing.aggregation) == ("serial", "server")
    assert title(setting).endswith("1 s a message, serial link, server")
    assert title(run_of().setting).endswith("1 s a message")


def test_figures_over_a_serial_link():
    for name in ("humanoid", "reacher"):
        usual, serial = (FIGURES[f"{name}-communication{end}"].setting("trajectory") for end in ("", "-serial"))
        assert serial == dataclasses.replace(usual, link="serial")


@pytest.mark.slow
def test_reproduce_with_a_server(runs_in_this_process, tmp_path, monkeypatch):
    """The link is in the setting of the runs and in the name of the directory; a round takes longer, and so does the run."""
    figure = dataclasses.replace(
        FIGURES["reacher-equal"], message_times="1", n_workers=2, methods=("sync", "afedpg"), timesteps=4_000
    )
    monkeypatch.setitem(FIGURES, "small", figure)
    output = ["--output", str(tmp_path), "--points", "2", "--episodes", "1", "--seeds", "1", "--time-per", "trajectory"]
    main(["reproduce", "small", *output])
    main(["reproduce", "small", *output, "--link", "serial", "--aggregation", "server"])
    of_usual, of_server = (
        json.loads((tmp_path / name / "sync-seed0.json").read_text())["run"]
        for name in ("small-per-trajectory", "small-serial-server-per-trajectory")
    )
    assert of_server["setting"] == {**of_usual["setting"], **SERVER}
    # four rounds of 20 episodes of 50 steps: ten seconds each, then one second or two
    assert (of_usual["budget"]["seconds"], of_server["budget"]["seconds"]) == pytest.approx((44, 48))
