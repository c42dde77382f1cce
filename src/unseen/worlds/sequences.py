"""What every world of token sequences hands to a learner."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int


class Sequences(eqx.Module):
    """A batch of padded token sequences; what is demanded, and where.

    Every sequence lies at the left of its row: the input, then one empty token for each output that the model
    must give there, then padding up to the common length `time`.

    Attributes:
        inputs: one-hot tokens; the last token is the empty one, and rows of padding are all zero.
        targets: the token demanded at each position, 0 where none is.
        outputs: positions where an output is demanded: the loss is taken over these.
        scored: the outputs that count for accuracy (a world may leave out what follows a termination token).
        present: positions that are not padding.
        input_length: tokens of the input alone, without the empty ones.
    """

    inputs: Float[Array, "*batch time input_size"]
    targets: Int[Array, "*batch time"]
    outputs: Bool[Array, "*batch time"]
    scored: Bool[Array, "*batch time"]
    present: Bool[Array, "*batch time"]
    input_length: Int[Array, "*batch"]
