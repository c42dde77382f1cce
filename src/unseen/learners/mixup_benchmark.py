"""Ways of mixing training images on equal terms: one network, one budget, accuracy beside time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Learner, UserError
from unseen.learners.classifier import Examples, accuracy, classifier, cross_entropy, weighted_mean
from unseen.methods.augment import Augment
from unseen.methods.mixing import (
    AutoMixNet,
    alignmix,
    attentivemix_objective,
    automix,
    cutmix,
    decoupled_objective,
    fmix,
    gridmix,
    label_smoothing,
    manifold_mixup,
    mixing_objective,
    mixup,
    mixup_label_entropy,
    puzzlemix_objective,
    resizemix,
    saliencymix,
    smoothing_of_entropy,
    smoothmix,
)
from unseen.methods.mixing.objectives import Objective
from unseen.models.conv_net import ConvNet

STATIC_INPUT = ("mixup", "cutmix", "resizemix", "fmix", "gridmix", "smoothmix")
STATIC = (*STATIC_INPUT, "manifold_mixup", "decoupled_mixup")
GUIDED = ("saliencymix", "attentivemix", "puzzlemix", "alignmix", "automix")
CONTROLS = ("none", "label_smoothing")
POLICIES = (*CONTROLS, *STATIC, *GUIDED)


def _objectives(classes: int) -> dict[str, Callable[[], Objective]]:
    """Every policy at the official toolbox's settings for small images."""
    recipes = {
        "mixup": mixup,
        "cutmix": cutmix,
        "resizemix": resizemix,
        "fmix": fmix,
        "gridmix": gridmix,
        "smoothmix": smoothmix,
        "saliencymix": saliencymix,
    }
    return {
        **{name: lambda mix=mix: mixing_objective(mix, classes) for name, mix in recipes.items()},
        "none": lambda: lambda model, inputs, targets, _: cross_entropy(model(*inputs), targets),
        "label_smoothing": lambda: label_smoothing(
            smoothing_of_entropy(mixup_label_entropy(classes), classes), classes
        ),
        "manifold_mixup": lambda: manifold_mixup(classes),
        "decoupled_mixup": lambda: decoupled_objective(classes),
        "attentivemix": lambda: attentivemix_objective(classes),
        "puzzlemix": lambda: puzzlemix_objective(classes),
        "alignmix": lambda: alignmix(classes),
        "automix": lambda: automix(classes),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixupBenchmark:
    """Shared settings under which policies of mixing are compared.

    All policies get the same `ConvNet`, the same batches and the same number of updates of Adam under a cosine
    schedule; `none` and `label_smoothing`, whose labels are as soft as mixup's on average, are the controls.

    Example:
        >>> benchmark = MixupBenchmark(epochs=40, images=500)
        >>> learner = benchmark.learner("cutmix", data)

    Attributes:
        images, epochs, batch_size: training images, passes over them, images in an update.
        widths: channels of the network's stages; images are 14x14, or a multiple of twice their first map.
        learning_rate: highest of the schedule.
        classes: number of classes.
        occlusion: strength of the black square on the occluded test images.

    Raises:
        UserError: if no whole batch fits into the training images.
    """

    images: int = 500
    epochs: int = 40
    batch_size: int = 50
    widths: tuple[int, ...] = (16, 32)
    learning_rate: float = 3e-3
    classes: int = 10
    occlusion: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= self.images:
            raise UserError(f"batch_size takes a whole number from 1 to {self.images}, got {self.batch_size}.")

    @property
    def updates_an_epoch(self) -> int:
        """Whole batches in the training images."""
        return self.images // self.batch_size

    def learner(self, policy: str, data: Examples | Callable[[PRNGKeyArray], Examples], *, every: int = 10) -> Learner:
        """Training under one policy.

        Measured beside what `classifier` does: occluded_accuracy, at the end.

        Args:
            policy: one of `POLICIES`.
            data: with `images` training images and a `key`, as `LabelledImages`.
            every: epochs between two evaluations.

        Raises:
            UserError: on an unknown policy.
        """
        known = _objectives(self.classes)
        if policy not in known:
            raise UserError(f"policy takes one of {', '.join(POLICIES)}, got {policy!r}.")
        steps = self.epochs * self.updates_an_epoch
        occlude = Augment(occlude=self.occlusion)

        def network(key: PRNGKeyArray) -> ConvNet | AutoMixNet:
            net_key, block_key = jax.random.split(key)
            net = ConvNet(self.classes, widths=self.widths, key=net_key)
            return AutoMixNet(net, key=block_key) if policy == "automix" else net

        def final(model: Any, data: Any) -> dict[str, Array]:
            right = accuracy(model(occlude(data.key, *data.inputs)), data.labels)
            return {"occluded_accuracy": weighted_mean(right, data.test)}

        return classifier(
            network,
            data,
            optax.adam(optax.cosine_decay_schedule(self.learning_rate, steps)),
            steps=steps,
            every=every * self.updates_an_epoch,
            batch_size=self.batch_size,
            epoch=self.images,
            objective=known[policy](),
            final=final,
        )

    def step_times(
        self,
        policies: Sequence[str],
        data: Examples | Callable[[PRNGKeyArray], Examples],
        key: PRNGKeyArray,
        *,
        repeats: int = 5,
        epochs: int = 2,
    ) -> Float[np.ndarray, "policies repeats"]:
        """Seconds an update of one network takes, compiled and warmed up, policies taking turns.

        Args:
            key: of the network and the data.
            repeats: rounds over all policies.
            epochs: in one measurement, which is divided by their number of updates.
        """
        runs = []
        for policy in policies:
            learner = dataclasses.replace(self, epochs=epochs).learner(policy, data, every=epochs)
            advance, state = eqx.filter_jit(learner.advance), learner.init(key)
            jax.block_until_ready(eqx.filter(advance(state), eqx.is_array))
            runs.append((advance, state))
        seconds = np.zeros((len(runs), repeats))
        for repeat in range(repeats):
            for i, (advance, state) in enumerate(runs):
                start = time.perf_counter()
                jax.block_until_ready(eqx.filter(advance(state), eqx.is_array))
                seconds[i, repeat] = time.perf_counter() - start
        return seconds / (epochs * self.updates_an_epoch)
