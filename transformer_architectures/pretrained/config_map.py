"""A declared, two-way map between our model config and the ``config.json`` of a published checkpoint.

As with weights (see `weight_map`), every entry knows both directions. A key of ``config.json`` that no entry names, and that is
not among those that never change what a model computes (`IGNORED`), is refused by its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from transformer_architectures.errors import UnknownModelError
from transformer_architectures.feedforward import ActivationName

# Keys that never change what a model computes, in any family: where it is from, how it was drawn and trained, what is returned,
# numbers of special tokens (the tokenizer has them too), and how text is generated.
IGNORED = frozenset("""
    model_type architectures transformers_version _name_or_path _commit_hash dtype torch_dtype use_bfloat16 torchscript
    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params tokenizer_class prefix language
    initializer_range initializer_factor init_std gradient_checkpointing chunk_size_feed_forward layerdrop encoder_layerdrop
    decoder_layerdrop classif_dropout qa_dropout use_cache output_past output_attentions output_hidden_states return_dict
    is_encoder_decoder tie_encoder_decoder pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id
    unk_token_id forced_bos_token_id forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens max_length min_length
    do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate
    remove_invalid_values exponential_decay_length_penalty sinusoidal_pos_embds tie_weights_
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type encoder_stride
    """.split())

# Names in `transformers`; the first one of each activation is the one that is written.
ACTIVATIONS: dict[str, ActivationName] = {
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

REQUIRED: Any = object()
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class ConfigEntry(ABC):
    """One key of theirs, of ours, or both."""

    @property
    def names(self) -> dict[str, str]:
        """Their keys that this entry answers for, each with ours."""
        return {}

    @abstractmethod
    def to_ours(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys of our config."""

    @abstractmethod
    def to_theirs(self, ours: Any) -> Mapping[str, Any]:
        """Keys of ``config.json``."""


