"""The force balance against quadrature along the links, and the two theorems that any such swimmer obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from unseen.worlds.control.gaits import GaitExpert, search_gait, swim
from unseen.worlds.control.swimmer import (
    CLOCK,
    DESCRIPTION,
    LARGEST_ANGLE,
    LARGEST_RATE,
    PERIOD,
    SENSORS,
    TIME_STEP,
    Swimmer,
    axis,
    describe,
    move,
    outline,
    random_start,
    sense,
    start,
    step,
    velocity,
)


def swimmer(length, ratio=2.0, gear=None, present=None):
    length = np.pad(np.asarray(length, np.float32), (0, 7 - len(length)))
    gear = np.ones(6) if gear is None else np.pad(np.asarray(gear, float), (0, 6 - len(gear)), constant_values=1)
    present = length > 0 if present is None else np.asarray(present)
    ratio = jnp.broadcast_to(jnp.asarray(ratio, jnp.float32), 7)
    return Swimmer(jnp.asarray(length), ratio, jnp.asarray(gear, jnp.float32), jnp.asarray(present))


BODY = swimmer([0.8, 1.3, 0.6, 1.1, 0.9], ratio=3.0)
ANGLES = jnp.array([0.4, -0.7, 0.9, 0.2, 0.0, 0.0])
RATES = jnp.array([1.5, -0.3, 2.0, -1.0, 0.0, 0.0])


def by_quadrature(length, ratio, angles, rates, points=400):
    """Head velocity and turning of an independent model in double precision: drag at many points of each link."""
    heading, spin = np.concatenate([[0], np.cumsum(angles)]), np.concatenate([[0], np.cumsum(rates)])
    matrix, force = np.zeros((3, 3)), np.zeros(3)
    joint, joint_velocity, total, centroid, centroid_velocity = np.zeros(2), np.zeros(2), 0.0, 0.0, 0.0
    for size, a, w, c in zip(length, heading, spin, ratio, strict=True):
        t, n = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
        drag = np.outer(t, t) + c * np.outer(n, n)
        for s in (np.arange(points) + 0.5) / points * size:
            at, moving = joint - s * t, joint_velocity - s * w * n  # with the snout at rest
            columns = np.array([[1, 0, -at[1]], [0, 1, at[0]]])  # velocity from motion of the whole
            matrix += columns.T @ drag @ columns * size / points
            force += columns.T @ drag @ moving * size / points
            centroid, centroid_velocity = centroid + at * size / points, centroid_velocity + moving * size / points
        total += size
        joint, joint_velocity = joint - size * t, joint_velocity - size * w * n
    snout = -np.linalg.solve(matrix, force)
    at = centroid / total
    return snout[:2] + centroid_velocity / total + snout[2] * np.array([-at[1], at[0]]), snout[2]


@pytest.mark.parametrize("ratio", [3.0, 1 / 3, 1.0])
def test_velocity_balances_the_drag_along_all_links(ratio):
    body = swimmer([0.8, 1.3, 0.6, 1.1, 0.9], ratio)
    length = np.asarray(body.length[:5], float)
    forward, omega = by_quadrature(length, [ratio] * 5, np.asarray(ANGLES[:4], float), np.asarray(RATES[:4], float))
    found, turning = jax.jit(velocity)(body, ANGLES, RATES)
    np.testing.assert_allclose(found, forward, atol=2e-5)
    assert float(turning) == pytest.approx(omega, abs=2e-5)


def test_links_of_different_drag_and_missing_links():
    ratio = np.array([2.0, 9.0, 4.0, 0.5, 1.5, 9.0, 9.0])
    present = np.array([1, 0, 1, 1, 1, 0, 0], bool)
    length = np.array([0.8, 0, 1.3, 0.6, 1.1, 0, 0])
    body = swimmer(length, ratio, present=present)
    angles, rates = jnp.array([0, 0.4, -0.7, 0.9, 0, 0.0]), jnp.array([0, 1.5, -0.3, 2.0, 0, 0.0])
    forward, omega = by_quadrature(
        length[present], ratio[present], np.asarray(angles)[present[1:]], np.asarray(rates)[present[1:]]
    )
    found, turning = jax.jit(velocity)(body, angles, rates)
    np.testing.assert_allclose(found, forward, atol=2e-5)
    assert float(turning) == pytest.approx(omega, abs=2e-5)
    assert body.rank.tolist() == [0, 0, 1, 2, 3, 3] and int(body.links) == 4
    plan = np.asarray(describe(body))
    assert not plan[[0, 4, 5]].any() and plan.shape == (6, DESCRIPTION)
    np.testing.assert_allclose(plan[1, :3], np.array([0.8, 1.3, 0.8]) / 3.8, rtol=1e-6)  # joins links 0 and 2
    np.testing.assert_allclose(plan[3, 3:7], [2 / 6, 3 / 6, np.log2(0.5) / 2, np.log2(1.5) / 2], rtol=1e-5)


def gait(links, amplitude=0.9, lag=1.3):
    """Joint angles over two periods of a wave with two harmonics: periodic, not sinusoidal."""
    phase = 2 * np.pi * np.arange(2 * PERIOD + 1) / PERIOD
    joint = np.arange(6)
    angles = amplitude * np.sin(phase[:, None] + lag * joint) + 0.3 * np.sin(2 * phase[:, None] + 0.5 * joint)
    return jnp.asarray(angles * (joint < links - 1), jnp.float32)


def displacement(body, angles):
    """Over the second of two periods, in body lengths."""
    positions = path(body, angles)
    return float(np.linalg.norm(positions[-1] - positions[PERIOD - 1])) / float(body.body_length)


@jax.jit
def path(body, angles):
    """Positions after each step."""

    def follow(state, rates):
        state = move(body, state, rates)
        return state, state.position

    return jax.lax.scan(follow, start(body, angles[0]), jnp.diff(angles, axis=0) / TIME_STEP)[1]


@pytest.mark.parametrize("ratio", [1.5, 4.0, 0.3])
def test_scallop_theorem(ratio):
    two, three = swimmer([0.7, 1.4], ratio), swimmer([0.7, 1.4, 1.0], ratio)
    assert displacement(two, gait(2)) < 1e-3
    assert displacement(three, gait(3)) > 0.01


def test_uniform_drag_gives_no_thrust():
    assert displacement(swimmer([0.7, 1.4, 1.0, 0.9], 1.0), gait(4)) < 1e-5
    assert displacement(swimmer([0.7, 1.4, 1.0, 0.9], 2.0), gait(4)) > 0.02


def test_the_midpoint_rule_follows_the_exact_path():
    body, length = swimmer([0.8, 1.3, 0.6], 3.0), [0.8, 1.3, 0.6]
    expert = GaitExpert(jnp.array(0.9), jnp.array(1.3))

    def rate(t, lag):
        return 0.9 * CLOCK * np.cos(CLOCK * t + lag)

    def motion(t, y):
        angles = y[3:]
        forward, omega = by_quadrature(length, [3.0] * 3, angles, [rate(t, 0), rate(t, 1.3)], points=20)
        cos, sin = np.cos(y[2]), np.sin(y[2])
        return [cos * forward[0] - sin * forward[1], sin * forward[0] + cos * forward[1], omega, rate(t, 0),
                rate(t, 1.3)]  # fmt: skip

    begin = start(body, jnp.array([0, 0.9 * np.sin(1.3), 0, 0, 0, 0]))
    first = np.array([*begin.position, float(begin.heading), *begin.angles[:2]], float)
    exact = solve_ivp(motion, (0, PERIOD * TIME_STEP), first, rtol=1e-6).y[:, -1]
    state = begin
    for t in np.arange(PERIOD) * TIME_STEP:
        then = 0.9 * np.sin(CLOCK * (t + TIME_STEP) + 1.3 * np.arange(2))
        state = jax.jit(move)(body, state, (jnp.zeros(6).at[:2].set(then) - state.angles) / TIME_STEP)
    assert abs(float(state.position[0]) - exact[0]) < 0.02 * abs(exact[0])
    assert float(state.heading) == pytest.approx(exact[2], abs=0.01)
    assert expert.gain > 0


def test_actions_turn_joints_through_their_gears_up_to_their_stops():
    body = swimmer([1, 1, 1], gear=[1, -1])
    do = jax.jit(step)
    state = do(body, start(body, jnp.zeros(6)), jnp.full(6, 2.0))
    np.testing.assert_allclose(state.angles, [LARGEST_RATE * TIME_STEP, -LARGEST_RATE * TIME_STEP, 0, 0, 0, 0])
    for _ in range(10):
        state = do(body, state, jnp.ones(6))
    np.testing.assert_allclose(jnp.abs(state.angles[:2]), LARGEST_ANGLE, rtol=1e-6)


def test_starts_face_along_x_and_senses_say_so():
    for seed in range(5):
        state = random_start(jax.random.key(seed), BODY)
        assert abs(float(axis(BODY, state))) < 1e-5
        line = outline(BODY, state)
        assert abs(float(line[0, 1] - line[-1, 1])) < 1e-5 and float(line[0, 0]) > float(line[-1, 0])
        sizes = np.linalg.norm(np.diff(line, axis=0), axis=1)
        np.testing.assert_allclose(sizes, BODY.length, atol=1e-5)
        tokens = np.asarray(sense(BODY, state))
        assert tokens.shape == (6, SENSORS) and not tokens[4:].any()
        np.testing.assert_allclose(tokens[:4, 0], 1)
        np.testing.assert_allclose(tokens[:4, 2:], [[0, 1, 0, 1]] * 4, atol=1e-5)


def test_a_reversed_drag_ratio_reverses_the_useful_wave():
    search = jax.jit(lambda key, body: search_gait(key, body, iterations=4, population=24))
    usual, inverse = (search(jax.random.key(0), swimmer([1, 1, 1, 1, 1], r)) for r in (3.0, 1 / 3))
    assert float(usual[0].lag) * float(inverse[0].lag) < 0
    assert min(float(usual[1]), float(inverse[1])) > 0.3


def test_an_expert_knows_its_gears_and_follows_its_wave():
    body, turned = swimmer([1, 1, 1, 1]), swimmer([1, 1, 1, 1], gear=[-1, 1, -1])
    expert = GaitExpert(jnp.array(0.8), jnp.array(-1.2))
    ends = [swim(b, start(b, jnp.zeros(6)), lambda s, b=b: expert(b, s)) for b in (body, turned)]
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-5)
    state, _ = ends[0]
    wave = 0.8 * np.sin(CLOCK * TIME_STEP * 120 - 1.2 * np.arange(3))
    np.testing.assert_allclose(state.angles[:3], wave, atol=0.15)  # late by less than a step
