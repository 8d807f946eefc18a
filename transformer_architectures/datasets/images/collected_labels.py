"""From tens of millions of label rows, in any order, to one verdict for each pair of image and class."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int32, Int64, UInt

from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.datasets.images.image_labels import class_index_type
from transformer_architectures.datasets.images.label_rows import LabelBlock

# Who says what of a pair, so ordered that of several rows the first counts, and a contradiction stands side by side.
HUMAN_ABSENT, HUMAN_PRESENT, MACHINE_PRESENT, VOTES = 0, 1, 2, 4


class SparseRows(NamedTuple):
    """As in `ImageLabels`; ``contradicted`` counts the pairs that are unknown because humans differ."""

    ids: ImageIds
    offsets: Int64[np.ndarray, "images_and_one"]
    class_index: UInt[np.ndarray, "labels"]
    is_positive: Bool[np.ndarray, "labels"]
    contradicted: int


class CollectedLabels:
    """Takes blocks of rows as they are read.

    Rows of one image mostly stand together, so an id is kept once for each *run* of equal ids.
    """

    def __init__(self) -> None:
        self.run_ids: list[pa.Array] = []
        self.run_lengths: list[Int64[np.ndarray, "runs"]] = []
        self.class_codes: list[Int32[np.ndarray, "rows"]] = []
        self.votes: list[UInt[np.ndarray, "rows"]] = []
        self.num_left_out = 0

    def extend(self, blocks: Iterable[LabelBlock], is_machine: bool) -> None:
        """Adds the rows of a file. A machine's rows are all positive."""
        for block in blocks:
            self.num_left_out += block.num_left_out
            if num_rows := len(block.ids):
                changes = pc.not_equal(block.ids[1:], block.ids[:-1]).to_numpy(zero_copy_only=False)
                starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
                self.run_ids.append(block.ids.take(pa.array(starts)))
                self.run_lengths.append(np.diff(starts, append=num_rows))
                self.class_codes.append(block.class_codes)
                self.votes.append((block.is_positive + np.uint8(is_machine)).astype(np.uint8))

    def __len__(self) -> int:
        return sum(len(codes) for codes in self.class_codes)

    def sparse_rows(self, renumbered: Int64[np.ndarray, "classes"]) -> SparseRows:
        """The verdicts, sorted by id and class; what was collected is given up.

        Args:
            renumbered: the index of each class code.
        """
        ids, keys = self._sorted_keys(renumbered)
        pairs, votes = keys // VOTES, keys % VOTES
        is_first = np.concatenate([[True], pairs[1:] != pairs[:-1]])
        # Equal rows are gone by now: after "absent" the same pair again from a human can only be "present".
        is_differed = np.concatenate([~is_first[1:] & (votes[1:] == HUMAN_PRESENT), [False]])
        is_contradicted = is_first & (votes == HUMAN_ABSENT) & is_differed
        is_verdict = is_first & ~is_contradicted
        images, classes = np.divmod(pairs[is_verdict], len(renumbered))
        lengths = np.bincount(images, minlength=len(ids))
        is_known = lengths > 0
        return SparseRows(
            ids=ids.take(np.flatnonzero(is_known)),
            offsets=np.concatenate([[0], np.cumsum(lengths[is_known])]),
            class_index=classes.astype(class_index_type(len(renumbered))),
            is_positive=votes[is_verdict] != HUMAN_ABSENT,
            contradicted=int(is_contradicted.sum()),
        )

    def _sorted_keys(self, renumbered: Int64[np.ndarray, "classes"]) -> tuple[ImageIds, Int64[np.ndarray, "rows"]]:
        """Sorted ids, and of every row one number that holds image, class and saying; sorted and distinct."""
        runs = pa.chunked_array(self.run_ids, pa.large_string()).dictionary_encode().combine_chunks()
        ids = ImageIds(runs.dictionary)
        order = ids.order()
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        keys = np.repeat(rank[runs.indices.to_numpy()], np.concatenate(self.run_lengths))
        keys *= len(renumbered)
        keys += renumbered[np.concatenate(self.class_codes)]
        keys *= VOTES
        keys += np.concatenate(self.votes)
        for rows in (self.run_ids, self.run_lengths, self.class_codes, self.votes):
            rows.clear()  # what they hold is in the keys now
        keys.sort()
        return ids.take(order), keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
