"""Older module paths and names. Each still imports, with a `DeprecationWarning` that gives the new one.

The tables are the whole of it: a module or name that moves gets a line here, and nothing else changes for whoever uses the older one.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "transformer_architectures"

# Older module path: today's, both below the package.
MOVED = {
    "architectures.bert.config": "architectures.bert.transformer",
    "architectures.bert.data_config": "datasets.text.data_config",
    "architectures.bert.document_rows": "datasets.text.masked_rows",
    "architectures.bert.labeled_rows": "datasets.text.labeled_rows",
    "architectures.bert.mask_filler": "tasks.masked_language_model",
    "architectures.bert.masked_language_model": "tasks.masked_language_model",
    "architectures.bert.pretrained_start": "pretrained.start",
    "architectures.bert.rows": "datasets.text.packed_batches",
    "architectures.bert.tagger": "tasks.token_classification",
    "architectures.bert.text_classification": "tasks.text_classification",
    "architectures.bert.text_classifier": "tasks.text_classification",
    "architectures.bert.text_model": "tasks.text_predictor",
    "architectures.bert.text_task": "tasks.text_task",
    "architectures.bert.token_classification": "tasks.token_classification",
    "architectures.bert.trained_tokenizer": "datasets.text.trained_tokenizer",
    "architectures.bert.windowed_text": "datasets.text.windowed_text",
    "architectures.vanilla.config": "architectures.vanilla.transformer",
    "architectures.vanilla.long_text": "tasks.long_text",
    "architectures.vanilla.pretrained_start": "pretrained.start",
    "architectures.vanilla.translator": "tasks.translation",
    "architectures.vit.augmentation": "datasets.images.augmentation",
    "architectures.vit.classifier": "tasks.image_classification",
    "architectures.vit.config": "architectures.vit.transformer",
    "architectures.vit.data_config": "datasets.images.data_config",
    "architectures.vit.mixing": "datasets.images.mixing",
    "architectures.vit.picture_grid": "tasks.images.image_grid",
    "architectures.vit.picture_inputs": "tasks.images.image_inputs",
    "architectures.vit.picture_parts": "datasets.images.image_splits",
    "architectures.vit.picture_report": "tasks.images.image_report",
    "architectures.vit.pretrained_start": "pretrained.start",
    "architectures.vit.pixel_baseline": "tasks.images.pixel_baseline",
    "attention.fused_linear": "kernels.fused_linear",
    "attention.packed_heads": "attention.packed",
    "batch_work": "utils.map_batches",
    "command_line": "utils.console",
    "datasets.bible": "datasets.text.bible",
    "datasets.bible_tasks": "datasets.text.bible_tasks",
    "datasets.collected_labels": "datasets.images.collected_labels",
    "datasets.conll": "datasets.text.conll",
    "datasets.digits": "datasets.images.digits",
    "datasets.document_corpus": "datasets.text.document_corpus",
    "datasets.document_store": "datasets.text.document_store",
    "datasets.documents": "datasets.text.documents",
    "datasets.hidden_labels": "datasets.images.hidden_labels",
    "datasets.image_folder": "datasets.images.image_folder",
    "datasets.label_rows": "datasets.images.label_rows",
    "datasets.labeled_parts": "datasets.text.labeled_splits",
    "datasets.labeled_text": "datasets.text.labeled_text",
    "datasets.masking": "datasets.text.token_masking",
    "datasets.openimages": "datasets.images.openimages",
    "datasets.packing": "datasets.text.packing",
    "datasets.parallel_text": "datasets.text.parallel_text",
    "datasets.parts_recipe": "datasets.text.sources",
    "datasets.picture_archives": "datasets.images.image_archives",
    "datasets.picture_check": "datasets.images.image_check",
    "datasets.picture_decoding": "datasets.images.image_decoding",
    "datasets.picture_ids": "datasets.images.image_ids",
    "datasets.picture_labels": "datasets.images.image_labels",
    "datasets.pictures": "datasets.images.image_source",
    "datasets.pixel_store": "datasets.images.pixel_store",
    "datasets.sentences": "datasets.text.sentences",
    "datasets.splitting": "datasets.splits",
    "datasets.tables": "datasets.text.tables",
    "datasets.tag_schemes": "datasets.text.tag_schemes",
    "datasets.tagged_text": "datasets.text.tagged_text",
    "datasets.text.labeled_parts": "datasets.text.labeled_splits",
    "datasets.token_store": "datasets.text.token_store",
    "datasets.translation_corpus": "datasets.text.translation_corpus",
    "datasets.windows": "datasets.text.windows",
    "decoding_state": "generation.decoding_state",
    "dropout": "kernels.dropout",
    "durable_files": "utils.files",
    "fitting_weights": "pretrained.fitting_weights",
    "generation.top_k": "kernels.top_k",
    "linear": "kernels.linear",
    "loaded_model": "tasks.predictor",
    "loading": "datasets.loading",
    "memory": "utils.memory",
    "metrics.nothing_lost": "metrics.alignment",
    "model_folder": "pretrained.model_folder",
    "pretrained.bert": "architectures.bert.published",
    "pretrained.loading": "pretrained.start",
    "pretrained.marian": "architectures.vanilla.published",
    "pretrained.merged_config": "pretrained.start",
    "pretrained.vit": "architectures.vit.published",
    "pretrained.vit_timm": "architectures.vit.published_timm",
    "pretrained.vit_transformers": "architectures.vit.published_transformers",
    "processes": "utils.processes",
    "segments": "masking",
    "sublayer": "residual",
    "text_lines": "datasets.text_lines",
    "training.checked_files": "training.checkpointing.checked_files",
    "training.command": "training.runs.command",
    "training.cross_entropy": "kernels.cross_entropy",
    "training.finish": "training.runs.finish",
    "training.heartbeat": "training.distributed.heartbeat",
    "training.multi_label_loss": "tasks.images.multi_label_loss",
    "training.run": "training.runs.run",
    "training.run_folder": "training.runs.run_folder",
    "training.run_place": "training.checkpointing.run_place",
    "training.seeds": "training.runs.seeds",
    "training.sharded_checkpoints": "training.checkpointing.sharded_checkpoints",
    "training.sharding": "training.distributed.sharding",
    "training.shared_out": "training.checkpointing.resharding",
    "training.signals": "training.runs.signals",
    "training.spool": "training.tracking.spool",
    "training.suite": "training.runs.suite",
    "training.system_metrics": "training.tracking.system_metrics",
    "training.torchrun": "training.distributed.torchrun",
    "training.tracking_destination": "training.tracking.destination",
    "training.tracking_sender": "training.tracking.sender",
    "training.tracking_sync": "training.tracking.delivery",
}

# Older names in modules that have moved.
RENAMED = {
    "BatchWork": "MapBatches",
    "BertDataConfig": "EncoderDataConfig",
    "BertTrainingConfig": "TextTrainingConfig",
    "DigitPicturesRecipe": "DigitImagesRecipe",
    "DocumentParts": "DocumentSplits",
    "Fit": "Trainer",
    "ImagePart": "ImageSplit",
    "ImageParts": "ImageSplits",
    "LabeledTextParts": "LabeledTextSplits",
    "Labeling": "LabelMap",
    "LoadedModel": "Predictor",
    "PARTS": "SPLITS",
    "Part": "Split",
    "Parts": "LabeledSplits",
    "PartsRecipe": "TextRecipe",
    "PictureFilesConfig": "ImageFilesConfig",
    "PictureLabels": "ImageLabels",
    "PictureMixing": "ImageMixing",
    "PicturePreparation": "ImagePreparation",
    "PictureSource": "ImageSource",
    "PlainCopies": "FullModel",
    "RejectedPicture": "RejectedImage",
    "SpareBatch": "DummyBatch",
    "TaggedParts": "TaggedSplits",
    "TextModel": "TextPredictor",
    "TextModelSettings": "TextSettings",
    "TransformerDataset": "TokenDataset",
    "VanillaTrainingConfig": "TranslationTrainingConfig",
    "VitDataConfig": "ImageDataConfig",
    "VitTrainingConfig": "ImageTrainingConfig",
    "check_nothing_lost": "check_alignment",
    "deaf_children": "block_signals_in_workers",
    "decode_picture": "decode_image_bytes",
    "is_validation": "is_set_apart",
    "one_by_one": "map_batches",
    "open_pictures": "open_images",
    "part_of_chapter": "split_of_chapter",
    "prepare_parts": "prepare_splits",
    "waited_for": "iterate_with_timeout",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules by their older paths; Python asks it only when no file has that path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.removeprefix(f"{PACKAGE}.") in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new_path = f"{PACKAGE}.{MOVED[module.__name__.removeprefix(f'{PACKAGE}.')]}"
        warnings.warn(f"{module.__name__} has moved: import {new_path}", DeprecationWarning, stacklevel=2)
        moved = import_module(new_path)

        def of_moved(name: str) -> Any:
            return getattr(moved, name if name in vars(moved) else RENAMED.get(name, name))

        vars(module).update(__doc__=moved.__doc__, __getattr__=of_moved, __dir__=lambda: dir(moved))


def install() -> None:
    """Makes the older paths importable. Last in line, so that it costs nothing where a module exists."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` under which its older names still work.

    Args:
        names: older name to today's.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now called {names[name]}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return find
