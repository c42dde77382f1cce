import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import DecisionTransformer

MODEL = DecisionTransformer(3, 2, 1, key=jax.random.key(0))


def episode(steps, key=1):
    a, b, c = jax.random.split(jax.random.key(key), 3)
    return jax.random.normal(a, (steps, 1)), jax.random.normal(b, (steps, 3)), jax.random.normal(c, (steps, 2))


def test_an_action_depends_on_the_past_and_not_on_the_future_or_itself():
    condition, observation, action = episode(10)
    out = MODEL(condition, observation, action)
    later = MODEL(condition.at[5:].add(1), observation.at[5:].add(1), action.at[4:].add(1))
    np.testing.assert_allclose(out[:5], later[:5], atol=1e-6)
    earlier = MODEL(condition, observation, action.at[2].add(1))
    assert (abs(out - earlier)[3:].max(axis=1) > 1e-6).all()
    np.testing.assert_allclose(out[:3], earlier[:3], atol=1e-6)


def test_acting_step_by_step_agrees_with_the_whole_sequence():
    _, observation, _ = episode(10)
    goal, history, taken = jnp.array([0.7]), MODEL.remember(), []
    for now in observation:
        history, action = MODEL.act(history, now, goal)
        taken.append(action)
    whole = MODEL(jnp.tile(goal, (10, 1)), observation, jnp.stack(taken))
    np.testing.assert_allclose(jnp.stack(taken), whole, atol=1e-5)


def test_the_window_slides():
    _, observation, _ = episode(14)
    history, taken = MODEL.remember(), []
    for now in observation:
        history, action = MODEL.act(history, now, jnp.array([0.7]))
        taken.append(action)
    window = MODEL(jnp.full((10, 1), 0.7), observation[4:], jnp.stack(taken[4:]))
    np.testing.assert_allclose(taken[-1], window[-1], atol=1e-5)


def test_padding_is_not_seen():
    condition, observation, action = episode(10)
    present = jnp.arange(10) >= 3
    time = jnp.maximum(jnp.arange(10) - 3, 0)
    padded = MODEL(condition, observation, action, time, present)
    np.testing.assert_allclose(padded[3:], MODEL(condition[3:], observation[3:], action[3:]), atol=1e-5)


def test_any_module_may_embed_the_condition():
    embed = eqx.nn.MLP(5, 32, 8, 1, key=jax.random.key(2))
    model = DecisionTransformer(3, 2, embed_condition=embed, key=jax.random.key(0))
    _, observation, action = episode(4)
    assert model(jnp.zeros((4, 5)), observation, action).shape == (4, 2)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="width takes a multiple of the 4 heads, got 30"):
        DecisionTransformer(3, 2, width=30, key=jax.random.key(0))


def test_after_copying_weights_it_agrees_with_transformers():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("transformers")
    config = peer.DecisionTransformerConfig(
        state_dim=3, act_dim=2, hidden_size=32, n_layer=2, n_head=4, max_ep_len=50, max_length=10,
        activation_function="gelu_new", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = peer.DecisionTransformerModel(config).eval()
    weights = {k: jnp.asarray(v.detach().numpy()) for k, v in theirs.state_dict().items()}
    ours = DecisionTransformer(3, 2, 1, times=50, key=jax.random.key(0))

    def copied(module, name, transpose=False):
        weight = weights[f"{name}.weight"]
        return eqx.tree_at(
            lambda m: (m.weight, m.bias), module, (weight.T if transpose else weight, weights[f"{name}.bias"])
        )

    for mine, name in (
        ("embed_condition", "embed_return"), ("embed_observation", "embed_state"), ("embed_action", "embed_action"),
        ("norm_in", "embed_ln"), ("norm_out", "encoder.ln_f"), ("head", "predict_action.0"),
    ):  # fmt: skip
        ours = eqx.tree_at(lambda m, mine=mine: getattr(m, mine), ours, copied(getattr(ours, mine), name))
    # GPT-2 adds its position 0 to every token after the first normalisation; ours has no such vector.
    with torch.no_grad():
        theirs.encoder.wpe.weight.zero_()
    ours = eqx.tree_at(lambda m: m.time_table, ours, weights["embed_timestep.weight"])
    blocks = []
    for i, block in enumerate(ours.blocks):
        at = f"encoder.h.{i}"
        block = eqx.tree_at(
            lambda b: (b.norm1, b.norm2, b.attention.project, b.attention.out, b.up, b.down), block,
            (
                copied(block.norm1, f"{at}.ln_1"), copied(block.norm2, f"{at}.ln_2"),
                copied(block.attention.project, f"{at}.attn.c_attn", True),
                copied(block.attention.out, f"{at}.attn.c_proj", True),
                copied(block.up, f"{at}.mlp.c_fc", True), copied(block.down, f"{at}.mlp.c_proj", True),
            ),
        )  # fmt: skip
        blocks.append(block)
    ours = eqx.tree_at(lambda m: m.blocks, ours, tuple(blocks))

    returns, states, actions = episode(10)
    time = np.arange(7, 17)
    tensors = [torch.tensor(np.array(x))[None] for x in (states, actions, returns)]
    with torch.no_grad():
        expected = theirs(
            states=tensors[0], actions=tensors[1], rewards=None, returns_to_go=tensors[2],
            timesteps=torch.tensor(time)[None], attention_mask=torch.ones(1, 10),
        ).action_preds[0].numpy()  # fmt: skip
    np.testing.assert_allclose(ours(returns, states, actions, jnp.asarray(time)), expected, atol=1e-4)
    assert abs(expected).max() > 1e-2
