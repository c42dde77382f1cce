"""Sub-networks chosen by what a task is called: sparse codes of sentence embeddings as masks over neurons."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Scalar = float | Float[Array, ""]
Switch = bool | Scalar | Bool[Array, ""]


def lasso(
    dictionary: Float[Array, "atoms features"],
    target: Float[Array, " features"],
    penalty: Scalar = 1e-3,
    steps: int = 300,
) -> Float[Array, " atoms"]:
    """The sparse code that minimises `0.5 |target - code @ dictionary|^2 + penalty |code|_1`, by FISTA.

    The momentum begins anew whenever it points uphill. scikit-learn's `Lasso` means the same by
    `alpha = penalty / features`.

    Source: Beck and Teboulle (2009), algorithm with constant step size; O'Donoghue and Candes (2015) for the restart.
    """
    gram, aim = dictionary @ dictionary.T, dictionary @ target
    # Both norms bound the largest eigenvalue.
    bound = jnp.minimum(jnp.abs(gram).sum(1).max(), jnp.sqrt(jnp.square(gram).sum()))
    size = 1 / jnp.maximum(bound, 1e-12)

    def step(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        code, ahead, momentum = carry
        free = ahead - size * (gram @ ahead - aim)
        new = jnp.sign(free) * jnp.maximum(jnp.abs(free) - size * penalty, 0.0)
        momentum = jnp.where(jnp.dot(ahead - new, new - code) > 0, 1.0, momentum)
        after = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return (new, new + (momentum - 1) / after * (new - code), after), None

    start = jnp.zeros(dictionary.shape[0])
    return jax.lax.scan(step, (start, start, jnp.ones(())), None, steps)[0][0]


def step_mask(code: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 where the code is positive, else 0; its derivative is taken to be 1 between 0 and 1, else 0.

    So gradients may lower or raise the code of a neuron that is on, and switch it off, but not switch one on.

    Source: Yang et al. (2023), as in their code.
    """
    inside = jnp.where((code > 0) & (code < 1), code, 0.0)
    return (code > 0).astype(code.dtype) + (inside - jax.lax.stop_gradient(inside))


class SparsePrompt(eqx.Module):
    """Says which neurons a task uses: a Lasso code of its sentence embedding over a dictionary of each layer.

    Neuron j of a layer belongs to atom j of the layer's dictionary, and is on where the code is positive.

    Example:
        >>> prompt = SparsePrompt.random(jax.random.key(0), layers=2, width=16, features=8)
        >>> code = prompt.code(jnp.ones(8) / jnp.sqrt(8))
        >>> step_mask(code).shape
        (2, 16)

    Attributes:
        dictionaries: an atom a row, none longer than 1, for each layer.
        penalty: weight of the code's absolute values; the larger, the fewer neurons.

    Source: Yang et al. (2023), sparse prompting.
    """

    dictionaries: Float[Array, "layers width features"]
    penalty: Scalar = 1e-3

    @classmethod
    def random(
        cls, key: Key[Array, ""], *, layers: int, width: int, features: int, penalty: Scalar = 1e-3
    ) -> SparsePrompt:
        """With atoms of length 1 in directions drawn at random."""
        drawn = jax.random.normal(key, (layers, width, features))
        return cls(drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True), penalty)

    def code(self, embedding: Float[Array, " features"]) -> Float[Array, "layers width"]:
        """The sparse code of a sentence for each layer."""
        return jax.vmap(lambda atoms: lasso(atoms, embedding, self.penalty))(self.dictionaries)


class DictionaryUpdate(eqx.Module):
    """Online dictionary learning: after each task, atoms move so that its code rebuilds its embedding, and those of
    all earlier tasks.

    Attributes:
        gram: sum over tasks of code x code.
        cross: sum over tasks of code x embedding.
        resample: whether an atom that no code has used becomes the embedding with as much noise, as the authors' code
            has it, or stays.

    Source: Mairal et al. (2009), algorithm 2: one round of block coordinate descent over the atoms, each kept in the
        unit ball; Yang et al. (2023) for its use, and for codes that training has changed.
    """

    gram: Float[Array, "layers width width"]
    cross: Float[Array, "layers width features"]
    resample: Switch = False

    @classmethod
    def start(cls, layers: int, width: int, features: int, resample: Switch = False) -> DictionaryUpdate:
        """Before the first task."""
        return cls(jnp.zeros((layers, width, width)), jnp.zeros((layers, width, features)), resample)

    def __call__(
        self,
        prompt: SparsePrompt,
        code: Float[Array, "layers width"],
        embedding: Float[Array, " features"],
        key: Key[Array, ""],
    ) -> tuple[SparsePrompt, DictionaryUpdate]:
        """The dictionaries after a task, and what is remembered for the next one.

        Args:
            code: the task's, as it was when its training ended.
            key: for atoms that are drawn anew.
        """
        gram = self.gram + code[:, :, None] * code[:, None, :]
        cross = self.cross + code[:, :, None] * embedding
        keys = jax.random.split(key, code.shape[0])
        resample = jnp.asarray(self.resample, bool)

        def of_layer(atoms: Array, gram: Array, cross: Array, key: Array) -> Array:
            noise = jnp.std(embedding) * jax.random.normal(key, atoms.shape)

            def move(atoms: Array, k: Array) -> tuple[Array, None]:
                known = gram[k, k] > 1e-6
                better = atoms[k] + (cross[k] - gram[k] @ atoms) / jnp.where(known, gram[k, k], 1.0)
                atom = jnp.where(known, better, jnp.where(resample, embedding + noise[k], atoms[k]))
                return atoms.at[k].set(atom / jnp.maximum(jnp.linalg.norm(atom), 1.0)), None

            return jax.lax.scan(move, atoms, jnp.arange(atoms.shape[0]))[0]

        atoms = jax.vmap(of_layer)(prompt.dictionaries, gram, cross, keys)
        return SparsePrompt(atoms, prompt.penalty), DictionaryUpdate(gram, cross, self.resample)
