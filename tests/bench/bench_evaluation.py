"""How fast predictions are scored: ratios against a reference measured in the same run, 16 joints, 51 thresholds, one core.

Run: python tests/bench/bench_evaluation.py
"""
import tempfile

import numpy as np
from timing import best_ms

from msspose.evaluation import Truth, compare, count_joints, evaluate, pckh
from msspose.predictions import save_report
from msspose.skeleton import MPII

THRESHOLDS = np.arange(51) / 100


def people(m: int, seed: int = 0) -> tuple[np.ndarray, Truth]:
    "Predictions and truth of so many people, each in the company of two, one joint in fourteen not annotated, one in five occluded."
    dice = np.random.default_rng(seed)
    joints, reference = dice.uniform(0, 1000, (m, 16, 2)), dice.uniform(20, 100, m)
    visible = dice.choice([0, 1, 2], (m, 16), p=(0.07, 0.2, 0.73))
    others = np.repeat(np.arange(m), 2), dice.uniform(0, 1000, (2 * m, 16, 2)), np.full((2 * m, 16), 2)
    return joints + dice.normal(0, 0.25, joints.shape) * reference[:, None, None], Truth(joints, visible, reference, MPII, others)


def plain_curve(predictions, truth) -> np.ndarray:
    "The equation, once for each threshold: (T, N)."
    distance = np.linalg.norm(predictions - truth.joints, axis=-1) / truth.reference[:, None]
    return np.stack([((distance <= threshold) & (truth.visible > 0)).sum(0) for threshold in THRESHOLDS])


def curve(predictions, truth) -> np.ndarray:
    counts = count_joints(predictions, truth.joints, truth.visible > 0, truth.reference, THRESHOLDS)
    return counts[:, :51].cumsum(1).T


def plain_interval(predictions, truth, samples: int) -> np.ndarray:
    "The bootstrap of one number, by scoring each drawn set of people."
    dice, m = np.random.default_rng(0), len(truth.joints)
    rows = [dice.integers(0, m, m) for _ in range(samples)]
    return np.quantile([pckh(predictions[r], truth.joints[r], truth.visible[r], truth.reference[r]) for r in rows], (0.025, 0.975))


def row(name: str, wanted: float, fast: float, slow: float, against: str) -> None:
    print(f"{name:42}{fast:9.2f}{slow:14.2f}{slow / fast:8.1f}   against {against}; wanted: under {wanted:,.0f} ms")


def bench_curve(m: int, wanted: float, repeats: int) -> None:
    predictions, truth = people(m)
    assert np.array_equal(curve(predictions, truth), plain_curve(predictions, truth))
    fast, slow, whole = best_ms(lambda: curve(predictions, truth), lambda: plain_curve(predictions, truth),
                                lambda: evaluate(predictions, truth), repeats=repeats)
    row(f"curve, {m:,} people", wanted, fast, slow, "a comparison per threshold")
    row(f"evaluate, {m:,} people", 2 * wanted, whole, slow, "the plain curve alone")


def bench_report(m: int, samples: int, repeats: int) -> None:
    predictions, truth = people(m)
    report, other = evaluate(predictions, truth), evaluate(predictions * 0.99 + truth.joints * 0.01, truth)
    with tempfile.TemporaryDirectory() as folder:
        full, paired, kept, slow = best_ms(lambda: report.to_markdown(full=True), lambda: compare(report, other),
                                           lambda: save_report(report, folder), lambda: plain_interval(predictions, truth, samples),
                                           repeats=repeats)
    slow *= 1000 / samples
    row(f"full report, {m:,} people", 2000, full, slow, "one interval by scoring each of 1,000 drawn sets")
    row(f"compare, {m:,} people", 2000, paired, 2 * slow, "the same of two")
    row(f"report with figures as files, {m:,} people", 4000, kept, slow, "as above")


def main() -> None:
    print(f"{'':42}{'ms':>9}{'reference ms':>14}{'ratio':>8}")
    bench_curve(2958, 1, 40)
    bench_curve(100_000, 40, 5)
    bench_report(2958, 50, 3)


if __name__ == "__main__": main()
