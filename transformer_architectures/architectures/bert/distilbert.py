"""DistilBERT (Sanh et al. 2019): BERT's encoder with these choices.

* No token types and no pooler; eps is always 1e-12.
* Texts: dense layer with ReLU on the first token, dropout (0.2), linear classifier.
* Its dropout leaves the output of attention alone; here it is on every residual branch. Nothing but training differs by that.
"""

from transformer_architectures.architectures.bert.published import POST_NORM, PublishedEncoder
from transformer_architectures.pretrained.config_map import ACTIVATIONS, Key, Ours
from transformer_architectures.pretrained.weight_map import Rename, Tied

BLOCK = "{prefix}transformer.layer.{i}."

DISTILBERT = PublishedEncoder(
    name="distilbert",
    title="DistilBERT",
    fixed={
        **POST_NORM,
        "token_types": 0,
        "position_offset": 0,
        "pooler_activation": "relu",
        "dropout_before_pooler": False,
    },
    defaults={"layer_norm_eps": 1e-12, "activation": "gelu", "classifier_dropout": 0.2},
    prefix="distilbert.",
    classes={
        "DistilBertModel": "",
        "DistilBertForMaskedLM": "masked_lm_head",
        "DistilBertForSequenceClassification": "sequence_head",
        "DistilBertForTokenClassification": "token_head",
    },
    keys=[
        Ours("activation_dropout", 0.0),
        Ours("layer_norm_eps", 1e-12),
        Key("vocab_size", "vocab_size", 30522),
        Key("embed_dim", "dim", 768),
        Key("num_layers", "n_layers", 6),
        Key("num_heads", "n_heads", 12),
        Key("ff_dim", "hidden_dim", 3072),
        Key("activation", "activation", "gelu", values=ACTIVATIONS),
        Key("dropout", "dropout", 0.1),
        Key("attention_dropout", "attention_dropout", 0.1),
        Key("classifier_dropout", "seq_classif_dropout", 0.2),
        Key("max_positions", "max_position_embeddings", 512),
    ],
    backbone=[
        Rename("backbone.positions.weight", "{prefix}embeddings.position_embeddings.weight"),
        Rename("backbone.embedding_norm.{kind}", "{prefix}embeddings.LayerNorm.{kind}"),
        Rename("backbone.encoder.blocks.{i}.self_attention.attention.query.{kind}", BLOCK + "attention.q_lin.{kind}"),
        Rename("backbone.encoder.blocks.{i}.self_attention.attention.key.{kind}", BLOCK + "attention.k_lin.{kind}"),
        Rename("backbone.encoder.blocks.{i}.self_attention.attention.value.{kind}", BLOCK + "attention.v_lin.{kind}"),
        Rename(
            "backbone.encoder.blocks.{i}.self_attention.attention.output.{kind}", BLOCK + "attention.out_lin.{kind}"
        ),
        Rename("backbone.encoder.blocks.{i}.self_attention.residual.norm.{kind}", BLOCK + "sa_layer_norm.{kind}"),
        Rename("backbone.encoder.blocks.{i}.feedforward.expand.{kind}", BLOCK + "ffn.lin1.{kind}"),
        Rename("backbone.encoder.blocks.{i}.feedforward.output.{kind}", BLOCK + "ffn.lin2.{kind}"),
        Rename("backbone.encoder.blocks.{i}.feedforward.residual.norm.{kind}", BLOCK + "output_layer_norm.{kind}"),
    ],
    tokens="{prefix}embeddings.word_embeddings.weight",
    decoder="vocab_projector.weight",
    parts={
        "pooler": [Rename("pooler.{kind}", "pre_classifier.{kind}")],
        "masked_lm_head": [
            Rename("masked_lm_head.transform.{kind}", "vocab_transform.{kind}"),
            Rename("masked_lm_head.norm.{kind}", "vocab_layer_norm.{kind}"),
            Tied(("masked_lm_head.decoder.bias",), ("vocab_projector.bias",)),
        ],
        "sequence_head": [Rename("sequence_head.{kind}", "classifier.{kind}")],
        "token_head": [Rename("token_head.{kind}", "classifier.{kind}")],
    },
    left_out={},
)
