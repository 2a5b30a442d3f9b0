"""What an optimizer needs for gradients to be taken elsewhere than at the parameters."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch as th


@runtime_checkable
class Extrapolating(Protocol):
    """
    An optimizer whose gradients are taken at an extrapolated point; each of its parameter groups has an ``eta``.

    All other torch optimizers work as well: their gradients are taken at the parameters.
    """

    param_groups: list[dict[str, Any]]

    def extrapolated(self) -> dict[th.Tensor, th.Tensor]:
        """Return the point, by parameter."""
        ...

    def direction_norm(self) -> float:
        """Return ‖d‖ of the last step."""
        ...
