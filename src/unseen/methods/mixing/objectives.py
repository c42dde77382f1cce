"""Mixing as training objectives: what `classifier` takes as `objective`.

Each is (model, inputs, targets, key) -> loss of every example of the batch, for a model that takes a batch of images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.methods.mixing.guided import attentivemix, puzzlemix
from unseen.methods.mixing.hidden import aligned
from unseen.methods.mixing.static import Images, Labels, Mixed, Scalar, mixup, pair
from unseen.models.conv_net import ConvNet

Losses = Float[Array, " n"]
Objective = Callable[[Any, tuple[Any, ...], Int[Array, " n"], PRNGKeyArray], Losses]


def soft_cross_entropy(logits: Float[Array, "n classes"], labels: Labels) -> Losses:
    """-sum of label x log softmax(logits), in nats."""
    return -(labels * jax.nn.log_softmax(logits)).sum(-1)


def mixing_objective(
    mix: Callable[[PRNGKeyArray, Images, Labels], Mixed],
    classes: int,
    loss: Callable[[Float[Array, "n classes"], Labels], Losses] = soft_cross_entropy,
) -> Objective:
    """Training on mixtures: any function (key, images, labels) -> `Mixed`.

    Example:
        >>> learner = classifier(model, data, optimizer, objective=mixing_objective(cutmix, 10), ...)
    """

    def objective(model: Any, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        mixed = mix(key, images, jax.nn.one_hot(targets, classes))
        return loss(model(mixed.images), mixed.labels)

    return objective


def decoupled_mixup(logits: Float[Array, "n classes"], labels: Labels, *, weight: float = 0.1) -> Losses:
    """Cross-entropy of mixtures, plus a term that asks for confidence in each of the two classes by itself.

    For a mixture of classes a and b: -log p_a - log p_b, with softmax over all classes but the other one, so that the
    two do not compete. Mixtures within one class get plain cross-entropy, as in the official code.

    Source: Liu et al. (2022, arXiv 2203.10761), equation 5; `weight` is its eta.
    """
    present = labels > 1e-3
    others = jnp.where(present, -jnp.inf, logits)
    # log(sum over absent classes + own): one candidate class at a time, all at once.
    own = jnp.logaddexp(jax.nn.logsumexp(others, axis=-1, keepdims=True), logits) - logits
    extra = jnp.where(present, own, 0.0).sum(-1)
    return soft_cross_entropy(logits, labels) + weight * jnp.where(present.sum(-1) == 2, extra, 0.0)


def label_smoothing(smoothing: Scalar, classes: int) -> Objective:
    """Cross-entropy with a share `smoothing` of each label spread over all classes; images stay as they are."""

    def objective(model: Any, inputs: tuple[Any, ...], targets: Int[Array, " n"], _: PRNGKeyArray) -> Losses:
        labels = jax.nn.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
        return soft_cross_entropy(model(*inputs), labels)

    return objective


def mixup_label_entropy(classes: int, alpha: float = 1.0) -> float:
    """Mean entropy (nats) of the labels of mixup with ratio from Beta(alpha, alpha) and balanced classes."""
    from scipy import integrate, special, stats

    def weighed(x: float) -> float:
        return float((special.entr(x) + special.entr(1 - x)) * stats.beta.pdf(x, alpha, alpha))

    return integrate.quad(weighed, 0, 1)[0] * (1 - 1 / classes)


def smoothing_of_entropy(entropy: float, classes: int) -> float:
    """The amount of label smoothing whose labels have the given entropy (nats).

    Raises:
        UserError: if the entropy is not between 0 and log(classes).
    """
    from scipy import optimize, special

    if not 0 <= entropy <= np.log(classes):
        raise UserError(f"entropy takes a number from 0 to log({classes}) = {np.log(classes):.3f}, got {entropy}.")

    def excess(smoothing: float) -> float:
        rest = smoothing / classes
        return float(special.entr(1 - smoothing + rest) + (classes - 1) * special.entr(rest)) - entropy

    return optimize.brentq(excess, 0, 1)  # pyright: ignore[reportReturnType]: its one number, without full_output


def attentivemix_objective(classes: int, *, stage: int = 1, alpha: float = 1.0) -> Objective:
    """`attentivemix` by the mean activation of the trained network's own feature maps after `stage` convolutions
    (the official code asks a second, pretrained network)."""

    def objective(model: ConvNet, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        attention = jax.lax.stop_gradient(model.maps(images, stage).mean(-1))
        mixed = attentivemix(key, images, jax.nn.one_hot(targets, classes), attention, alpha=alpha)
        return soft_cross_entropy(model(mixed.images), mixed.labels)

    return objective


def puzzlemix_objective(classes: int, *, alpha: float = 1.0, blocks: int = 7) -> Objective:
    """`puzzlemix` by the absolute gradient of the trained network's own loss: one more pass forth and back."""

    def objective(model: Any, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        labels = jax.nn.one_hot(targets, classes)
        still = jax.lax.stop_gradient(model)
        gradient = jax.grad(lambda x: soft_cross_entropy(still(x), labels).sum())(images)
        mixed = puzzlemix(key, images, labels, jnp.abs(gradient), alpha=alpha, blocks=blocks)
        return soft_cross_entropy(model(mixed.images), mixed.labels)

    return objective


def manifold_mixup(classes: int, *, alpha: float = 2.0) -> Objective:
    """Mixup after a random number of stages of a `ConvNet`, none included; one draw a batch.

    All depths are computed and one is kept, so that the draw may differ between members of a population.

    Source: Verma et al. (2019, arXiv 1806.05236), section 2.
    """

    def objective(model: ConvNet, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        depth_key, key = jax.random.split(key)
        labels = jax.nn.one_hot(targets, classes)
        other = pair(key, images, labels, alpha)
        order = jax.random.permutation(jax.random.split(key, 3)[0], len(images))
        depth = jax.random.randint(depth_key, (), 0, model.stages + 1)
        maps = model.maps(images, 0)
        for stage in range(model.stages + 1):
            maps = model.stage(stage - 1, maps) if stage else maps
            mixed = other.ratio * maps + (1 - other.ratio) * maps[order]
            maps = jnp.where(depth == stage, mixed, maps)
        soft = other.ratio * labels + (1 - other.ratio) * other.labels
        return soft_cross_entropy(model.read(maps), soft)

    return objective


def alignmix(classes: int, *, stage: int = 1, alpha: float = 2.0) -> Objective:
    """Mixup of the feature maps after `stage` convolutions, once their positions are matched by optimal transport.

    The official toolbox aligns the last maps. What follows there is the mean over positions, and moving mass
    between positions does not change a mean: the method would be mixup of pooled features. Hence an earlier stage.

    Source: Venkataramanan et al. (2022, arXiv 2103.15375), section 3.
    """

    def objective(model: ConvNet, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        side_key, key = jax.random.split(key)
        labels = jax.nn.one_hot(targets, classes)
        other = pair(key, images, labels, alpha)
        order = jax.random.permutation(jax.random.split(key, 3)[0], len(images))
        maps = model.maps(images, stage)
        mixed = aligned(maps, maps[order], other.ratio, jax.random.bernoulli(side_key))
        soft = other.ratio * labels + (1 - other.ratio) * other.labels
        return soft_cross_entropy(model.read(mixed, stage), soft)

    return objective


def decoupled_objective(classes: int, *, alpha: float = 1.0, weight: float = 0.1) -> Objective:
    """`mixup` with the `decoupled_mixup` loss."""
    return mixing_objective(
        lambda key, images, labels: mixup(key, images, labels, alpha=alpha),
        classes,
        lambda logits, labels: decoupled_mixup(logits, labels, weight=weight),
    )


class AutoMixNet(eqx.Module):
    """A `ConvNet` with the module that learns masks for its training; it is called as the network alone.

    Attributes:
        net: the network.
        query: 1x1 projection of its feature maps, shared by query and key.
        value: 1x1 projection to one number a position.
        stage: number of convolutions before the maps.
    """

    net: ConvNet
    query: Float[Array, "channels inner"]
    value: Float[Array, " channels"]
    stage: int = eqx.field(static=True)

    def __init__(self, net: ConvNet, *, stage: int = 1, key: PRNGKeyArray) -> None:
        channels = net.biases[stage - 1].shape[0]
        a, b = jax.random.split(key)
        inner = max(channels // 2, 1)
        self.net, self.stage = net, stage
        self.query = jax.random.normal(a, (channels, inner)) / jnp.sqrt(channels)
        self.value = 0.01 * jax.random.normal(b, (channels,))

    def __call__(self, images: Float[Array, "batch height width *channels"]) -> Float[Array, "batch outputs"]:
        """Outputs of the network."""
        return self.net(images)

    def mask(
        self, maps: Float[Array, "n rows columns c"], other: Float[Array, "n rows columns c"], ratio: Scalar
    ) -> Float[Array, "n rows columns"]:
        """Share of the first image at each position: attention of its positions over the second image's."""
        n, rows, columns, width = maps.shape
        first, second = (x.reshape(n, -1, width) for x in (maps * ratio, other * (1 - ratio)))
        query, key = first @ self.query, second @ self.query
        weights = jax.nn.softmax(query @ key.swapaxes(1, 2) / jnp.sqrt(query.shape[-1]), axis=-1)
        return 1 - jax.nn.sigmoid((weights @ (second @ self.value)[..., None])[..., 0]).reshape(n, rows, columns)


def automix(classes: int, *, alpha: float = 2.0, area: float = 0.1, margin: float = 0.1) -> Objective:
    """Masks by a module that is trained to make mixtures which the network classifies well.

    Three losses: of the network on plain images, of the network on mixtures whose mask does not pass gradients, and of
    the module on mixtures seen through a network that does not learn from them; plus the mask's distance from its
    ratio beyond a margin. The network of this very update stands in for the official momentum average.

    Source: Liu et al. (2022, arXiv 2103.13027), section 4; weights of the official settings for small images, but for
    the ratio, which scales the feature maps as in its successor SAMix.
    """

    def objective(model: AutoMixNet, inputs: tuple[Any, ...], targets: Int[Array, " n"], key: PRNGKeyArray) -> Losses:
        (images,) = inputs
        labels = jax.nn.one_hot(targets, classes)
        still = jax.lax.stop_gradient(model.net)
        maps = still.maps(images, model.stage)

        def mixture(key: PRNGKeyArray, block: AutoMixNet) -> tuple[Images, Labels, Losses]:
            other = pair(key, images, labels, alpha)
            order = jax.random.permutation(jax.random.split(key, 3)[0], len(images))
            mask = block.mask(maps, maps[order], other.ratio)
            cells = (images.shape[1] // mask.shape[1], images.shape[2] // mask.shape[2])
            wide = jnp.repeat(jnp.repeat(mask, cells[0], 1), cells[1], 2)
            off = jnp.maximum(jnp.abs(mask.mean((1, 2)) - other.ratio) - margin, 0.0)
            soft = other.ratio * labels + (1 - other.ratio) * other.labels
            return wide * images + (1 - wide) * other.images, soft, off

        for_block, for_net = jax.random.split(key)
        shown, soft, off = mixture(for_block, model)
        block_loss = soft_cross_entropy(still(shown), soft) + area * off
        shown, soft, _ = mixture(for_net, jax.lax.stop_gradient(model))
        return soft_cross_entropy(model(images), labels) + soft_cross_entropy(model(shown), soft) + block_loss

    return objective
