"""Mixing images where they are salient: by the image itself, by a network's features or by its gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.methods.mixing.static import Images, Labels, Mixed, Scalar, blend, box, pair

Grid = Float[Array, "n rows columns"]


def fine_grained_saliency(images: Images, *, scales: tuple[int, ...] = (1, 2, 3)) -> Images:
    """How much each pixel differs from the mean of the square around it, summed over square sizes.

    Source: the centre-surround differences of Montabone and Soto (2010), which the official SaliencyMix takes from
    OpenCV.

    Args:
        scales: half side of the squares, in pixels.
    """

    def near(length: int, reach: int) -> Float[Array, "length length"]:
        within = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length)) <= reach
        return within / within.sum(1, keepdims=True)

    height, width = images.shape[1:]
    means = [near(height, scale) @ images @ near(width, scale).T for scale in scales]
    return functools.reduce(jnp.add, [jnp.abs(images - mean) for mean in means])


def saliencymix(key: PRNGKeyArray, images: Images, labels: Labels, *, alpha: Scalar = 1.0) -> Mixed:
    """CutMix with the box around the most salient pixel of the second image.

    Source: Uddin et al. (2021, arXiv 2006.01791), section 3.2; every pair has its own box, where the official code
    takes one for the batch.
    """
    other = pair(key, images, labels, alpha)
    _, height, width = images.shape
    peak = fine_grained_saliency(other.images).reshape(len(images), -1).argmax(1)
    inside = box(height, width, jnp.sqrt(1 - other.ratio), (peak // width) * 1.0, (peak % width) * 1.0)
    return blend(images, labels, other, 1 - inside)


def attentivemix(key: PRNGKeyArray, images: Images, labels: Labels, attention: Grid, *, alpha: Scalar = 1.0) -> Mixed:
    """The cells of the first image that a network attends to most, on the background of the second.

    Source: Walawalkar et al. (2020, arXiv 2003.13048); the number of cells follows the ratio, as in the official
    toolbox.

    Args:
        attention: mean activation of each cell of a coarse grid, of any network; its size divides the image's.
    """
    other = pair(key, images, labels, alpha)
    cells = attention.reshape(len(images), -1)
    rank = (cells[:, None, :] > cells[:, :, None]).sum(-1)
    kept = jnp.clip(jnp.floor(cells.shape[1] * other.ratio), 1, cells.shape[1])
    return blend(images, labels, other, enlarge((rank < kept).astype(jnp.float32).reshape(attention.shape), images))


def enlarge(grid: Grid, images: Images) -> Images:
    """A coarse grid as a mask of the images' size: every cell repeated."""
    rows, columns = images.shape[1] // grid.shape[1], images.shape[2] // grid.shape[2]
    return jnp.repeat(jnp.repeat(grid, rows, 1), columns, 2)


