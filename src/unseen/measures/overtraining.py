"""How test error moves while a student trains: the linear theory, what never moves, and what overtraining costs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from unseen.worlds.clusters.teacher import Spectrum, marchenko_pastur

Scalar = float | Float[Array, ""]


def advani_saxe_curve(
    times: Float[Array, " times"],
    density: Scalar,
    *,
    noise: Scalar,
    teacher: Scalar = 1.0,
    initial: Scalar = 0.0,
    spectrum: Spectrum | None = None,
) -> Float[Array, " times"]:
    """Expected test error of a linear student under gradient flow on the summed squared error.

    E(t) = sum_i w_i [(teacher^2 + initial^2) exp(-2 l_i t) + noise^2/l_i (1 - exp(-l_i t))^2] + noise^2, where l_i are
    the eigenvalues of X'X/N for P samples of N inputs of unit variance; directions that no example has (l = 0) keep
    their first weights for ever.

    Source: Advani and Saxe (2017, arXiv 1710.03667), equation of the generalization error's dynamics,
    averaged over the Marchenko-Pastur law; time is in units of the learning time constant.

    Args:
        times: from 0 on.
        density: P/N, examples per input.
        noise: standard deviation of the targets' noise; the teacher's over this, squared, is the signal-to-noise ratio.
        teacher, initial: standard deviations of the outputs that the teacher and the student's first weights give.
        spectrum: of X'X/P, if not the Marchenko-Pastur law: the eigenvalues of one sample, say.
    """
    values, weights = marchenko_pastur(1 / jnp.asarray(density, float)) if spectrum is None else spectrum
    pull = density * values
    kept = jnp.exp(-pull * times[:, None])
    heard = jnp.where(pull > 0, (1 - kept) ** 2 / jnp.where(pull > 0, pull, 1), 0.0)
    return ((teacher**2 + initial**2) * kept**2 + noise**2 * heard) @ weights + noise**2


def frozen_subspace(
    inputs: Float[Array, "samples dimension"], weights: Float[Array, "dimension outputs"]
) -> Float[Array, "dimension outputs"]:
    """The part of a linear layer's weights that gradient descent on these inputs never changes: what is orthogonal
    to all of them. With as many independent samples as dimensions there is none.

    Source: Advani and Saxe (2017, arXiv 1710.03667).
    """
    _, sizes, directions = jnp.linalg.svd(inputs, full_matrices=False)
    tolerance = jnp.finfo(inputs.dtype).eps * max(inputs.shape) * sizes[0]
    seen = directions * (sizes > tolerance)[:, None]
    return weights - seen.T @ (seen @ weights)


def frozen_error(density: Scalar, initial: Scalar) -> Float[Array, ""]:
    """What frozen first weights add to the expected final test error: initial^2 (1 - P/N) where there are fewer
    examples than inputs, else 0.

    Args:
        density: P/N, examples per input.
        initial: standard deviation of the outputs that the first weights give.

    Source: Advani and Saxe (2017, arXiv 1710.03667).
    """
    return jnp.clip(1 - jnp.asarray(density), 0) * initial**2


def overtraining_penalty(test_error: xr.DataArray, dim: str = "step") -> xr.DataArray:
    """Log of the final test error over the smallest one on the way, what an oracle of early stopping would have had.

    Source: Advani and Saxe (2017, arXiv 1710.03667).

    Args:
        test_error: above 0, over `dim` and any others; NaN anywhere on the way makes the result NaN.
    """
    final = test_error.isel({dim: -1}, drop=True)
    return xr.DataArray(np.log(final / test_error.min(dim, skipna=False)))
