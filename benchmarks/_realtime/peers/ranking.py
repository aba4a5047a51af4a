"""What all peers share: packed features by MGET, the model with one thread, and the ranked answer.

Redis holds a key's features as packed float32, which numpy reads without parsing: a peer's best way to features.
"""

import os

import numpy as np

MODEL, FOLDER = os.environ["BENCH_MODEL"], os.environ["BENCH_MODELS"]
SOCKET = os.environ.get("BENCH_REDIS", "")
HOUSEHOLD_SIZE, PRODUCT_SIZE = 8, 24


def load_model():
    """`score(float32 [n, 32]) -> [n]`."""
    if MODEL == "network":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(f"{FOLDER}/network.onnx", options)
        return lambda matrix: session.run(None, {"features": matrix})[0].ravel()
    import lightgbm

    booster = lightgbm.Booster(model_file=f"{FOLDER}/trees.txt")
    return lambda matrix: booster.predict(matrix, num_threads=1)


def keys_of(household, candidates):
    return [b"h:%d" % household, *[b"p:%d" % each for each in candidates]]


def matrix_of(values):
    """From the values of `keys_of`, float32 [n, 32]."""
    matrix = np.empty((len(values) - 1, HOUSEHOLD_SIZE + PRODUCT_SIZE), np.float32)
    matrix[:, :HOUSEHOLD_SIZE] = np.frombuffer(values[0], np.float32)
    matrix[:, HOUSEHOLD_SIZE:] = np.frombuffer(b"".join(values[1:]), np.float32).reshape(-1, PRODUCT_SIZE)
    return matrix


def ranked(candidates, scores):
    """The answer: products with their scores, the best first."""
    order = np.argsort(-scores, kind="stable").tolist()
    scores = scores.tolist()
    return {"items": [{"product_id": candidates[place], "score": scores[place]} for place in order]}


def blocking_redis():
    import redis

    return redis.Redis(unix_socket_path=SOCKET)


def asyncio_redis():
    import redis.asyncio

    return redis.asyncio.Redis(unix_socket_path=SOCKET, max_connections=64)