def shrink(images: Images, rows: int, columns: int) -> Grid:
    """Means over the cells of a grid."""
    n, height, width = images.shape
    return images.reshape(n, rows, height // rows, columns, width // columns).mean((2, 4))


def puzzlemix(
    key: PRNGKeyArray,
    images: Images,
    labels: Labels,
    saliency: Images,
    *,
    alpha: Scalar = 1.0,
    blocks: int = 7,
    smoothness: float = 1.2,
    local: float = 0.5,
    prior: float = 0.2,
    cost: float = 0.8,
) -> Mixed:
    """Blocks of both images, chosen for saliency and smooth borders, and moved so that salient ones are not lost.

    The mask minimises the paper's energy (saliency that is given up, disagreement of neighbouring blocks, a prior
    towards the ratio) by iterated conditional modes on a chessboard, where the official code cuts graphs with
    alpha-beta swaps: the result is a local minimum. Then each image's blocks are transported to the cells that show
    it, as in the official code.

    Source: Kim et al. (2020, arXiv 2009.06962), equations 3 to 7.

    Args:
        saliency: for each pixel, the size of the loss's gradient with respect to it.
        blocks: along a side; divides the image's size.
        smoothness, local, prior, cost: beta, gamma, eta and the transport cost of the official settings.
    """
    other = pair(key, images, labels, alpha)
    n = len(images)

    def share(x: Images) -> Grid:
        cells = shrink(x, blocks, blocks)
        return cells / jnp.maximum(cells.sum((1, 2), keepdims=True), 1e-12)

    # The permutation again, for the second images' saliency.
    order = jax.random.permutation(jax.random.split(key, 3)[0], n)
    first, second = share(saliency), share(saliency)[order]
    mask = block_mask(
        first,
        second,
        shrink(images, blocks, blocks),
        shrink(other.images, blocks, blocks),
        other.ratio,
        smoothness=smoothness / blocks / 16,
        local=local,
        prior=prior / blocks**2,
    )
    moved = [transport(x, s, m, cost) for x, s, m in ((images, first, mask), (other.images, second, 1 - mask))]
    return blend(moved[0], labels, other._replace(images=moved[1]), enlarge(mask, images))


def block_energy(
    mask: Grid,
    first: Grid,
    second: Grid,
    brightness: Grid,
    other: Grid,
    ratio: Scalar,
    *,
    smoothness: float,
    local: float,
    prior: float,
) -> Float[Array, " n"]:
    """PuzzleMix's energy of a mask of blocks: saliency not shown, plus borders, plus the prior."""
    hidden = ((1 - mask) * first + mask * second).sum((1, 2))
    rate = jnp.clip(jnp.asarray(ratio, jnp.float32), 1e-6, 1 - 1e-6)
    odds = -(mask * jnp.log(rate) + (1 - mask) * jnp.log(1 - rate)).sum((1, 2))
    shown = mask * brightness + (1 - mask) * other
    borders = jnp.zeros(mask.shape[0])
    for axis in (1, 2):
        step = jnp.abs(jnp.diff(mask, axis=axis)) + local * jnp.abs(jnp.diff(shown, axis=axis))
        borders += step.sum((1, 2))
    return hidden + prior * odds + smoothness * borders


def block_mask(
    first: Grid,
    second: Grid,
    brightness: Grid,
    other: Grid,
    ratio: Scalar,
    *,
    smoothness: float,
    local: float,
    prior: float,
    sweeps: int = 4,
) -> Grid:
    """The mask after `sweeps` rounds of setting each block to its better value, given its neighbours.

    Blocks of one colour of a chessboard are no neighbours of each other: half of them move at once, and the energy
    of `block_energy` never rises.
    """
    rows, columns = first.shape[1:]
    colour = (jnp.arange(rows)[:, None] + jnp.arange(columns)) % 2
    rate = jnp.clip(jnp.asarray(ratio, jnp.float32), 1e-6, 1 - 1e-6)
    unary = second - first + prior * (jnp.log(1 - rate) - jnp.log(rate))  # energy of 1 minus energy of 0

    def gain(mask: Grid) -> Grid:
        """Border energy of value 1 minus that of value 0, for every block."""
        shown = mask * brightness + (1 - mask) * other
        total = jnp.zeros_like(mask)
        for axis in (1, 2):
            for step in (1, -1):
                near, seen = (jnp.roll(x, step, axis) for x in (mask, shown))
                inside = jnp.roll(jnp.arange(mask.shape[axis]), step) - jnp.arange(mask.shape[axis]) == -step
                inside = inside.reshape([-1 if a == axis else 1 for a in range(3)])
                change = 1 - 2 * near + local * (jnp.abs(brightness - seen) - jnp.abs(other - seen))
                total += jnp.where(inside, change, 0.0)
        return total

    def sweep(mask: Grid, turn: Array) -> tuple[Grid, None]:
        better = (unary + smoothness * gain(mask) < 0).astype(mask.dtype)
        return jnp.where(colour == turn, better, mask), None

    start = (unary < 0).astype(jnp.float32)
    return jax.lax.scan(sweep, start, jnp.arange(2 * sweeps) % 2)[0]


def transport(images: Images, saliency: Grid, shown: Grid, cost: float) -> Images:
    """Blocks moved to cells that show the image: each goes where saliency shown minus distance is best; where two
    want one cell the better one stays and the other looks on, a few rounds long. Cells without a taker keep what
    they had.

    Source: Kim et al. (2020), algorithm 1.
    """
    n, height, width = images.shape
    rows, columns = saliency.shape[1:]
    y, x = jnp.arange(rows).repeat(columns), jnp.tile(jnp.arange(columns), rows)
    squared = jnp.square(y[:, None] - y) + jnp.square(x[:, None] - x)
    price = cost * squared / (rows - 1) ** 2 - saliency.reshape(n, -1, 1) * (shown.reshape(n, 1, -1) > 0)
    cells = rows * columns

    def settle(price: Array, _: None) -> tuple[Array, Array]:
        wish = jax.nn.one_hot(price.argmin(2), cells)
        winner = jax.nn.one_hot(jnp.where(wish > 0, price, jnp.inf).argmin(1), cells, axis=1)
        won = winner * wish
        return price + (wish - won), won

    _, plans = jax.lax.scan(settle, price, length=max(rows, columns))
    plan = plans[-1]
    plan = plan + jnp.eye(cells) * (1 - plan.sum(1))[:, None, :]  # from block (axis 1) to cell (axis 2)
    bricks = images.reshape(n, rows, height // rows, columns, width // columns).transpose(0, 1, 3, 2, 4)
    moved = jnp.einsum("nij,nik->njk", plan, bricks.reshape(n, cells, -1))
    moved = moved.reshape(n, rows, columns, height // rows, width // columns)
    return moved.transpose(0, 1, 3, 2, 4).reshape(images.shape)
