"""Shared fixtures. Shapes and types of every annotated function are checked while the tests run (jaxtyping + beartype)."""

import random

import pytest
from jaxtyping import install_import_hook

install_import_hook("transformer_architectures", "beartype.beartype")

import numpy  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # tests are many and small


@pytest.fixture
def seed() -> int:
    """A fresh seed for every test, set everywhere, and printed when the test fails."""
    value = random.SystemRandom().randrange(2**31)
    print(f"seed = {value}")
    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)
    return value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something costly, such as a training, run on one worker: others would make it again."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()
        if any(definition.scope != "function" and definition.baseid for fixture in fixtures for definition in fixture):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
