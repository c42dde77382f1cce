"""Arrays of a PyTorch model, for measures that take arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float


def torch_per_example_gradients(
    module: Any,
    loss: Callable[[Any, Any], Any],
    inputs: Any,
    targets: Any,
    *,
    micro_batch: int | None = None,
) -> dict[str, Float[np.ndarray, "examples *shape"]]:
    """The gradient of every example's loss, by parameter name.

    For `coherence`, which takes it as it stands; `np.concatenate([g.reshape(len(g), -1) for g in found.values()], 1)`
    is the matrix that `noise_covariance` takes. What every linear layer reads comes from
    `unseen.models.torch_layer_inputs`.

    Args:
        module: a `torch.nn.Module` that is called as `module(inputs)`; parameters that need no gradient are left out.
            Put it into `eval()`: layers that look at the whole batch have no gradient of an example.
        loss: (outputs, targets) of a batch of one -> scalar tensor, for instance `torch.nn.functional.cross_entropy`.
        inputs, targets: tensors whose first axis is the example.
        micro_batch: examples at a time; all of them by default.
    """
    from torch.func import functional_call, grad, vmap

    trained = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}

    def of_one(parameters: Any, one: Any, target: Any) -> Any:
        return loss(functional_call(module, parameters, (one[None],)), target[None])

    each = vmap(grad(of_one), in_dims=(None, 0, 0), chunk_size=micro_batch)
    return {name: value.detach().cpu().numpy() for name, value in each(trained, inputs, targets).items()}
