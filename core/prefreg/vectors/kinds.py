"""All kinds of stored vectors."""

from prefreg.vectors.dense import DenseVector
from prefreg.vectors.lowrank import LowRankVector
from prefreg.vectors.quantised import Int8Vector
from prefreg.vectors.sparse import SparseVector

Vector = DenseVector | LowRankVector | Int8Vector | SparseVector

KINDS: dict[str, type[Vector]] = {
    "dense": DenseVector,
    "low-rank": LowRankVector,
    "int8": Int8Vector,
    "sparse": SparseVector,
}
