"""What happened in a run, as a file: which worker ran which trajectory when, and which of them each round accepted."""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt.messages import Arrival, Discarded, Message, RoundReport, Segment, SegmentStart, TrajectoryKey
from sb3_nigt.parameters import flatten
from sb3_nigt.timing.link import Aggregation, Link

FORMAT = 1


@dataclass(frozen=True)
class RecordedRound:
    """
    One round.

    :param report: as in ``model.last_round``; the task ids are strings
    :param progress: progress remaining (from 1 to 0) when the round began and when it was complete, which schedules of the
        learning rate and of η depend on
    """

    report: RoundReport
    progress: tuple[float, float]


@dataclass(frozen=True)
class Recording:
    """
    A recorded run.

    :param algorithm: name of the class
    :param seed: of all trajectories
    :param task_ids: one per worker, as strings
    :param settings: numbers and names that decide what a run computes, and a checksum of its first parameters
    :param sums_by_worker: each worker summed its own gradients, so rounding was that of sums of sums
    :param rounds: in order
    :param link: how messages reached the learner, see ``TimeModel``
    :param aggregation: the same
    """

    algorithm: str
    seed: int
    task_ids: tuple[str, ...]
    settings: dict[str, Any]
    sums_by_worker: bool
    rounds: tuple[RecordedRound, ...]
    link: Link = "parallel"
    aggregation: Aggregation = "all_reduce"

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """What ``model.last_round`` was after each round."""
        return tuple(recorded.report for recorded in self.rounds)

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """
        Read a file of ``RunRecorder``; a last line that a crash truncated is ignored.

        :param path: of the file
        :raises ValueError: if it is something else
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            header = json.loads(lines[0])
            if header["format"] != FORMAT:
                raise ValueError
        except (ValueError, KeyError, IndexError, TypeError):
            raise ValueError(f"path={str(path)!r} is not a recorded run: give a file written by RunRecorder.") from None
        rounds = []
        for number, line in enumerate(lines[1:], start=1):
            try:
                rounds.append(_decoded(json.loads(line)))
            except json.JSONDecodeError:
                if number < len(lines) - 1:
                    raise ValueError(f"path={str(path)!r}: line {number + 1} is damaged.") from None
        names = ("algorithm", "seed", "task_ids", "settings", "sums_by_worker")
        values = {name: header[name] for name in names}
        values |= {name: header[name] for name in ("link", "aggregation") if name in header}  # not in files of 0.1.0
        return cls(**{**values, "task_ids": tuple(header["task_ids"])}, rounds=tuple(rounds))


DECISIVE = (  # arguments that decide what is learned from the steps of a round; the others decide which steps those are
    *("n_steps", "horizon", "gamma", "gae_lambda", "eta", "learning_rate", "geometry", "rollout", "stagger"),
    *("fisher_samples", "fisher_rounds"),
)


class RunRecorder(BaseCallback):
    """
    Callback that writes every round to a file, one line of JSON each, so a crash loses no complete round.

    ``Recording.load`` reads the file, ``replay`` repeats the run in the simulator, and ``sb3-nigt timeline`` draws it.

    :param path: of the file; an existing file is replaced when training starts
    :param verbose: verbosity level
    """

    def __init__(self, path: str | Path, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.path = Path(path)
        self._begun = False

    def _on_training_start(self) -> None:
        if not self._begun:  # a second learn() continues the same file
            model: Any = self.model
            header = {
                "format": FORMAT,
                "algorithm": type(self.model).__name__,
                "seed": model.root_seed,
                "task_ids": [str(task_id) for task_id in model.workers.task_ids],
                "link": model.workers.link,
                "aggregation": model.workers.aggregation,
                "settings": replay_settings(model),
                # steps are at the learner, which sums them in one sweep
                "sums_by_worker": model.workers.sums_by_worker and model.rollout == "trajectories",
            }
            self.path.write_text(json.dumps(header) + "\n", encoding="utf-8")
            self._begun = True

    def _on_rollout_start(self) -> None:
        self._progress_at_start = self.model.progress_remaining  # type: ignore[attr-defined]

    def _on_rollout_end(self) -> None:
        report: RoundReport = self.model.last_round  # type: ignore[attr-defined]
        at_end = self.model.progress_at_update()  # type: ignore[attr-defined]
        line = json.dumps(_encoded(RecordedRound(report, (self._progress_at_start, at_end))))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _on_step(self) -> bool:
        return True


def replay_settings(model: Any) -> dict[str, Any]:
    """
    What two models must share for one to repeat the run of the other.

    :param model: one of this package's
    :return: numbers and names among its arguments, and a checksum of its parameters
    """
    numbers = {name: value for name in DECISIVE if isinstance(value := getattr(model, name), int | float | str)}
    return {**numbers, "parameters": zlib.crc32(flatten(model.policy).tobytes())}


def _encoded(recorded: RecordedRound) -> dict[str, Any]:
    report = recorded.report
    trajectories = {
        name: [{**_fields(item), "task_id": str(item.task_id)} for item in getattr(report, name)]
        for name in ("arrivals", "rejected")
    }
    return {
        **_fields(report),
        **trajectories,
        "counts": report.counts.tolist(),
        "weights": report.weights.tolist(),
        "discarded": [_fields(item) for item in report.discarded],
        "segments": [{**_fields(item), "start": _fields(item.start)} for item in report.segments],
        "messages": [_fields(item) for item in report.messages],
        "progress": recorded.progress,
    }


def _fields(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


def _decoded(line: dict[str, Any]) -> RecordedRound:
    progress = line.pop("progress")
    for name in ("arrivals", "rejected"):
        line[name] = tuple(Arrival(**{**item, "key": TrajectoryKey(*item["key"])}) for item in line[name])
    line["discarded"] = tuple(Discarded(**item) for item in line["discarded"])
    segments = line.pop("segments", [])  # neither these nor messages are in files of 0.1.0
    line["messages"] = tuple(Message(**item) for item in line.pop("messages", []))
    line["segments"] = tuple(Segment(**{**item, "start": SegmentStart(**item["start"])}) for item in segments)
    line["counts"], line["weights"] = np.array(line["counts"], dtype=np.int64), np.array(line["weights"])
    return RecordedRound(RoundReport(**line), (progress[0], progress[1]))
