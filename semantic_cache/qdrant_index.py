"""Vectors in a Qdrant server, for several gateways.

The embedder's id is in the collection's name: vectors of two embedders are never compared. A partition is a payload
field with a tenant's keyword index: the graph is built inside each partition, and a search never leaves its own.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from semantic_cache.reach import DEADLINE_S, Reach
from semantic_cache.seam import Vector


class QdrantIndex:
    """Keeps vectors with their keys and partitions.

    Attributes:
        kind: how it finds them.
        bytes_per_vector: of the vector itself; what the server needs for graph and payload comes on top.

    Args:
        client: of the server; closed with this.
        embedder_id: names the exact weights that the vectors come from.
        dimensions: their width.
    """

    kind = "a Qdrant server (HNSW in each partition)"

    def __init__(self, client: QdrantClient, *, embedder_id: str, dimensions: int) -> None:
        self._client = client
        self._collection = collection_of(embedder_id)
        self._dimensions = dimensions
        self.bytes_per_vector = 4 * dimensions
        self._is_ready = False
        self._reach = Reach((ApiException, OSError))

    @classmethod
    def at(
        cls, url: str, *, api_key: str | None, embedder_id: str, dimensions: int, deadline_s: float = DEADLINE_S
    ) -> QdrantIndex:
        """Return the index at an address such as `http://host:6333`, which is connected to when it is first asked."""
        # The client says it wants whole seconds, and hands what it gets to httpx, which takes any.
        timeout: Any = deadline_s
        client = QdrantClient(url=url, api_key=api_key, timeout=timeout, check_compatibility=False)
        return cls(client, embedder_id=embedder_id, dimensions=dimensions)

    def search(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> list[tuple[bytes, float]]:
        """Return keys and cosines of a partition's nearest, nearest first.

        Raises:
            StoreUnavailable: the server could not be asked in time.
        """
        self._make_ready()
        found = self._reach.ask(
            self._client.query_points,
            self._collection,
            query=vector.tolist(),
            query_filter=models.Filter(
                must=[
                    models.FieldCondition(key="partition", match=models.MatchValue(value=partition.hex())),
                    models.FieldCondition(key="expires", range=models.Range(gt=now.timestamp())),
                ]
            ),
            limit=limit,
            with_payload=["key"],
        )
        return [(bytes.fromhex(point.payload["key"]), point.score) for point in found.points if point.payload]

    def add(self, key: bytes, partition: bytes, vector: Vector, *, expires_at: datetime) -> None:
        """Keep a vector, in place of one under the same key.

        Raises:
            StoreUnavailable: as above.
        """
        self._make_ready()
        payload = {"key": key.hex(), "partition": partition.hex(), "expires": expires_at.timestamp()}
        point = models.PointStruct(id=_id(key), vector=vector.tolist(), payload=payload)
        self._reach.ask(self._client.upsert, self._collection, points=[point], wait=True)

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under keys.

        Raises:
            StoreUnavailable: as above.
        """
        if not keys:
            return
        self._make_ready()
        self._reach.ask(self._client.delete, self._collection, points_selector=[_id(key) for key in keys], wait=True)

    def count(self) -> int:
        """Return how many vectors there are.

        Raises:
            StoreUnavailable: as above.
        """
        self._make_ready()
        return self._reach.ask(self._client.count, self._collection).count

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._client.close()

    def _make_ready(self) -> None:
        if self._is_ready:
            return
        if not self._reach.ask(self._client.collection_exists, self._collection):
            self._reach.ask(self._create)
        self._is_ready = True

    def _create(self) -> None:
        try:
            self._client.create_collection(
                self._collection,
                vectors_config=models.VectorParams(size=self._dimensions, distance=models.Distance.DOT),
                # No graph over all partitions, which no search would walk; one inside each.
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),
            )
        except UnexpectedResponse as error:
            if error.status_code != _CONFLICT:  # another gateway was faster
                raise
        keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        self._client.create_payload_index(self._collection, "partition", field_schema=keyword)


def collection_of(embedder_id: str) -> str:
    """Return the collection for an embedder's vectors."""
    return f"faregate-{re.sub('[^A-Za-z0-9_.-]', '-', embedder_id)}"


def _id(key: bytes) -> str:
    """Return the point's id: the first 128 bits of the key, which is a digest. The whole key is in the payload."""
    return str(uuid.UUID(bytes=key[:16]))


_CONFLICT: Final = 409
