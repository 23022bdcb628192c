"""The rows of a bank that are nearest by cosine: exact, in blocks, so that the devices never hold the bank, nor all
similarities, at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.sharding import ROWS, everywhere, fetched, make_mesh
from jssl.transforms import unit

BLOCK = 8192  # rows of the bank on the devices at a time
WAITING = 16384  # queries on the devices at a time: the bank is read once for so many
TOGETHER = 1024  # queries that meet a block of the bank in one product


def neighbours(bank, queries, k, *, block=BLOCK, mesh=None):
    """The `k` rows of `bank` nearest by cosine to each of `queries` -> similarity float32, index int32 [M, min(k, N)].

    Sorted from the nearest; of equal ones the first row of the bank comes first. Each device finds the nearest among
    its rows of every block and keeps a running top-k; at the end those of all devices are merged.

    Args:
      bank: [N, D], an array of any float type, a memory-mapped one too, read slice by slice; or an iterator over its
        blocks [n, D] in order, of any lengths, read once, with all queries on the devices.
      queries: [M, D]; None asks for the neighbours of every row of the bank among its other rows, min(k, N - 1) each.
      block: rows of the bank on the devices at a time; [TOGETHER, k + block / devices] is the largest intermediate.
      mesh: devices that share the blocks, with the axes `ROWS`; by default all, those of other processes too, which
        then have to ask the same.

    Raises ValueError for k < 1, an empty bank, and one that holds NaN or infinity.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 neighbour")
    whole, alone = hasattr(bank, "shape"), queries is None
    if alone and not whole:
        raise ValueError("a bank that comes in blocks is read once; expected queries, or the bank as an array")
    mesh = make_mesh() if mesh is None else mesh
    bank = np.asarray(bank) if isinstance(bank, jax.Array) else bank  # from where every device is given its part
    queries = bank if alone else queries
    if whole:
        k, block = min(k, _enough(len(bank), alone)), min(block, len(bank))
    block = -(-block // mesh.size) * mesh.size
    waiting = WAITING if whole else max(len(queries), 1)
    found = []
    for i in range(0, len(queries), waiting):
        some = queries[i : i + waiting]
        own = np.arange(i, i + len(some), dtype=np.int32) if alone else np.full(len(some), -1, np.int32)
        with jax.set_mesh(mesh):  # training, which also asks, has one of its own
            found.append(_search(_blocks(bank, block), some, own, k, block, mesh))
    similarity, index, seen = (list(part) for part in zip(*found, strict=True))
    k = min(k, _enough(seen[0], alone))
    return np.concatenate(similarity)[:, :k], np.concatenate(index)[:, :k]


def _enough(rows, alone):
    """How many neighbours a query can have in a bank of so many rows, that of itself left out where it is `alone`."""
    if rows < 1 + alone:
        raise ValueError(f"the bank has {rows} rows; expected at least {1 + alone}")
    return rows - alone


def _search(blocks, queries, own, k, block, mesh):
    """-> similarity, index [q, k], rows of the bank; own: int [q], the row that is no neighbour of a query, or -1"""
    size = min(TOGETHER, len(queries))
    count = -(-len(queries) // size)
    pad = count * size - len(queries)
    x = _unit(jnp.pad(jnp.asarray(queries, jnp.float32), ((0, pad), (0, 0)))).reshape(count, size, -1)
    x, own = everywhere(mesh, (x, np.pad(own, (0, pad), constant_values=-1).reshape(count, size)))
    cut = NamedSharding(mesh, P(ROWS))
    best = _nothing((mesh.size, count, size, k), cut)
    seen, finite = 0, []
    for rows in blocks:
        there = len(rows)
        rows = np.pad(rows, ((0, block - there), (0, 0))) if there < block else rows
        rows = jax.make_array_from_callback(rows.shape, cut, lambda index, rows=rows: rows[index])
        best, fine = _merge(best, x, own, rows, np.int32(seen), np.int32(there), mesh=mesh)
        seen += there
        finite.append(fine)
        if len(finite) > 1:  # else the host runs ahead of the devices, with a block in memory for each step
            finite[-2].block_until_ready()
    if not all(bool(fine.all()) for fine in finite):
        raise ValueError("the training features hold NaN or infinity; expected finite numbers: did training diverge?")
    similarity, index = fetched(mesh, _sorted(best))
    return similarity.reshape(-1, k)[: len(queries)], index.reshape(-1, k)[: len(queries)], seen


def _blocks(bank, block):
    """The rows of a bank in blocks of so many, the last one shorter."""
    if hasattr(bank, "shape"):
        yield from (bank[i : i + block] for i in range(0, len(bank), block))
        return
    held, filled = None, 0
    for rows in bank:
        while len(rows):
            if held is None:  # a new array for each: the devices may still read the one before
                held, filled = np.empty((block, rows.shape[1]), rows.dtype), 0
            some = rows[: block - filled]
            held[filled : filled + len(some)] = some
            filled, rows = filled + len(some), rows[len(some) :]
            if filled == block:
                yield held
                held = None
    if held is not None:
        yield held[:filled]


def _nothing(shape, sharding):
    return (
        jnp.full(shape, -jnp.inf, jnp.float32, device=sharding),
        jnp.full(shape, np.iinfo(np.int32).max, jnp.int32, device=sharding),
    )


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _merge(best, queries, own, rows, first, there, mesh):
    """The best so far (similarity, index), [devices, blocks, q, k] each, with one more block of the bank; whether each
    device's part of it is finite, [devices]."""
    specs = (P(ROWS), P(), P(), P(ROWS), P(), P())
    return jax.shard_map(_merge_here, mesh=mesh, in_specs=specs, out_specs=P(ROWS))(
        best, queries, own, rows, first, there
    )


def _merge_here(best, queries, own, rows, first, there):
    size, k = len(rows), best[0].shape[-1]
    place = lax.axis_index(ROWS) * size + jnp.arange(size, dtype=jnp.int32)
    index, bank = first + place, unit(rows)

    def merge(block):
        (similarity, where), queries, own = block
        other = jnp.matmul(queries, bank.T, precision=lax.Precision.HIGHEST)  # [q, size]
        other = jnp.where((place < there) & (index != own[:, None]), other, -jnp.inf)
        # The best so far stand first and top_k is stable: ties keep the order of the bank.
        pool = jnp.concatenate([similarity, other], 1)
        where = jnp.concatenate([where, jnp.broadcast_to(index, other.shape)], 1)
        top, chosen = lax.top_k(pool, k)
        return top, jnp.take_along_axis(where, chosen, 1)

    similarity, where = lax.map(merge, ((best[0][0], best[1][0]), queries, own))
    return (similarity[None], where[None]), jnp.isfinite(rows).all()[None]


@jax.jit
def _sorted(best):
    """[devices, blocks, q, k] each -> the best of all devices [blocks, q, k]: the nearest first, then the first row."""
    k = best[0].shape[-1]
    similarity, index = (jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1) for x in best)
    nearness, index = lax.sort((-similarity, index), num_keys=2)
    return -nearness[..., :k], index[..., :k]


_unit = jax.jit(unit)
