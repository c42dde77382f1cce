"""One policy trained on several tasks at once."""

from __future__ import annotations

from typing import Any

from gymnax.environments.environment import Environment

from unseen.lab import Learner, UserError
from unseen.learners.equinox_ppo import equinox_ppo
from unseen.models.multi_task import MultiTaskPolicy


def multi_task_ppo(
    environment: Environment,
    params: Any = None,
    *,
    tasks: int,
    width: int = 64,
    embedding: int | None = None,
    **settings: Any,
) -> Learner:
    """PPO for a policy that several tasks share: their trunk, with a head for each or an embedding of each.

    The critic reads the one-hot itself, so that its first layer holds an embedding too. Trained on one task only, the
    same network is a single-task learner.

    Args:
        environment: with gymnax 1.0's interface, actions in a box, and observations that end with a one-hot of the
            task.
        params: its parameters, which say how likely each task is; may hold traced arrays.
        tasks: length of the one-hot.
        width: units of both hidden layers.
        embedding: numbers of a task's embedding; None gives each task a head.
        settings: of `equinox_ppo`. `measure` and `final` get the `MultiTaskPolicy`.

    Example:
        >>> from unseen.learners.multi_task_ppo import multi_task_ppo
        >>> from unseen.worlds.control import TaskSuite
        >>> suite = TaskSuite(("reach", "push"), shows_task=True)
        >>> learner = multi_task_ppo(suite, tasks=2, embedding=4, total_steps=8_192)
        >>> learner.steps
        2

    Raises:
        UserError: if observations are no longer than the one-hot.

    Source: Yu et al. (2019), section 5.
    """
    size = environment.observation_space(environment.default_params if params is None else params).shape[0]
    if not 0 < tasks < size:
        raise UserError(f"tasks takes 1 to {size - 1}, fewer than the {size} numbers of an observation, got {tasks}.")
    actions = environment.action_space(params).shape[0]

    def model(key: Any) -> MultiTaskPolicy:
        return MultiTaskPolicy(size, actions, tasks, width, embedding=embedding, key=key)

    return equinox_ppo(model, environment, params, critic_width=width, **settings)
