"""Command line: ``python -m sb3_nigt COMMAND``."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments import benchmark


def main(argv: list[str] | None = None) -> None:
    """
    Run a command.

    :param argv: arguments, those of the process by default
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_nigt", description="Tools for workers of different speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("benchmark", help="learning speed beside the raw speed of the environment")
    benchmark.add_arguments(command)
    command.set_defaults(run=benchmark.run)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
