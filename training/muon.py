"""Muon for convolutions: each kernel's momentum, viewed as a matrix, is orthogonalised before it is applied.

After Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon

PyTorch's own Muon accepts only matrices, but the autoencoder consists mostly of 3D kernels.
"""

from collections.abc import Callable, Iterable

import torch


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """An approximation of the nearest orthogonal matrix to [M, N], with singular values of about one, by a quintic
    Newton-Schulz iteration with Jordan's coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return torch.as_tensor(x.T if tall else x)


class Muon(torch.optim.Optimizer):
    """Takes kernels of any rank. Its steps are as large as those of AdamW at the same learning rate."""

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
