"""
Imported once by the fork server, so that every worker starts with it and shares its memory.

Beside the worker itself: what torch and gymnasium import only at the first use, hundreds of modules and seconds a worker.
No gradient may be taken here, since autograd's threads do not survive a fork.
"""

import contextlib

import sb3_nigt.vec_env.worker  # noqa: F401

with contextlib.suppress(ImportError):
    import gymnasium.envs.mujoco.mujoco_env  # noqa: F401
