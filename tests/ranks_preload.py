"""Imported once by the fork server of the tests, so that every rank starts with it."""

import torch as th
import torch.distributed
from stable_baselines3.common import callbacks  # noqa: F401

import sb3_nigt
import sb3_nigt.distributed.session  # noqa: F401

th.optim.SGD([th.zeros(1)])  # the first optimizer of a process imports torch's compiler, and every policy has one
