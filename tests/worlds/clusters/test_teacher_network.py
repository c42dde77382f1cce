import jax
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters import TeacherNetwork


def test_outputs_have_mean_square_one_and_the_stated_noise():
    world = TeacherNetwork(dimension=10, hidden=20, samples=3_000, noise=0.5)
    lessons = [world.sample(jax.random.key(i), test=100) for i in range(40)]
    squares = np.mean([np.mean(lesson.labels**2) for lesson in lessons])
    assert squares == pytest.approx(1, rel=0.15)
    noise = lessons[0].targets - lessons[0].labels
    assert noise[:3_000].std() == pytest.approx(0.5, rel=0.05)
    assert (noise[3_000:] == 0).all()  # fresh points are measured without noise
    assert lessons[0].inputs[0].shape == (3_100, 10) and int(lessons[0].train.sum()) == 3_000


def test_a_teacher_is_no_linear_function():
    lesson = TeacherNetwork(dimension=5, hidden=30, samples=5_000).sample(jax.random.key(0), test=1)
    x = np.column_stack([lesson.inputs[0], np.ones(5_001)])
    left = np.linalg.lstsq(x, np.asarray(lesson.labels), rcond=None)[1]
    assert left / 5_001 > 0.01


@pytest.mark.parametrize("setting", [dict(hidden=0), dict(samples=0), dict(noise=-1.0)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        TeacherNetwork(**setting)
