"""Pairs of semantic and text ids on disk: Parquet shards in a folder, as a dataset with random access."""

from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset, MockDataset
from spear_tts_pytorch.data.pairs.shards import (
    DATASET_NAME,
    SOURCE_GENERATED,
    SOURCE_TRUNCATED,
    difference,
    list_shards,
    pair_schema,
    read_column,
    read_metadata,
    update_counts,
)
from spear_tts_pytorch.data.pairs.writer import PairWriter, write_pairs

__all__ = [
    "DATASET_NAME",
    "SOURCE_GENERATED",
    "SOURCE_TRUNCATED",
    "GeneratedAudioTextDataset",
    "MockDataset",
    "PairWriter",
    "difference",
    "list_shards",
    "pair_schema",
    "read_column",
    "read_metadata",
    "update_counts",
    "write_pairs",
]
