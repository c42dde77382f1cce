"""How augmentation brings examples of one class together, and what that bounds (Huang et al., 2021)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unseen.measures.readouts import NearestCentre

Scalar = float | Float[Array, ""]


class ClosestViews(NamedTuple):
    """The two nearest views of any two examples.

    Attributes:
        distance: between them, the augmented distance d_A.
        embedded: distance of their embeddings.
    """

    distance: Float[Array, "n n"]
    embedded: Float[Array, "n n"]


def closest_views(
    views: Float[Array, "n views pixels"], embedded: Float[Array, "n views width"] | None = None
) -> ClosestViews:
    """Augmented distances: the least distance of any view of one example from any view of the other.

    Source: Huang et al. (2021, arXiv 2111.00743), section 2: d_A(x, y) = min |x' - y'| over x' in A(x), y' in A(y).
    The paper's A(x) contains x: let one of the views be the example itself.

    Args:
        views: of each example, flattened.
        embedded: their embeddings; without them the second distance is that of the views.
    """
    embedded = views if embedded is None else embedded
    n, count = views.shape[:2]

    def squared(x: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, "n n"]:
        lengths = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)
        return jnp.maximum(lengths - 2 * x @ y.T, 0.0)

    def nearer(best: ClosestViews, pair: Int[Array, ""]) -> tuple[ClosestViews, None]:
        i, j = pair // count, pair % count
        distance, image = squared(views[:, i], views[:, j]), squared(embedded[:, i], embedded[:, j])
        better = distance < best.distance
        return ClosestViews(*(jnp.where(better, x, y) for x, y in zip((distance, image), best, strict=True))), None

    start = ClosestViews(jnp.full((n, n), jnp.inf), jnp.zeros((n, n)))
    best, _ = jax.lax.scan(nearer, start, jnp.arange(count**2))
    return ClosestViews(*map(jnp.sqrt, best))


class Concentration(NamedTuple):
    """What an augmentation does to classes at one distance.

    Attributes:
        sigma: the share of every class that its main part has at least.
        main: examples in their class's main part, all pairwise within the distance.
    """

    sigma: Float[Array, ""]
    main: Bool[Array, " n"]


def augmentation_concentration(
    distance: Float[Array, "n n"], labels: Int[Array, " n"], classes: int, delta: Scalar
) -> Concentration:
    """(sigma, delta) of an augmentation: in every class a share sigma of examples lies pairwise within delta.

    The largest such part of a class is a maximum clique, which is dear to find; here examples with the most
    conflicts (same class, farther than delta) are removed one after the other until none is left. The main part is
    thus a true one, and sigma a lower bound. Classes without examples do not count.

    Source: Huang et al. (2021, arXiv 2111.00743), definition 1.

    Args:
        distance: augmented distances, see `closest_views`.
    """
    members = labels == jnp.arange(classes)[:, None]
    conflicts = ((labels[:, None] == labels) & (distance > delta)).astype(jnp.float32)

    def worst(alive: Float[Array, " n"]) -> Float[Array, " n"]:
        return (conflicts @ alive) * alive

    def remove(alive: Float[Array, " n"]) -> Float[Array, " n"]:
        found = jnp.where(members, worst(alive), 0.0)  # one example of every class that has conflicts
        removed = jax.nn.one_hot(found.argmax(1), alive.shape[0]) * (found.max(1) > 0)[:, None]
        return alive - removed.sum(0)

    alive = jax.lax.while_loop(lambda alive: worst(alive).any(), remove, jnp.ones(labels.shape))
    sizes = members.sum(1)
    shares = jnp.where(sizes > 0, members @ alive / jnp.maximum(sizes, 1), 1.0)
    return Concentration(shares.min(), alive > 0)


class ErrorBound(NamedTuple):
    """What the theorem says of one encoder at one (delta, epsilon).

    Attributes:
        bound: 1 - sigma + R, on the error of the nearest-centre rule.
        met: whether the centres are as far apart as the theorem demands.
        direct: whether its conclusion holds example by example: the rule is right on every well-aligned example
            of a main part, which is all that the bound needs.
        poor: R, the share of examples with two views farther than epsilon apart.
        error: of the nearest-centre rule on the examples themselves.
    """

    bound: Float[Array, ""]
    met: Bool[Array, ""]
    direct: Bool[Array, ""]
    poor: Float[Array, ""]
    error: Float[Array, ""]


def contrastive_error_bound(
    embedded: Float[Array, "n views width"],
    labels: Int[Array, " n"],
    classes: int,
    concentration: Concentration,
    stretch: Float[Array, "n n"],
    epsilon: Scalar,
) -> ErrorBound:
    """The bound on downstream error and its condition, evaluated on a sample.

    With unit-length embeddings, class centres mu and shares p, the condition on every two classes is
    mu_k . mu_l < 1 - rho - sqrt(2 rho) - Delta / 2, where Delta = 1 - min |mu_k|^2 and
    rho = 2 (1 - sigma) + 2 R / p + (sigma - R / p) (L delta + 2 epsilon), for the rarer class. The Lipschitz
    constant enters through L delta only, which bounds how far apart closest views of main-part examples are
    embedded: that largest distance itself is put in its place, the least value for which the proof holds here.
    Views are a sample of all views, so R is estimated from below.

    Source: Huang et al. (2021, arXiv 2111.00743), theorem 1 and the two lemmas before it; constants as the proof
    gives them.

    Args:
        embedded: unit-length embeddings of the views of each example, the example itself first.
        concentration: main parts at some delta.
        stretch: embedded distances of closest views, see `closest_views`.
        epsilon: distance within which an example's views count as aligned.
    """
    rule = NearestCentre.fit(embedded.mean(1), labels, classes)
    spread = jnp.sqrt(jnp.maximum(2 - 2 * jnp.einsum("nvw,nuw->nvu", embedded, embedded), 0.0)).max((1, 2))
    aligned = spread <= epsilon
    poor = 1 - aligned.mean()
    sizes = (labels == jnp.arange(classes)[:, None]).mean(1)
    lost = poor / jnp.maximum(sizes, 1e-12).min()
    main = concentration.main
    together = (labels[:, None] == labels) & main[:, None] & main
    reach = jnp.where(together, stretch, 0.0).max() + 2 * epsilon
    rho = 2 * (1 - concentration.sigma) + 2 * lost + jnp.maximum(concentration.sigma - lost, 0.0) * reach
    products = rule.centres @ rule.centres.T
    closest = jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, products).max()
    needed = 1 - rho - jnp.sqrt(2 * rho) - (1 - jnp.diagonal(products).min()) / 2
    right = rule(embedded[:, 0]) == labels
    return ErrorBound(
        bound=1 - concentration.sigma + poor,
        met=closest < needed,
        direct=(right | ~(main & aligned)).all(),
        poor=poor,
        error=1 - right.mean(),
    )
