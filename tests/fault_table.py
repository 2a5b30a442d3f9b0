"""Print what tests of faults have seen as one table: ``python tests/fault_table.py FILE``, see ``--fault-table``."""

import json
import sys

COLUMNS = [(algorithm, rounds) for rounds in ("steps", "trajectories") for algorithm in ("RennalaNIGT", "MaleniaNIGT")]
LEGEND = """\
restarted: a warning names worker, task and reason, and the worker takes part again after so many seconds (the longest of
           several tests, from the fault to its first step). Rounds of trajectories: it repeats its trajectory, and the
           parameters are those of a run without faults. Rounds of steps: its steps of the round are lost, it starts a new
           episode, and the recorded run repeats in the simulator, bit for bit, on workers without faults.
rejected:  no worker is restarted; other steps or trajectories take the place of those with the number.
raised:    the error of the environment reaches the caller of learn(); the parameters are those of the last complete round.
ranks:     the worker is one of two on one of two ranks; meanwhile the other rank continues, and both agree on every round.
told:      a rank itself fails: all others raise a RankError that names it and, where it is known, the reason.
An empty cell was not measured. Seconds depend on what else the machine does."""


def table(lines):
    """
    Return the table as text.

    :param lines: fault, workers, algorithm, rounds, what happened, and the seconds where that took some
    """
    cells = {}
    for kind, where, algorithm, rounds, what, *seconds in lines:
        of_row = cells.setdefault((where, kind), {})
        known = of_row.setdefault((algorithm, rounds), (what, []))
        assert known[0] == what, f"{kind}: {known[0]} in one test, {what} in another"
        known[1].extend(seconds)
    columns = [column for column in COLUMNS if any(column in of_row for of_row in cells.values())]
    rows = [["fault", "workers", *(algorithm for algorithm, _ in columns)], ["", "", *(rounds for _, rounds in columns)]]
    for (where, kind), of_row in sorted(cells.items()):
        rows.append([kind, where, *(_cell(*of_row[column]) if column in of_row else "" for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*text, "", LEGEND])


def _cell(what, seconds):
    return f"{what}, {max(seconds):.1f} s" if seconds else what


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(table([json.loads(line) for line in file]))
