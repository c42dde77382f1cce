"""Q-learning that makes the network rely on the pixels which it finds important itself."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner, QNetwork, Scalar
from unseen.learners.replay import Transition
from unseen.measures.saliency import attribution_mask, most_salient
from unseen.methods.overlay import RandomOverlay
from unseen.methods.value_heads import Distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGQN(QLearner):
    """Saliency-guided Q-learning: two losses beside that of the values.

    Saliency consistency asks for the same value of the action taken when all but the most salient pixels are one
    random grey. Saliency prediction asks a decoder to find, in an image under an overlay, the salient pixels of the
    clean one. Observations are images (float in [0, 1] or whole numbers to 255); `encoder` makes a
    `SaliencyEncoder`. Both losses at zero leave the `QLearner`; `overlaid_values` then makes it learn from overlaid
    images too, with the clean image's targets (SVEA).

    Example:
        >>> encoder = lambda key: SaliencyEncoder(20, actions=5, key=key)
        >>> learner = SGQN(actions=5, encoder=encoder, overlay=RandomOverlay(pictures))
        >>> state, loss = learner.update(learner.init(key, image), batch, key)

    Attributes:
        overlay: for the prediction loss (and the values, if wanted).
        quantile: share of the pixels that are not salient.
        consistency, prediction: weights of the two losses. Numbers or traced; a plain 0 saves the computation.
        overlaid_values: whether half of the value loss is on overlaid images.
        masks: "own" saliency, or "random" pixels, as many, as a control.

    Raises:
        UserError: without an encoder; on an unknown kind of masks; if `share` or `auxiliary` is given.

    Source: Bertoin et al. (2022), the two self-supervised objectives. As in their code the masked pixels get one random
    grey (the paper's formula says 0) and the mask is held constant; unlike there one optimizer minimises the sum, and
    the largest size of guided gradients must be above zero for a pixel to count. Overlaid values: Hansen et al.,
    "Stabilizing Deep Q-Learning with ConvNets and Vision Transformers under Data Augmentation" (2021), equation 6.
    """

    overlay: RandomOverlay
    quantile: float = 0.9
    consistency: Scalar = 0.5
    prediction: Scalar = 1.0
    overlaid_values: bool = False
    masks: Literal["own", "random"] | str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder is None:
            raise UserError("encoder takes a function that makes a SaliencyEncoder from a key, got none.")
        if self.masks not in ("own", "random"):
            raise UserError(f"masks takes own or random, got {self.masks!r}.")
        if self.share != 1 or self.auxiliary is not None:
            raise UserError("share and auxiliary stay at 1 and None in SGQN.")
        if not 0 <= self.quantile < 1:
            raise UserError(f"quantile takes a share from 0 to less than 1, got {self.quantile}.")

    def salient(
        self, network: QNetwork, images: Float[Array, "n h w c"], actions: Array, key: Key[Array, ""]
    ) -> Bool[Array, "n h w"]:
        """The pixels that count for the value of an action, mean over members; or as many random ones."""
        if self.masks == "random":
            return jax.vmap(lambda u: most_salient(u, self.quantile))(
                jax.random.uniform(key, images.shape[:3], minval=1e-6)
            )

        def one(image: Array, action: Array) -> Array:
            return attribution_mask(lambda x: self.values(network, x).mean(0)[action], image, self.quantile)

        return jax.vmap(one)(images, actions)

    def loss(self, network: QNetwork, batch: Transition, target: Distribution, key: Key[Array, ""]) -> Float[Array, ""]:
        """Value loss against a target and the two saliency losses."""
        mask_key, fill_key, overlay_key = jax.random.split(key, 3)
        images = batch.observation
        images = images if jnp.issubdtype(images.dtype, jnp.floating) else images / 255
        taken = jax.nn.one_hot(batch.action, self.actions)[:, None, :, None]

        def outputs(images: Float[Array, "n h w c"]) -> Float[Array, "n members outputs"]:
            return (jax.vmap(network)(images) * taken).sum(-2)

        clean = outputs(images)
        losses = self.head.loss(clean, target)
        overlaid = self.overlay(overlay_key, images)
        if self.overlaid_values:
            losses = (losses + self.head.loss(outputs(overlaid), target)) / 2
        total = losses.mean(0).sum()
        weights = self.consistency, self.prediction
        if all(isinstance(weight, int | float) and weight == 0 for weight in weights):
            return total
        mask = jax.lax.stop_gradient(self.salient(network, images, batch.action, mask_key))
        if not (isinstance(self.consistency, int | float) and self.consistency == 0):
            low, high = images.min((1, 2, 3)), images.max((1, 2, 3))
            grey = low + (high - low) * jax.random.uniform(fill_key, low.shape)
            masked = outputs(jnp.where(mask[..., None], images, grey[:, None, None, None]))
            before, after = (self.head.distribution(x).mean() for x in (clean, masked))
            total = total + self.consistency * jnp.square(before - after).mean(0).sum()
        if not (isinstance(self.prediction, int | float) and self.prediction == 0):
            logits = jax.vmap(network.encoder.predict)(overlaid, batch.action)
            wrong = optax.sigmoid_binary_cross_entropy(logits, mask.astype(jnp.float32))
            total = total + self.prediction * wrong.mean()
        return total
