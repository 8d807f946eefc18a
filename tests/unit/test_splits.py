"""Parts by hash: the same for the same id, whatever else there is, and of the size that was asked for."""

import random

from transformer_architectures.datasets.splits import hash_position, is_set_apart


def test_validation_is_a_pure_function_of_the_id(seed: int) -> None:
    ids = [f"{random.getrandbits(64):016x}" for _ in range(20_000)]
    chosen = {image_id for image_id in ids if is_set_apart(image_id, 0.1)}
    assert 1_700 < len(chosen) < 2_300
    random.shuffle(ids)
    assert {image_id for image_id in ids[:10_000] if is_set_apart(image_id, 0.1)} == chosen & set(ids[:10_000])
    assert chosen < {image_id for image_id in ids if is_set_apart(image_id, 0.2)}
    assert not any(is_set_apart(image_id, 0.0) for image_id in ids)
    assert all(is_set_apart(image_id, 1.0) for image_id in ids)


def test_the_same_on_every_machine() -> None:
    assert hash_position("0094980b03d119fc") == 0.1613035005333026
    assert is_set_apart("0094980b03d119fc", 0.162) and not is_set_apart("0094980b03d119fc", 0.160)
