"""How long rounds take before anything runs: closed forms, and the schedules on workers without environments."""

from sb3_nigt.planning.closed_forms import (
    afedpg_interval,
    efficient_n_trajectories,
    malenia_bounds,
    malenia_free_n_trajectories,
    malenia_round_time,
    rennala_bounds,
    rennala_round_time,
    synchronous_round_time,
    workers_worth_waiting_for,
)
from sb3_nigt.planning.measured import Measured, measure
from sb3_nigt.planning.methods import MethodPlan, Plan, plan
from sb3_nigt.planning.orders import ORDERS, Order
from sb3_nigt.planning.serial_link import link_load, saturating_n_workers, serial_afedpg_bounds
from sb3_nigt.planning.simulation import Workload
from sb3_nigt.planning.step_rounds import LOCKSTEP, StepRoundsPlan, StepRoundsRow, plan_steps

__all__ = [
    "LOCKSTEP",
    "ORDERS",
    "Measured",
    "MethodPlan",
    "Order",
    "Plan",
    "StepRoundsPlan",
    "StepRoundsRow",
    "Workload",
    "afedpg_interval",
    "efficient_n_trajectories",
    "link_load",
    "malenia_bounds",
    "malenia_free_n_trajectories",
    "malenia_round_time",
    "measure",
    "plan",
    "plan_steps",
    "rennala_bounds",
    "rennala_round_time",
    "saturating_n_workers",
    "serial_afedpg_bounds",
    "synchronous_round_time",
    "workers_worth_waiting_for",
]
