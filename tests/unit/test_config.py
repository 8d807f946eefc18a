"""Config files: every error is one line with file, section, key and what was expected; nothing is converted in silence."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, Field

from transformer_architectures.architectures.bert import training as bert_training
from transformer_architectures.architectures.bert.transformer import BertModelConfig
from transformer_architectures.architectures.vanilla.data import VanillaDataConfig
from transformer_architectures.architectures.vanilla.transformer import VanillaModelConfig
from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.config import (
    StrictModel,
    default_config_path,
    find_config,
    fingerprint,
    load_config,
    load_sections,
    shipped_configs,
)
from transformer_architectures.config.loader import read_sections
from transformer_architectures.config.yaml_reader import parse_yaml
from transformer_architectures.datasets.images.data_config import ImageDataConfig
from transformer_architectures.errors import ConfigError
from transformer_architectures.tasks.image_classification import ImageTrainingConfig
from transformer_architectures.tasks.images.multi_label_loss import MultiLabelLossConfig
from transformer_architectures.tasks.translation import TranslationTrainingConfig
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.suite import suite_of

VANILLA = {"Model": VanillaModelConfig, "Training": TranslationTrainingConfig, "Data": VanillaDataConfig}
BERT = bert_training.BERT.sections
VIT = {"Model": VitModelConfig, "Training": ImageTrainingConfig, "Data": ImageDataConfig}
CONFIGS = sorted(default_config_path("vanilla").resolve().parent.glob("*.yaml"))


class Inner(StrictModel):
    depth: int = 1
    rates: tuple[float, float] = (0.1, 0.2)


class Section(StrictModel):
    learning_rate: float = 1.0
    steps: int | None = None
    name: str | None = None
    flag: bool = False
    num_layers: int = Field(3, validation_alias=AliasChoices("num_layers", "num_stacks"))
    inner: Inner = Inner()


def read(tmp_path: Path, text: str, overrides: list[str] | None = None, section: str = "Training") -> Section:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, section, Section, overrides or [])


def error(tmp_path: Path, text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, overrides)
    message = str(caught.value)
    assert "\n" not in message and message
    return message


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3", ".001", "10e-4"])
def test_every_spelling_of_a_float_is_a_float(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"Training: {{learning_rate: {text}}}").learning_rate == 1e-3


def test_whole_numbers_serve_as_floats_and_lists_as_tuples(tmp_path: Path) -> None:
    section = read(tmp_path, "Training: {learning_rate: 2, inner: {rates: [0.9, 1]}}")
    assert section.learning_rate == 2.0 and isinstance(section.learning_rate, float)
    assert section.inner.rates == (0.9, 1.0)


def test_real_tuple_of_the_training_section() -> None:
    config = load_sections(default_config_path("vanilla"), VANILLA, ["Training.adam_betas=[0.8, 0.9]"])["Training"]
    assert isinstance(config, TranslationTrainingConfig) and config.adam_betas == (0.8, 0.9)


def test_dates_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, "Training: {name: 2026-11-24}").name == "2026-11-24"
    assert read(tmp_path, "Training: {name: 2026-13-45}").name == "2026-13-45"


def test_missing_empty_and_other_sections(tmp_path: Path) -> None:
    for text in ("", "Training:", "Other: {a: 1}"):
        assert read(tmp_path, text) == Section()


def test_merge_keys_of_yaml(tmp_path: Path) -> None:
    text = "Base: &base {steps: 5, name: a}\nTraining:\n  <<: *base\n  name: b\nOther: {<<: *base, steps: 1}"
    assert read(tmp_path, text) == Section(steps=5, name="b")


def test_older_name_of_num_layers(tmp_path: Path) -> None:
    assert read(tmp_path, "Training: {num_stacks: 6}").num_layers == 6
    message = error(tmp_path, "Training: {num_stacks: 6, num_layers: 6}")
    assert "num_stacks" in message and "num_layers" in message and "given too" in message
    assert VanillaModelConfig.model_validate({"num_stacks": 2}) == VanillaModelConfig(num_layers=2)


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Training: {learning_rat: 1}", ["Training", "learning_rat", "unknown key", "did you mean learning_rate?"]),
        ("Training: {inner: {dept: 1}}", ["Training", "inner.dept", "unknown key", "did you mean depth?"]),
        ("Training: {zzz: 1}", ["zzz", "unknown key", "known: ", "steps"]),
        ("Training: {1: 1}", ["Training", "1", "unknown key"]),
        ("Training: {steps: many}", ["Training", "steps", "integer", "'many'"]),
        ("Training: {steps: 1.5}", ["steps", "integer", "1.5"]),
        ("Training: {steps: '1'}", ["steps", "integer", "'1'"]),
        ("Training: {flag: 1}", ["flag", "boolean", "found 1"]),
        ("Training: {name: 3}", ["name", "string", "found 3"]),
        ("Training: {learning_rate: [1]}", ["learning_rate", "number", "[1]"]),
        ("Training: {inner: 3}", ["inner", "found 3"]),
        ("Training: {inner: {rates: [1]}}", ["inner.rates.1", "required"]),
        ("Training: 3", ["Training", "expected keys and values", "int"]),
        ("Training: [1]", ["Training", "expected keys and values", "list"]),
        ("[1, 2]", ["expected sections", "list"]),
        ("just words", ["expected sections", "str"]),
    ],
)
def test_errors_name_file_section_key_and_expectation(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = error(tmp_path, text)
    for part in [str(tmp_path / "run.yaml"), *parts]:
        assert part in message, f"{part!r} is missing in {message!r}"


def test_a_message_is_one_line_whatever_it_quotes(tmp_path: Path) -> None:
    """And tells a terminal nothing."""
    message = error(tmp_path, 'Training: {"steps\\n\\e[2J\\u2028": 1}')
    assert "steps\\n\\x1b[2J" in message and message.isprintable()


def test_all_problems_of_a_section_are_told_at_once(tmp_path: Path) -> None:
    message = error(tmp_path, "Training: {steps: x, flag: 3}")
    assert "steps" in message and "flag" in message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("Training:\n  steps: 1\n  steps: 2\n", 3, "duplicate key 'steps'"),
        ("Training:\n  inner: {depth: 1, 'depth': 2}\n", 2, "duplicate key 'depth'"),
        ("Training: {steps: 1}\nModel: {}\nTraining: {steps: 2}\n", 3, "duplicate key 'Training'"),
        ("Training:\n  steps: [1\n", 3, ""),
        ("Training:\n  steps: a: b\n", 2, ""),
        ("Training:\n  steps: *nobody\n", 2, "nobody"),
        ("Training:\n  ? [1, 2]\n  : 3\n", 2, "unhashable key"),
    ],
)
def test_syntax_errors_name_the_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    message = error(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'run.yaml'}:{line}: ") and word in message


@pytest.mark.parametrize(
    "text", ["a: 0x_", "a: \x01", "a: !!python/object:os.system x", "? {a: 1}\n: 2", "a: !!set {b}"]
)
def test_what_yaml_cannot_read_is_a_config_error_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    assert str(path) in error(tmp_path, f"Training: {{}}\n{text}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_config(path, "Training", Section)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(b"Training: {name: \xff}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path, "Training", Section)


@pytest.mark.parametrize(("name", "suggestion"), [("Trainin", "did you mean Training?"), ("1", "known: Training")])
def test_unknown_section(tmp_path: Path, name: str, suggestion: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{name}: {{steps: 1}}")
    with pytest.raises(ConfigError) as caught:
        load_sections(path, {"Training": Section})
    assert str(caught.value) == f"{path}: unknown section {name} ({suggestion})"


# ---------------------------------------------------------------------------------------------------------------------
# Variables
# ---------------------------------------------------------------------------------------------------------------------


def test_unset_variable_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TARCH_TEST", raising=False)
    message = error(tmp_path, "Training: {inner: {depth: '${TARCH_TEST}'}}")
    for part in (str(tmp_path / "run.yaml"), "Training", "inner.depth", "TARCH_TEST", "not set"):
        assert part in message


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ("12", "steps", 12),
        ("1e-3", "learning_rate", 1e-3),
        ("true", "flag", True),
        ("null", "steps", None),
        ("words", "name", "words"),
        ("/data/a #1", "name", "/data/a #1"),
        ("[half", "name", "[half"),
        ("a: b", "name", "a: b"),
        ("{x}", "name", "{x}"),
        ("#1", "name", "#1"),
        ("*.gz", "name", "*.gz"),
        ("2026-11-24", "name", "2026-11-24"),
        ("${OTHER}", "name", "${OTHER}"),
    ],
)
def test_a_variable_is_a_number_or_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, key: str, expected: Any
) -> None:
    monkeypatch.setenv("TARCH_TEST", value)
    found = getattr(read(tmp_path, f"Training: {{{key}: '${{TARCH_TEST}}'}}"), key)
    assert found == expected and type(found) is type(expected)


def test_defaults_of_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Training: {steps: '${TARCH_TEST:-7}', name: 'a/${TARCH_TEST:-b c}/${TARCH_TEST:-}d'}"
    monkeypatch.delenv("TARCH_TEST", raising=False)
    assert read(tmp_path, text) == Section(steps=7, name="a/b c/d")
    monkeypatch.setenv("TARCH_TEST", "")
    assert read(tmp_path, text) == Section(steps=7, name="a/b c/d")
    monkeypatch.setenv("TARCH_TEST", "8")
    assert read(tmp_path, text) == Section(steps=8, name="a/8/8d")


# ---------------------------------------------------------------------------------------------------------------------
# --set
# ---------------------------------------------------------------------------------------------------------------------


def test_overrides_reach_nested_keys_and_are_read_as_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARCH_TEST", "4")
    overrides = [
        "Training.steps=200",
        "Training.learning_rate=1e-3",
        "Training.inner.rates=[0.5, 0.25]",
        "Training.inner.depth=${TARCH_TEST}",
        "Training.name=a=b",
    ]
    expected = Section(learning_rate=1e-3, steps=200, name="a=b", inner=Inner(depth=4, rates=(0.5, 0.25)), num_layers=9)
    for text in ("Training: {steps: 1, inner: {depth: 2}, num_layers: 9}", "Training: {inner: , num_layers: 9}"):
        assert read(tmp_path, text, overrides) == expected
    assert read(tmp_path, "", ["Training.steps=1", "Training.steps=2"]).steps == 2
    assert read(tmp_path, "Training: {steps: 1}", ["Training.steps=null"]).steps is None


@pytest.mark.parametrize("override", ["Training.steps", "steps=1", "Training..steps=1", "=1", "Training.steps.x=1"])
def test_malformed_override_is_named(tmp_path: Path, override: str) -> None:
    assert f"--set {override}" in error(tmp_path, "Training: {steps: 1}", [override])


def test_wrong_override_is_checked_like_the_file(tmp_path: Path) -> None:
    assert "did you mean steps?" in error(tmp_path, "", ["Training.step=1"])
    assert "steps" in error(tmp_path, "", ["Training.steps=[1"])


# ---------------------------------------------------------------------------------------------------------------------
# Fingerprint
# ---------------------------------------------------------------------------------------------------------------------

LEFT_OUT = {
    "checkpoint_root": "elsewhere",
    "run_name": "other",
    "experiment": "other",
    "log_interval": 7,
    "hang_timeout": 30,
    "histogram_interval": 9,
    "device": "cpu",
    "sharding": "fsdp",
    "cpu_offload": True,
    "activation_checkpointing": True,
    "max_steps": 77,
    "max_epochs": 77,
}
CHANGED: dict[str, Any] = {
    "seed": 5, "seeds": 2, "precision": "bf16", "num_threads": 2, "compile": True, "patience": 3, "batch_tokens": 64,
    "accumulation_steps": 2, "learning_rate": 0.5, "schedule": "constant", "warmup_steps": 3, "weight_decay": 0.1,
    "adam_betas": (0.5, 0.6), "adam_eps": 0.1, "clip_norm": None, "ema_decay": 0.5, "average_last": 1,
    "validation_interval": 3, "checkpoint_interval": 3, "keep_checkpoints": 9, "label_smoothing": 0.3,
    "validation_beams": 2, "validation_sentences": 3, "num_beams": 2, "length_penalty": 0.5,
}  # fmt: skip


def test_fingerprint_leaves_out_what_does_not_change_what_is_learned_and_nothing_else() -> None:
    check_fingerprint(TranslationTrainingConfig(max_steps=10), CHANGED)
    shared = {name: value for name, value in CHANGED.items() if name in TrainingConfig.model_fields}
    of_images = {"batch_size": 7, "layer_decay": 0.5, "loss": MultiLabelLossConfig(kind="focal")}
    check_fingerprint(ImageTrainingConfig(max_steps=10), shared | of_images)


def check_fingerprint(base: TrainingConfig, changes: dict[str, Any]) -> None:
    assert set(LEFT_OUT) | set(changes) == set(type(base).model_fields), "a new key: which side is it on?"
    expected = fingerprint({"Training": base})
    for name, value in LEFT_OUT.items():
        assert fingerprint({"Training": base.model_copy(update={name: value})}) == expected, name
    for name, value in changes.items():
        assert getattr(base, name) != value
        assert fingerprint({"Training": base.model_copy(update={name: value})}) != expected, name


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_fingerprint_sees_every_key_of_the_other_sections() -> None:
    model = VanillaModelConfig()
    for name in VanillaModelConfig.model_fields:
        changed = model.model_copy(update={name: "something else"})
        assert fingerprint({"Model": changed}) != fingerprint({"Model": model}), name


def test_fingerprint_is_of_values_not_of_spelling(tmp_path: Path) -> None:
    texts = ("Training: {num_stacks: 6, learning_rate: 1e-3}", "Training: {learning_rate: 0.001, num_layers: 6}")
    first, second = (fingerprint({"Training": read(tmp_path, text)}) for text in texts)
    assert first == second
    assert first != fingerprint({"Model": read(tmp_path, texts[0])})


# ---------------------------------------------------------------------------------------------------------------------
# What is shipped
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_fit_their_models(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MULTI30K_DIR",
        "TATOEBA_DIR",
        "OPENIMAGES_DIR",
        "CIFAR10_DIR",
        "SENTIMENT_DIR",
        "UD_EWT_DIR",
        "WNUT17_DIR",
        "DOCUMENTS_DIR",
    ):
        monkeypatch.setenv(name, "/data/dummy")
    if (suite := suite_of(path)) is not None:
        assert all((path.parent / run.config).is_file() for run in suite.runs)
        return
    models = {"vanilla": VANILLA, "vit": VIT, "bert": BERT}[read_sections(path)["Model"]["architecture"]]
    assert set(load_sections(path, models)) == set(models)


def test_there_are_configs() -> None:
    assert CONFIGS and default_config_path("vanilla").is_file()
    with pytest.raises(ConfigError, match="nothing_default.yaml"):
        default_config_path("nothing")


# -------------------------------------------------------------------- configs by name
def test_a_shipped_config_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(shipped_configs()) == {path.stem for path in CONFIGS}
    for path in CONFIGS:
        assert Path(find_config(path.stem)).samefile(path)
    assert find_config(str(CONFIGS[0])) == str(CONFIGS[0])
    (tmp_path / "vit_default").mkdir()
    assert Path(find_config("vit_default")).name == "vit_default.yaml"  # a folder is no config
    (tmp_path / "vanilla_default").write_text("Model: {}")
    assert find_config("vanilla_default") == "vanilla_default"  # an existing file wins


@pytest.mark.parametrize("name", ["vanila_default", "configs/nothing.yaml", "", "a\0b", "x" * 5000])
def test_a_config_that_does_not_exist_names_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match="no such file.*bert_classify, bert_default.*vit_default") as caught:
        find_config(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Model: &a {x: *a}",
        "a0: &a0 [1, 1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)),
    ],
    ids=["in itself", "2^40 values"],
)
def test_aliases_cannot_fill_the_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="aliases"):
        parse_yaml(text, "bomb.yaml")


def test_the_controls_of_the_bible_are_models_of_the_same_size() -> None:
    """In all that fine-tuning takes from the model which it starts from."""
    path = default_config_path("bert").resolve()
    suite = suite_of(path)
    assert suite is not None

    def sizes(name: str) -> dict[str, Any]:
        run = next(run for run in suite.runs if run.name == name)
        model = load_sections(path.parent / run.config, BERT, [*run.overrides, "Model.pretrained="])["Model"]
        return model.model_dump(exclude={*BertModelConfig.chosen_anew, "pretrained"})

    tuned = [run for run in suite.runs if run.pretrained is not None]
    assert {run.name for run in tuned} == {"classify", "tag"}
    for run in tuned:
        assert run.pretrained is not None
        assert sizes(f"{run.name}-control") == sizes(run.pretrained)