@dataclass(frozen=True)
class Key(ConfigEntry):
    """The same value under two names.

    Attributes:
        default: what `transformers` takes where the key is missing.
        values: their spelling of each value, with ours; nothing else is taken. The first spelling of a value is written.
        attribute: of our config, to read the value from; ``ours`` unless given.
        offset: theirs is so much larger.
        is_written: False for a second key of ours from the same one of theirs.
    """

    ours: str
    theirs: str
    default: Any = REQUIRED
    values: Mapping[str, Any] | None = None
    attribute: str = ""
    offset: int = 0
    is_written: bool = True

    @property
    def names(self) -> dict[str, str]:
        return {self.theirs: self.ours}

    def to_ours(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        value = theirs.get(self.theirs, self.default)
        if value is REQUIRED:
            raise UnknownModelError(f"{self.theirs} is missing")
        if self.values is not None:
            if not isinstance(value, str) or value not in self.values:
                raise UnknownModelError(f"{self.theirs} {value} is not one of {', '.join(self.values)}")
            value = self.values[value]
        return {self.ours: value - self.offset if self.offset and isinstance(value, int) else value}

    def to_theirs(self, ours: Any) -> Mapping[str, Any]:
        if not self.is_written:
            return {}
        value = getattr(ours, self.attribute or self.ours)
        if self.values is not None:
            spellings = [theirs for theirs, mine in self.values.items() if mine == value]
            if not spellings:
                raise UnknownModelError(f"{self.ours} {value} is not one of {', '.join(self.values.values())}")
            value = spellings[0]
        return {self.theirs: value + self.offset if self.offset else value}


@dataclass(frozen=True)
class Ours(ConfigEntry):
    """A key of ours that has but one value in these models; ``is_derived``: it follows from other keys, and is only checked."""

    ours: str
    value: Any
    is_derived: bool = False

    def to_ours(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if self.is_derived else {self.ours: self.value}

    def to_theirs(self, ours: Any) -> Mapping[str, Any]:
        if (found := getattr(ours, self.ours)) != self.value:
            raise UnknownModelError(f"{self.ours} is {found}, not {self.value}")
        return {}


@dataclass(frozen=True)
class Theirs(ConfigEntry):
    """A key of theirs of which we compute but one value, which is also its default.

    Attributes:
        is_written: False for what only older files hold.
    """

    theirs: str
    value: Any
    is_written: bool = True

    @property
    def names(self) -> dict[str, str]:
        return {self.theirs: ""}

    def to_ours(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        found = theirs.get(self.theirs, self.value)
        if found != self.value:
            what = f" is {str(found).lower()}" if isinstance(found, bool) else f" {found} is not {self.value}"
            raise UnknownModelError(self.theirs + what)
        return {}

    def to_theirs(self, ours: Any) -> Mapping[str, Any]:
        return {self.theirs: self.value} if self.is_written else {}


@dataclass(frozen=True)
class SameAs(ConfigEntry):
    """A key of theirs that has to be, if it is there, what another one is.

    Attributes:
        default: what `transformers` takes where the key is missing; None: what the other one is.
    """

    theirs: str
    other: str
    attribute: str
    default: Any = None

    @property
    def names(self) -> dict[str, str]:
        return {self.theirs: ""}

    def to_ours(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        found, expected = theirs.get(self.theirs, self.default), theirs.get(self.other)
        if found is REQUIRED:
            raise UnknownModelError(f"{self.theirs} is missing")
        if found is not None and found != expected:
            raise UnknownModelError(f"{self.theirs} {found} is not {self.other} {expected}")
        return {}

    def to_theirs(self, ours: Any) -> Mapping[str, Any]:
        return {self.theirs: getattr(ours, self.attribute)}


class ConfigMap:
    """All entries of a family.

    Args:
        name: of the family, for messages.
        also_ignored: further keys that do not change what these models compute.
    """

    def __init__(self, name: str, entries: Iterable[ConfigEntry], also_ignored: Iterable[str] = ()) -> None:
        self.name, self.entries = name, list(entries)
        self.known = {key: ours for entry in self.entries for key, ours in entry.names.items()}
        self.ignored = IGNORED.union(also_ignored)

    def to_ours(self, model: type[M], config: Mapping[str, Any], **more: Any) -> M:
        """Our config.

        Args:
            config: the content of ``config.json``, of `transformers` 4 or 5.
            more: what only the weights tell.

        Raises:
            UnknownModelError: a key is missing, is not known, is of a wrong type, or asks for what our model cannot do.
        """
        theirs = {key: value for key, value in modern_config(config).items() if value is not None}
        try:
            for key in theirs.keys() - self.known.keys() - self.ignored:
                raise UnknownModelError(f"nothing is known of the key {key}, which may change what the model computes")
            found = {key: value for entry in self.entries for key, value in entry.to_ours(theirs).items()}
            return validated(model, {**found, **more}, {ours: key for key, ours in self.known.items()})
        except UnknownModelError as error:
            raise UnknownModelError(f"config.json is not that of a {self.name} of ours: {error}") from None

    def to_theirs(self, config: BaseModel) -> dict[str, Any]:
        """The content of ``config.json``: the inverse of `to_ours`.

        Raises:
            UnknownModelError: our model computes something that theirs does not.
        """
        try:
            return {key: value for entry in self.entries for key, value in entry.to_theirs(config).items()}
        except UnknownModelError as error:
            raise UnknownModelError(f"no {self.name}: {error}") from None


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A ``config.json`` as `transformers` 5 writes it; before, ``rope_theta`` and ``rope_scaling`` were keys of their own."""
    modern = {key: value for key, value in config.items() if key not in ("torch_dtype", "rope_theta", "rope_scaling")}
    if "torch_dtype" in config:
        modern.setdefault("dtype", config["torch_dtype"])
    if "rope_theta" in config or config.get("rope_scaling"):
        older = {"rope_type": "default", **(config.get("rope_scaling") or {})}
        older["rope_type"] = older.pop("type", older["rope_type"])
        modern.setdefault("rope_parameters", {"rope_theta": config.get("rope_theta", 10000.0), **older})
    return modern


def validated(model: type[M], content: object, names: Mapping[str, str] | None = None, what: str = "") -> M:
    """The content as a checked model.

    Args:
        names: of keys in the file, by ours.
        what: stands before the message.

    Raises:
        UnknownModelError: in one line, what is wrong first.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join((names or {}).get(str(part), str(part)) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UnknownModelError(what + (f"{place}: {message}" if place else f"impossible: {message}")) from None
