import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods import (
    activation_gram,
    average,
    fisher_diagonal,
    fisher_weighted,
    regmean,
    regmean_plus_plus,
    sequential_merge,
    task_arithmetic,
)
from unseen.models import FeatureNet, layer_inputs, torch_layer_inputs

KEY = jax.random.key(0)


def nets(count, **sizes):
    build = lambda k: FeatureNet.residual_mlp(12, 3, **{"width": 8, "blocks": 2, **sizes}, key=k)  # noqa: E731
    return [build(k) for k in jax.random.split(KEY, count)]


def batches(count, n=40, width=12):
    return list(jax.random.normal(jax.random.key(1), (count, n, width)) * jnp.linspace(0.2, 2, width))


def grams_of(models, inputs):
    read = [layer_inputs(m, x) for m, x in zip(models, inputs, strict=True)]
    return [{name: activation_gram(a) for name, a in r.items()} for r in read]


def state_dicts(count, shape=(3, 5), seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "fc.weight": rng.normal(size=shape).astype(np.float32),
            "fc.bias": rng.normal(size=shape[0]).astype(np.float32),
        }
        for _ in range(count)
    ]


def same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


MERGES = {
    "average": lambda ms, xs: average(ms),
    "task arithmetic": lambda ms, xs: task_arithmetic(ms[0], ms),
    "fisher": lambda ms, xs: fisher_weighted(
        ms, [fisher_diagonal(lambda m, x: m(x), m, x, KEY) for m, x in zip(ms, xs, strict=True)]
    ),
    "regmean": lambda ms, xs: regmean(ms, grams_of(ms, xs)),
    "regmean++": lambda ms, xs: regmean_plus_plus(ms, xs, layer_inputs, ms[0].stages()),
}


@pytest.mark.parametrize("name", MERGES)
def test_merging_a_model_with_itself_returns_it(name):
    model = nets(1)[0]
    same(MERGES[name]([model] * 3, batches(3)), model, rtol=0, atol=0)


def test_average_and_task_arithmetic_by_hand():
    a, b, base = state_dicts(3)
    merged = average([a, b], weights=[3.0, 1.0])
    np.testing.assert_allclose(merged["fc.weight"], 0.75 * a["fc.weight"] + 0.25 * b["fc.weight"], rtol=1e-5, atol=1e-6)
    merged = task_arithmetic(base, [a, b], scale=0.3)
    by_hand = base["fc.bias"] + 0.3 * (a["fc.bias"] - base["fc.bias"] + b["fc.bias"] - base["fc.bias"])
    np.testing.assert_allclose(merged["fc.bias"], by_hand, rtol=1e-5, atol=1e-6)
    same(task_arithmetic(base, [a, b], scale=0.5), average([a, b]), atol=1e-6)
    same(task_arithmetic(base, [a, b], scale=jnp.array([0.5, 0.0])), average([base, a]), atol=1e-6)


@pytest.mark.parametrize("input_axis", [-1, 0])
def test_regmean_on_linear_models_equals_pooled_least_squares(input_axis):
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(60, 5)) * rng.uniform(0.3, 3, 5) for _ in range(3)]
    ys = [x @ rng.normal(size=(5, 3)) + 0.1 * rng.normal(size=(60, 3)) for x in xs]
    fits = [np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(xs, ys, strict=True)]
    pooled = np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys), rcond=None)[0]
    models = [{"fc": {"weight": jnp.array(np.moveaxis(f, 0, input_axis), jnp.float32)}} for f in fits]
    merged = regmean(models, [{"fc": activation_gram(x)} for x in xs], alpha=1.0, ridge=0.0, input_axis=input_axis)
    np.testing.assert_allclose(np.moveaxis(merged["fc"]["weight"], input_axis, 0), pooled, atol=1e-4)


