"""Muon for convolutions: the momentum of every kernel, seen as a matrix, is made orthogonal before it is applied.

After Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon

Knows: one optimizer. PyTorch's own Muon takes matrices only; the autoencoder here is nearly all 3D kernels.
"""

from collections.abc import Callable, Iterable

import torch


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The nearest matrix [M, N] with singular values of about one, by a quintic Newton-Schulz iteration with Jordan's
    coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return torch.as_tensor(x.T if tall else x)


class Muon(torch.optim.Optimizer):
    """Takes kernels of any rank; the step has the size that AdamW's would have at the same learning rate."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                size = 0.2 * max(ahead.shape) ** 0.5
                parameter.sub_(orthogonal(ahead).view_as(parameter), alpha=group["lr"] * size)
