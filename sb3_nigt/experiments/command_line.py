"""The commands of ``sb3-nigt``."""

from __future__ import annotations

import os
import sys
from types import ModuleType

from sb3_nigt.experiments.arguments import FailedRunsError, OneLineParser, UsageError
from sb3_nigt.experiments.commands import benchmark, compare, plan, reproduce, summary, table, timeline, tune, verdicts

# A command is a module: its docstring is the help, add_arguments(parser) and run(args) do the rest. Until run is called
# neither torch nor Stable-Baselines3 is imported, so a typo is answered at once.
COMMANDS: dict[str, ModuleType] = {
    "benchmark": benchmark,
    "compare": compare,
    "plan": plan,
    "reproduce": reproduce,
    "summary": summary,
    "table": table,
    "timeline": timeline,
    "tune": tune,
    "verdicts": verdicts,
}


def main(argv: list[str] | None = None) -> None:
    """
    Run a command.

    :param argv: arguments, those of the process by default
    """
    parser = OneLineParser(prog="sb3-nigt", description="Tools for workers of different speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except UsageError as error:
        args.parser.error(str(error))
    except FailedRunsError as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nInterrupted. To continue compare, tune or reproduce, run the same command again.\n")
    except BrokenPipeError:  # the reader of the output, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
