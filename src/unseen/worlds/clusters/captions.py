"""Inputs, captions and labels of which no input is ever paired with its label."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import UserError

Scalar = float | Float[Array, ""]
Size = int | Float[Array, ""]


class CaptionTriples(eqx.Module):
    """A finite world of inputs X, captions Z and labels Y, and the law of the prompts that stand for a label.

    Pre-training sees pairs (X, Z), prompting sees captions drawn for a label; no one sees (X, Y). All
    probabilities are known, so that every risk is a finite sum.

    Axes: what a caption leaves unsaid (`dependence` of X and Y given Z), how false the prompts are
    (`distortion`), and the sizes of the samples.

    Example:
        >>> world = CaptionTriples.random(key, dependence=0.1, distortion=0.0)
        >>> pairs = world.pairs(pair_key, 1_000)

    Attributes:
        joint: P(x, z, y).
        prompts: Q(z | y), the law of the captions that are written for a label; faithful if it is P(z | y).
    """

    joint: Float[Array, "inputs captions labels"]
    prompts: Float[Array, "labels captions"]

    @classmethod
    def random(
        cls,
        key: PRNGKeyArray,
        *,
        inputs: int = 40,
        captions: int = 20,
        labels: int = 4,
        dependence: Scalar = 0.0,
        distortion: Scalar = 0.0,
    ) -> CaptionTriples:
        """A random world with a stated dependence of inputs and labels given the caption.

        Given z the joint of x and y is the mixture `(1 - t) P(x|z) P(y|z) + t C_z(x, y)`, where C_z pairs the
        inputs in one order (the same for all captions: a trait of the input that captions never mention)
        with the labels in theirs. Margins given z do not depend on t, and the mean-square contingency is
        t^2 times that of C_z, so that t is chosen to hit `dependence` exactly.

        Args:
            dependence: mean-square contingency of X and Y given Z, averaged over Z; from 0 to about 2 with 4 labels.
            distortion: share of the prompts of a label that follow another, random law of captions, in [0, 1].

        Raises:
            UserError: on a negative dependence or a distortion outside of [0, 1] (where they are numbers).
        """
        if isinstance(dependence, int | float) and dependence < 0:
            raise UserError(f"dependence takes a number from 0 on, got {dependence}.")
        if isinstance(distortion, int | float) and not 0 <= distortion <= 1:
            raise UserError(f"distortion takes a number from 0 to 1, got {distortion}.")
        caption_key, input_key, label_key, order_key, false_key = jax.random.split(key, 5)
        of_caption = jax.random.dirichlet(caption_key, jnp.full(captions, 2.0))
        given_caption = jax.random.dirichlet(input_key, jnp.full(inputs, 0.1), (captions,))
        given_caption = jax.random.permutation(order_key, given_caption, axis=1)
        labels_given = jax.random.dirichlet(label_key, jnp.full(labels, 0.5), (captions,))
        # A floor keeps every contingency finite.
        given_caption, labels_given = (0.99 * p + 0.01 / p.shape[1] for p in (given_caption, labels_given))

        independent = given_caption[:, :, None] * labels_given[:, None, :]
        coupled = jax.vmap(_comonotone)(given_caption, labels_given)
        full = of_caption @ jnp.sum((coupled - independent) ** 2 / independent, axis=(1, 2))
        share = jnp.minimum(jnp.sqrt(dependence / full), 1.0)
        joint = of_caption[:, None, None] * ((1 - share) * independent + share * coupled)
        world = cls(jnp.moveaxis(joint, 0, 1), jnp.zeros((labels, captions)))
        false = jax.random.dirichlet(false_key, jnp.ones(captions), (labels,))
        faithful = world.faithful_prompts
        return eqx.tree_at(lambda w: w.prompts, world, (1 - distortion) * faithful + distortion * false)

    @property
    def label_prior(self) -> Float[Array, " labels"]:
        """P(y)."""
        return self.joint.sum((0, 1))

    @property
    def pair_law(self) -> Float[Array, "inputs captions"]:
        """P(x, z), what pre-training samples."""
        return self.joint.sum(2)

    @property
    def faithful_prompts(self) -> Float[Array, "labels captions"]:
        """P(z | y)."""
        labelled = self.joint.sum(0).T
        return labelled / labelled.sum(1, keepdims=True)

    @property
    def bayes(self) -> Float[Array, "inputs labels"]:
        """P(y | x): the best prediction there is."""
        labelled = self.joint.sum(1)
        return labelled / labelled.sum(1, keepdims=True)

    def pairs(self, key: PRNGKeyArray, count: Size) -> Float[Array, "inputs captions"]:
        """How often each (x, z) is among `count` pre-training pairs."""
        return _counts(key, count, self.pair_law)

    def labelled(self, key: PRNGKeyArray, count: Size) -> Float[Array, "inputs labels"]:
        """How often each (x, y) is among `count` labelled examples: what a supervised control may see."""
        return _counts(key, count, self.joint.sum(1))

    def prompted(self, key: PRNGKeyArray, count: Size) -> Float[Array, "labels captions"]:
        """How often each caption is among `count` prompts a label."""
        keys = jax.random.split(key, len(self.prompts))
        return jax.vmap(lambda k, law: _counts(k, count, law))(keys, self.prompts)

    def excess_risk(self, predicted: Float[Array, "inputs labels"]) -> Float[Array, ""]:
        """Squared error of predicted label probabilities beyond that of the Bayes rule: E|p(X) - P(.|X)|^2."""
        return self.distance(predicted, self.bayes)

    def distance(self, a: Float[Array, "inputs labels"], b: Float[Array, "inputs labels"]) -> Float[Array, ""]:
        """E|a(X) - b(X)|^2 between two predictors."""
        return self.pair_law.sum(1) @ jnp.sum((a - b) ** 2, axis=1)


def _comonotone(first: Float[Array, " a"], second: Float[Array, " b"]) -> Float[Array, "a b"]:
    """The joint law with these margins under which both rise together."""
    above = jnp.minimum(jnp.cumsum(first)[:, None], jnp.cumsum(second))
    below = jnp.maximum((jnp.cumsum(first) - first)[:, None], jnp.cumsum(second) - second)
    return jnp.maximum(above - below, 0.0)


def _counts(key: PRNGKeyArray, count: Size, law: Float[Array, "..."]) -> Float[Array, "..."]:
    """A multinomial sample of `count` draws: the number of each outcome."""
    drawn = jax.random.multinomial(key, jnp.asarray(count, law.dtype), law.ravel())
    return drawn.reshape(law.shape).astype(law.dtype)
