from pathlib import Path

import pytest

from unseen.lab.locate import study_in_file

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session")
def toy():
    return study_in_file(TOY)


@pytest.fixture
def toy_file():
    return TOY
