"""Who runs which trajectory of a round: protocol logic without clocks and I/O."""

from sb3_nigt.schedules.base import Schedule, Start
from sb3_nigt.schedules.first_finished import FirstFinished
from sb3_nigt.schedules.immediate import Immediate
from sb3_nigt.schedules.pipelined import Pipelined
from sb3_nigt.schedules.planned import Planned

__all__ = ["FirstFinished", "Immediate", "Pipelined", "Planned", "Schedule", "Start"]
