"""Command line: ``sb3-nigt COMMAND``, or ``python -m sb3_nigt COMMAND``."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> None:
    """
    Run a command.

    :param argv: arguments, those of the process by default
    """
    # Not at the top: every worker process imports this module anew, and has no use for tables and pictures.
    from sb3_nigt.experiments.command_line import main as run

    run(argv)


if __name__ == "__main__":
    main()
