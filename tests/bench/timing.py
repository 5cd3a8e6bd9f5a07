"Times that can be compared: calls take turns, so that a disturbance hits all alike."
import time


def times_ms(*calls, repeats: int) -> list[list[float]]:
    "The runs of each, in milliseconds, after one that does not count."
    for call in calls: call()
    runs = [[] for _ in calls]
    for _ in range(repeats):
        for call, spent in zip(calls, runs, strict=True):
            start = time.perf_counter(); call(); spent.append(1000 * (time.perf_counter() - start))
    return runs


def best_ms(*calls, repeats: int = 9) -> list[float]:
    "The fastest run of each."
    return [min(spent) for spent in times_ms(*calls, repeats=repeats)]