def test_regmean_by_hand_with_alpha_weights_and_bias():
    models = state_dicts(2)
    rng = np.random.default_rng(1)
    xs = [rng.normal(size=(50, 5)) + i for i in range(2)]
    merged = regmean(models, [{"fc": activation_gram(x)} for x in xs], alpha=0.7, ridge=0.0, weights=[1.0, 2.0])
    left, right = np.zeros((5, 5)), np.zeros((5, 3))
    for share, model, x in zip((1, 2), models, xs, strict=True):
        gram = x.T @ x / 50
        gram = 0.7 * gram + 0.3 * np.diag(np.diag(gram))
        left += share * gram
        right += share * gram @ model["fc.weight"].T
    np.testing.assert_allclose(merged["fc.weight"], np.linalg.solve(left, right).T, atol=2e-5)
    np.testing.assert_allclose(merged["fc.bias"], (models[0]["fc.bias"] + 2 * models[1]["fc.bias"]) / 3, atol=1e-6)


def test_regmean_keeps_the_average_where_no_input_says_anything():
    models = state_dicts(2)
    x = np.random.default_rng(0).normal(size=(30, 5))
    x[:, 2] = 0
    merged = regmean(models, [{"fc": activation_gram(x)}] * 2)
    np.testing.assert_allclose(merged["fc.weight"][:, 2], average(models)["fc.weight"][:, 2], atol=1e-6)
    silent = regmean(models, [{"fc": jnp.zeros((5, 5))}] * 2)
    same(silent, average(models), atol=1e-6)


def test_zero_weight_leaves_a_model_out():
    models, inputs = nets(3), batches(3)
    for merge in (
        lambda ms, xs, **w: regmean(ms, grams_of(ms, xs), **w),
        lambda ms, xs, **w: regmean_plus_plus(ms, xs, layer_inputs, ms[0].stages(), **w),
        lambda ms, xs, **w: average(ms, **w),
    ):
        same(merge(models, inputs, weights=[1.0, 1.0, 0.0]), merge(models[:2], inputs[:2]), atol=2e-5)


