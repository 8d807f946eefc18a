"""The base of every section's model: unknown keys and silent conversions are errors."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

# A path that need not be given: an empty value, as ``${VARIABLE:-}`` leaves one, is "".
OptionalPath = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class StrictModel(BaseModel):
    """Frozen; no unknown keys; no ``"1"`` for 1 and no 1 for true (an integer is accepted where a float is meant)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True, validate_default=False
    )
