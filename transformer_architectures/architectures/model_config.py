"""What the `Model:` sections of all architectures share."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, model_serializer, model_validator

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.config import OptionalPath, StrictModel
from transformer_architectures.feedforward import ActivationName, FeedForwardConfig
from transformer_architectures.normalization import NormConfig
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig


class TransformerModelConfig(StrictModel):
    """Sizes and choices of a model's blocks: the base of every `Model:` section and of the ``model`` part of a model folder.

    An architecture adds its own keys, and sets other defaults by declaring a field again. ``pretrained`` names a folder from which a
    training takes weights, sizes and tokenizer: what is not given comes from there, not from the defaults.
    """

    # With `pretrained`: keys that fine-tuning may choose anew (all else belongs to the weights); keys that say the same in another
    # way, with the attribute to compare; parts of the model whose rows are classes.
    # `newer_keys` are left out of what is written where they have their defaults: older fingerprints and folders stay as they are.
    chosen_anew: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "activation_dropout", "attention_backend"}
    )
    same_as: ClassVar[Mapping[str, str]] = {}
    classifiers: ClassVar[frozenset[str]] = frozenset()

    newer_keys: ClassVar[frozenset[str]] = frozenset({"family"})

    architecture: str
    family: str | None = Field(None, description="published models whose choices are the defaults")
    embed_dim: int = Field(256, ge=2, le=2**16)
    num_heads: int = Field(4, ge=1)
    ff_dim: int = Field(1024, ge=1, le=2**18)
    num_layers: int = Field(3, ge=1, le=1000, validation_alias=AliasChoices("num_layers", "num_stacks"))
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    attention_backend: Literal["auto", "math", "sdpa"] = "auto"
    pre_layernorm: bool = True
    layer_norm_eps: float = Field(1e-5, gt=0)
    activation: ActivationName = "gelu"
    pretrained: OptionalPath = ""

    @model_validator(mode="after")
    def heads_divide_embed_dim(self) -> "TransformerModelConfig":
        if not self.pretrained and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by num_heads {self.num_heads}")
        return self

    @model_validator(mode="before")
    @classmethod
    def family_fills_in(cls, given: Any) -> Any:
        """The choices of ``family``, where a key does not say else."""
        from transformer_architectures.architectures.registry import find_architecture

        if not isinstance(given, dict) or given.get("family") is None:
            return given
        architecture = find_architecture(given.get("architecture", cls.model_fields["architecture"].default))
        families = {family.name: family for family in architecture.families} if architecture else {}
        if given["family"] not in families:
            known = ", ".join(families) or "none"
            raise ValueError(f"family {given['family']!r} does not exist in this architecture (known: {known})")
        return families[given["family"]].fill(given)

    @model_serializer(mode="wrap")
    def without_unused_keys(self, dump: Callable[[Any], Any]) -> dict[str, Any]:
        """All keys but the newer ones that are not used."""
        fields = type(self).model_fields
        unused = {key for key in self.newer_keys if getattr(self, key) == fields[key].default}
        return {key: value for key, value in dump(self).items() if key not in unused}

    @property
    def norm(self) -> NormConfig:
        """Of all norms."""
        return NormConfig(eps=self.layer_norm_eps)

    @property
    def attention_config(self) -> AttentionConfig:
        """Of all attention layers."""
        return AttentionConfig(num_heads=self.num_heads, backend=self.attention_backend, dropout=self.attention_dropout)

    def block(self, is_decoder: bool = False) -> TransformerBlockConfig:
        """The declaration of one block; ``is_decoder`` adds cross-attention."""
        return TransformerBlockConfig(
            embed_dim=self.embed_dim,
            attention=self.attention_config,
            feedforward=FeedForwardConfig(
                ff_dim=self.ff_dim, activation=self.activation, dropout=self.activation_dropout
            ),
            residual=ResidualConfig(pre_layernorm=self.pre_layernorm, dropout=self.dropout, norm=self.norm),
            is_decoder=is_decoder,
        )

    def to_folder(self) -> dict[str, Any]:
        """What the model folder keeps: all but ``pretrained`` (no path of a machine belongs there)."""
        return self.model_dump(mode="json", exclude={"pretrained"})
