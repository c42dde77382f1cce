"""Swimmers made of the same named links, some of which are missing."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unseen.lab import UserError, artifact
from unseen.worlds.control.embodiments import find_gaits
from unseen.worlds.control.gaits import Bodies, GaitExpert
from unseen.worlds.control.swimmer import JOINTS, LINKS, Swimmer

_PLAN = ("length", "ratio", "gear", "present")


def limb_sets(
    count: int = 24, held_out: int = 8, *, least: float = 0.3, steps: int = 100, seed: int = 0
) -> tuple[Bodies, Bodies]:
    """Bodies that are subsets of seven named links: some to train on, and other combinations of the same links.

    A link has a length (0.5 to 1.5), a drag ratio (1.5 to 4) and a gear of its own, the same in every body that has
    it. All bodies have the head, two or more other links, and a reference gait (`find_gaits`) that moves them by
    `least` body lengths. Which are held out is drawn at random, among draws in which every link occurs in two
    training bodies or more: what is unseen is the combination, never a link.

    Axes: which links are there.

    Args:
        count: bodies in all, at most 57.
        held_out: how many of them are not for training.
        least: body lengths in `steps` steps, from a straight start.
        steps: of the gait's episode.
        seed: of links, bodies and split.

    Returns:
        Training and held-out bodies; the gaits of all 57 are kept as an artifact.

    Raises:
        UserError: if so many such bodies do not exist, or too many are held out for every link to be trained.

    Source: the construction of the benchmark of Trabucco et al. (2022), section 5 (after Huang et al., 2020): bodies
        with limbs removed.
    """
    if not 0 < held_out < count:
        raise UserError(f"held_out takes a number from 1 to {count - 1}, got {held_out}.")
    kept = artifact(_all_subsets, dict(steps=steps, seed=seed))
    able = np.flatnonzero(np.asarray(kept["distance"]) >= least)
    if len(able) < count:
        raise UserError(f"count takes at most the {len(able)} bodies that swim {least:g} body lengths, got {count}.")
    rng = np.random.default_rng(seed)
    for _ in range(1_000):
        chosen = rng.permutation(able)[:count]
        if np.asarray(kept["present"])[chosen[: count - held_out]].sum(0).min() >= 2:
            break
    else:
        raise UserError(f"held_out takes fewer bodies, so that each link is in two of the others; got {held_out}.")
    swimmers = Swimmer(**{name: jnp.asarray(kept[name]) for name in _PLAN})
    experts = GaitExpert(jnp.asarray(kept["amplitude"]), jnp.asarray(kept["lag"]))
    found = Bodies(swimmers, experts, jnp.asarray(kept["distance"]))[jnp.asarray(chosen)]
    return found[: count - held_out], found[count - held_out :]


def _all_subsets(steps: int, seed: int) -> dict[str, Any]:
    size, drag, turn, search = jax.random.split(jax.random.key(seed), 4)
    length = jax.random.uniform(size, (LINKS,), minval=0.5, maxval=1.5)
    ratio = jax.random.uniform(drag, (LINKS,), minval=1.5, maxval=4.0)
    gear = jnp.where(jax.random.bernoulli(turn, 0.5, (JOINTS,)), 1.0, -1.0)
    present = jnp.asarray([(True, *rest) for rest in itertools.product((False, True), repeat=JOINTS) if sum(rest) > 1])
    n = len(present)
    swimmers = Swimmer(
        length * present, jnp.broadcast_to(ratio, (n, LINKS)), jnp.broadcast_to(gear, (n, JOINTS)), present
    )
    bodies = find_gaits(search, swimmers, steps=steps)
    return {**{name: getattr(swimmers, name) for name in _PLAN}, "amplitude": bodies.experts.amplitude,
            "lag": bodies.experts.lag, "distance": bodies.distance}  # fmt: skip
