"""Features in a folder of Parquet files, the shards, which are written and renamed when complete.

Nothing here depends on networks: what the features were computed with is plain data to a store.
"""

from transferkit.store.feature_store import FeatureStore
from transferkit.store.manifest import Manifest
from transferkit.store.neighbors import Neighbors
from transferkit.store.shards import (
    Record,
    Shard,
    ShardWriter,
    has_valid_digest,
    list_shards,
    read_arrays,
    read_records,
)
from transferkit.store.verification import verify_store

__all__ = [
    "FeatureStore",
    "Manifest",
    "Neighbors",
    "Record",
    "Shard",
    "ShardWriter",
    "has_valid_digest",
    "list_shards",
    "read_arrays",
    "read_records",
    "verify_store",
]
