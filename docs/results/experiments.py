"""
The experiments of the paper, one after the other: table, picture and command of each.

``python docs/results/experiments.py > docs/results/experiments.md``
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = re.compile(r"sb3-nigt reproduce (?P<figure>[\w-]+) --time-per (?P<time_per>\w+)")
SECTION = """### {figure}, time per {time_per}

```{{literalinclude}} ../results/{name}/table.txt
```

![Returns of all methods over seconds, timesteps and messages](../results/{name}/curves.png)

```bash
{command}
```"""


def commands() -> dict[str, str]:
    """Directory and command of each experiment, in the order of the page."""
    lines = (HERE / "commands.txt").read_text(encoding="utf-8").splitlines()
    return {"{figure}-per-{time_per}".format(**COMMAND.match(line).groupdict()): line for line in lines}


def page() -> str:
    """Write a section for each."""
    sections = []
    for name, command in commands().items():
        sections.append(SECTION.format(name=name, command=command, **COMMAND.match(command).groupdict()))
    return "\n\n".join(sections)


if __name__ == "__main__":
    print(page())
