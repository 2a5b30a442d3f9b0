"""
Imported once by the fork server, so that every worker starts with it and shares its memory.

Besides the worker itself: the modules of a pickled policy, and what torch and gymnasium import only at the first use,
hundreds of modules and seconds per worker.
No gradient may be taken here, since autograd's threads do not survive a fork.
"""

import contextlib

import torch as th

import sb3_nigt.algorithms
import sb3_nigt.vec_env.process.worker  # noqa: F401

th.optim.SGD([th.zeros(1)])  # the first optimizer of a process imports torch's compiler, and every policy has one

with contextlib.suppress(ImportError):
    import gymnasium.envs.mujoco.mujoco_env  # noqa: F401
