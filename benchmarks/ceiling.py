"""How fast the machine multiplies matrices: what achieved arithmetic is held against.

python -m benchmarks.ceiling                 # of this machine, all cores
"""

from __future__ import annotations

import time

SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
# Dense matrix products of one device, TFLOP/s, from the makers' data sheets.
PEAKS = {
    "H100": {"bfloat16": 989.0, "tensorfloat32": 494.0, "float32": 67.0},
    "H200": {"bfloat16": 989.0, "tensorfloat32": 494.0, "float32": 67.0},
    "A100": {"bfloat16": 312.0, "tensorfloat32": 156.0, "float32": 19.5},
}


def matmul_gflops(dtype: str = "float32", repeats: int = 10, side: int | None = None) -> float:
    """GFLOP/s of one large square product, the best of several; sums are in float32.

    The precision of float32 operands is jax's `default_matmul_precision`.
    """
    import jax  # not before the platform has been set up
    import jax.numpy as jnp

    side = side or SIDE.get(jax.default_backend(), 2048)
    x, y = (jax.random.normal(jax.random.key(i), (side, side)).astype(dtype) for i in (0, 1))
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32))
    jax.block_until_ready(product(x, y))
    best = float("inf")
    for _ in range(repeats):
        start = time.monotonic()
        jax.block_until_ready(product(x, y))
        best = min(best, time.monotonic() - start)
    return 2 * side**3 / best / 1e9


def peak_gflops(device_kind: str, precision: str) -> float | None:
    """What the data sheet promises of a device, None where we have none.

    >>> peak_gflops("NVIDIA H100 80GB HBM3", "bfloat16"), peak_gflops("cpu", "float32")
    (989000.0, None)
    """
    found = [peaks for name, peaks in PEAKS.items() if name in device_kind]
    return 1000 * found[0][precision] if found else None


if __name__ == "__main__":
    for dtype in ("float32", "bfloat16"):
        print(f"{dtype}: {matmul_gflops(dtype):,.0f} GFLOP/s")