def test_regmean_plus_plus_equals_regmean_for_one_layer():
    models = [FeatureNet.mlp(12, 3, widths=(), key=k) for k in jax.random.split(KEY, 3)]
    inputs = batches(3)
    ours = regmean_plus_plus(models, inputs, layer_inputs, models[0].stages())
    same(ours, regmean(models, grams_of(models, inputs)), rtol=0, atol=0)


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_regmean_plus_plus_step_by_step_in_numpy(granularity):
    """One ReLU hidden layer and a residual block of two, by hand in float64."""
    models = [FeatureNet((m.trunk[0], m.trunk[1]), m.heads) for m in nets(2, blocks=1, width=6, hidden=7)]
    inputs = batches(2, n=80)
    stages = models[0].stages() if granularity == "block" else tuple(models[0].linear_layers())
    ours = regmean_plus_plus(models, inputs, layer_inputs, stages, alpha=0.8, ridge=0.0)

    def fit(weights, xs):
        left = right = 0
        for w, x in zip(weights, xs, strict=True):
            gram = x.T @ x / len(x)
            gram = 0.8 * gram + 0.2 * np.diag(np.diag(gram))
            left, right = left + gram, right + gram @ w.T
        return np.linalg.solve(left, right).T

    def normed(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    xs = [np.asarray(x, np.float64) for x in inputs]
    get = lambda path: [np.asarray(path(m), np.float64) for m in models]  # noqa: E731
    embed = fit(get(lambda m: m.trunk[0].linear.weight), xs)
    embed_bias = np.mean(get(lambda m: m.trunk[0].linear.bias), axis=0)
    streams = [x @ embed.T + embed_bias for x in xs]  # out of the merged embedding
    first_in = [normed(s) for s in streams]
    firsts, first_biases = get(lambda m: m.trunk[1].first.weight), get(lambda m: m.trunk[1].first.bias)
    first, first_bias = fit(firsts, first_in), np.mean(first_biases, axis=0)
    if granularity == "block":  # the candidate's own first layer feeds its second
        second_in = [np.maximum(x @ w.T + b, 0) for x, w, b in zip(first_in, firsts, first_biases, strict=True)]
    else:
        second_in = [np.maximum(x @ first.T + first_bias, 0) for x in first_in]
    second = fit(get(lambda m: m.trunk[1].second.weight), second_in)
    second_bias = np.mean(get(lambda m: m.trunk[1].second.bias), axis=0)
    head_in = [
        s + np.maximum(x @ first.T + first_bias, 0) @ second.T + second_bias
        for s, x in zip(streams, first_in, strict=True)
    ]
    head = fit(get(lambda m: m.heads[0].weight), head_in)
    np.testing.assert_allclose(ours.trunk[0].linear.weight, embed, atol=1e-4)
    np.testing.assert_allclose(ours.trunk[1].first.weight, first, atol=1e-4)
    np.testing.assert_allclose(ours.trunk[1].second.weight, second, atol=2e-4)
    np.testing.assert_allclose(ours.heads[0].weight, head, atol=2e-4)


def test_convolutions_are_fitted_on_their_patches():
    """Where the models agree on all inputs but one pixel position's channel, only that channel's kernel moves."""
    a = FeatureNet.conv_net(2, 3, widths=(4,), key=KEY)
    b = eqx.tree_at(lambda n: n.trunk[0].convolution.weight, a, replace_fn=lambda w: w.at[:, 1].add(1.0))
    x = jax.random.normal(KEY, (10, 6, 6, 2)).at[..., 1].set(0)  # the differing channel is dark for a ...
    z = jax.random.normal(jax.random.key(1), (10, 6, 6, 2))  # ... and lit for b, so b knows better
    merged = regmean([a, b], grams_of([a, b], [x, z]), alpha=1.0, ridge=1e-5)
    np.testing.assert_allclose(merged.trunk[0].convolution.weight, b.trunk[0].convolution.weight, atol=1e-2)


def test_fisher_diagonal_of_logistic_regression_in_closed_form():
    x = jax.random.normal(KEY, (20, 4))
    model = {"weight": jax.random.normal(jax.random.key(1), (3, 4))}
    logits = lambda m, x: m["weight"] @ x  # noqa: E731
    p = jax.nn.softmax(x @ model["weight"].T)
    exact = jnp.einsum("nc,ni->ci", p * (1 - p), x**2) / 20  # E_y (1[y=c] - p_c)^2 x_i^2
    np.testing.assert_allclose(fisher_diagonal(logits, model, x)["weight"], exact, rtol=1e-4)
    keys = jax.random.split(jax.random.key(2), 2000)
    sampled = jax.vmap(lambda k: fisher_diagonal(logits, model, x, k)["weight"])(keys)
    np.testing.assert_allclose(sampled.mean(0), exact, atol=5 * float((sampled.std(0) / 2000**0.5).max()))


def test_fisher_weighted_by_hand():
    models, (f, g) = state_dicts(2), state_dicts(2, seed=9)
    f, g = ({k: np.abs(v) for k, v in d.items()} for d in (f, g))
    merged = fisher_weighted(models, [f, g], floor=0.0)
    for name in f:
        by_hand = (f[name] * models[0][name] + g[name] * models[1][name]) / (f[name] + g[name])
        np.testing.assert_allclose(merged[name], by_hand, rtol=1e-4, atol=1e-5)
    same(fisher_weighted(models, [f, f]), average(models), atol=1e-6)
    nothing = {k: np.zeros_like(v) for k, v in f.items()}
    same(fisher_weighted(models, [nothing, nothing]), average(models), atol=1e-6)


def test_sequential_merge_is_one_merge_after_the_other():
    models, inputs = nets(4), batches(4, n=12)
    merge = MERGES["regmean"]
    ours = sequential_merge(models, merge, inputs)
    assert len(ours) == 3
    first = merge(models[:2], inputs[:2])
    deal = jnp.stack([x[i] for i in range(6) for x in inputs[:2]])  # six samples of each, in turn
    second = merge([first, models[2]], [deal, inputs[2]])
    deal = jnp.stack([x[i] for i in range(4) for x in inputs[:3]])
    third = merge([second, models[3]], [deal, inputs[3]])
    for a, b in zip(ours, (first, second, third), strict=True):
        same(a, b, atol=2e-5)
    averages = sequential_merge(models, lambda ms, _: average(ms))
    same(averages[-1], average(models, weights=[1, 1, 2, 4]), atol=1e-6)


def test_bfloat16_and_other_leaves_keep_their_type():
    a = {"fc.weight": jnp.ones((2, 2), jnp.bfloat16), "steps": jnp.array(3)}
    merged = average([a, {"fc.weight": 3 * a["fc.weight"], "steps": jnp.array(9)}])
    assert merged["fc.weight"].dtype == jnp.bfloat16 and float(merged["fc.weight"][0, 0]) == 2.0
    assert int(merged["steps"]) == 3


def test_merges_jit_and_vmap():
    stacked = jax.vmap(lambda k: FeatureNet.mlp(12, 3, widths=(8,), key=k))(jax.random.split(KEY, 4))
    one, two = ([jax.tree.map(lambda leaf, j=j: leaf[j], stacked) for j in pair] for pair in ((0, 1), (2, 3)))
    inputs = batches(2)
    merge = lambda a, b: regmean_plus_plus([a, b], inputs, layer_inputs, a.stages())  # noqa: E731
    both = jax.jit(jax.vmap(merge))(
        jax.tree.map(lambda x: x[jnp.array([0, 2])], stacked), jax.tree.map(lambda x: x[jnp.array([1, 3])], stacked)
    )
    same(jax.tree.map(lambda x: x[0], both), merge(*one), atol=2e-5)
    same(jax.tree.map(lambda x: x[1], both), merge(*two), atol=2e-5)


def test_pytorch_models_merge_through_their_state_dicts():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    build = lambda: torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))  # noqa: E731
    models, xs = [build(), build()], [torch.randn(30, 5), torch.randn(2, 15, 5)]
    read = [torch_layer_inputs(m, x) for m, x in zip(models, xs, strict=True)]
    np.testing.assert_allclose(read[0]["2"], torch.relu(models[0][0](xs[0])).detach().numpy(), rtol=1e-6)
    grams = [{name: activation_gram(a) for name, a in r.items()} for r in read]
    dicts = [{k: v.numpy() for k, v in m.state_dict().items()} for m in models]
    merged = regmean(dicts, grams, alpha=0.9, ridge=0.0)
    scaled = [torch.tensor(np.asarray(g["0"])) for g in grams]
    scaled = [0.9 * g + 0.1 * torch.diag(torch.diag(g)) for g in scaled]
    right = sum(g @ m[0].weight.T for g, m in zip(scaled, models, strict=True))
    by_hand = torch.linalg.solve(sum(scaled), right).T.detach().numpy()
    np.testing.assert_allclose(merged["0.weight"], by_hand, atol=1e-5)
    same(merged["2.bias"], average(dicts)["2.bias"])
    build().load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in merged.items()})


def test_mistakes_are_named():
    a, b = state_dicts(2)
    gram = {"fc": jnp.eye(5)}
    for message, call in {
        "models takes one or more": lambda: average([]),
        "'fc.weight' has shape": lambda: average([a, b | {"fc.weight": np.ones((3, 6), np.float32)}]),
        "weights takes one for each of the 2": lambda: average([a, b], weights=[1.0]),
        "fishers takes one for each": lambda: fisher_weighted([a, b], [a]),
        "grams takes one mapping for each": lambda: regmean([a, b], [gram]),
        "there is no 'typo.weight'": lambda: regmean([a, b], [{"typo": jnp.eye(5)}] * 2),
        "same layers": lambda: regmean([a, b], [gram, {}]),
        "as wide as a layer's input, got 4": lambda: regmean([a, b], [{"fc": jnp.eye(4)}] * 2),
        "inputs takes one batch": lambda: regmean_plus_plus([a, b], [1], lambda m, x: {}, ["fc"]),
        "stages takes names": lambda: regmean_plus_plus([a, b], [1, 1], lambda m, x: {}, ["blocks.0"]),
        "models takes two or more": lambda: sequential_merge([a], lambda ms, xs: ms[0]),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
