"""RoBERTa (Liu et al. 2019) and what has its form (XLM-R, CamemBERT's encoder): BERT's encoder with these choices.

* Positions are counted from row 2 on; row 1 is that of padding, which is not counted. One token type.
* Byte-level BPE, between ``<s>`` and ``</s>``: see `tokenization.json_tokenizer`.
* Texts: dropout, dense layer with tanh on ``<s>``, dropout, linear classifier. The pooler that files hold was never trained.
* Eps is 1e-5 in the published checkpoints.
"""

from transformer_architectures.architectures.bert.published import BACKBONE, POST_NORM, SIZES, PublishedEncoder
from transformer_architectures.pretrained.config_map import Key, Theirs
from transformer_architectures.pretrained.weight_map import Rename, Tied

ROBERTA = PublishedEncoder(
    name="roberta",
    title="RoBERTa",
    fixed={
        **POST_NORM,
        "activation": "gelu",
        "position_offset": 2,
        "pooler_activation": "tanh",
        "dropout_before_pooler": True,
    },
    defaults={"layer_norm_eps": 1e-5, "token_types": 1},
    prefix="roberta.",
    classes={
        "RobertaModel": "",
        "RobertaForMaskedLM": "masked_lm_head",
        "RobertaForSequenceClassification": "sequence_head",
        "RobertaForTokenClassification": "token_head",
    },
    keys=[
        *SIZES,
        Theirs("hidden_act", "gelu"),
        Theirs("pad_token_id", 1),
        Key("max_positions", "max_position_embeddings", 512, offset=2),
    ],
    backbone=BACKBONE,
    tokens="{prefix}embeddings.word_embeddings.weight",
    decoder="lm_head.decoder.weight",
    parts={
        "pooler": [Rename("pooler.{kind}", "classifier.dense.{kind}")],
        "masked_lm_head": [
            Rename("masked_lm_head.transform.{kind}", "lm_head.dense.{kind}"),
            Rename("masked_lm_head.norm.{kind}", "lm_head.layer_norm.{kind}"),
            Tied(("masked_lm_head.decoder.bias",), ("lm_head.bias", "lm_head.decoder.bias")),
        ],
        "sequence_head": [Rename("sequence_head.{kind}", "classifier.out_proj.{kind}")],
        "token_head": [Rename("token_head.{kind}", "classifier.{kind}")],
    },
    left_out={"roberta.pooler.": "pooler", "pooler.": "pooler"},
)
