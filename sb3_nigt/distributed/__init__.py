"""Training one model on several ranks of ``torch.distributed``: each has its own workers, and one all-reduce a round."""

from sb3_nigt.distributed.checkpoints import RoundCheckpoint, newest_checkpoint
from sb3_nigt.distributed.settings import AllReduceGroup, chosen_group, is_first_rank

__all__ = ["AllReduceGroup", "RoundCheckpoint", "chosen_group", "is_first_rank", "newest_checkpoint"]
