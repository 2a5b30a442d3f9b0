"""Who runs which trajectory of a round: protocol logic without clocks and I/O."""

from sb3_nigt.schedules.base import Schedule, Start
from sb3_nigt.schedules.first_finished import FirstFinished
from sb3_nigt.schedules.immediate import Immediate
from sb3_nigt.schedules.pipelined import Pipelined
from sb3_nigt.schedules.planned import Planned

SCHEDULES: dict[str, type[Schedule]] = {  # that a user may choose by name
    "planned": Planned,
    "pipelined": Pipelined,
    "first_finished": FirstFinished,
}

__all__ = ["SCHEDULES", "FirstFinished", "Immediate", "Pipelined", "Planned", "Schedule", "Start"]
