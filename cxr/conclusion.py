"""The conclusion of a run: what it found, in sentences computed from its report."""

from typing import Any

import numpy as np

from cxr.labels import image_label
from cxr.model_card import list_measured_aucs


def format_estimate(estimate: dict[str, Any]) -> str:
    """Return an Estimate as "0.957 [0.941, 0.969]", or that it is not measurable."""
    values = [estimate[key] for key in ("value", "low", "high")]
    if any(value is None or not np.isfinite(value) for value in values):
        return "not measurable"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def compare_estimates(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Return in words how `second` differs from `first`, an estimate on other images.

    If two independent 95% intervals do not overlap, the difference is significant. If
    they overlap, nothing is claimed.
    """
    if second["high"] < first["low"]:
        return "significantly lower"
    if second["low"] > first["high"]:
        return "significantly higher"
    return "no significant difference shown (the intervals overlap)"


def find_prevalence(report: dict[str, Any], split: str) -> float:
    """Return the fraction of PNEUMONIA among the images of a split."""
    counts = report["counts"][split]
    return counts["PNEUMONIA"] / max(1, sum(counts.values()))


def conclude_data(report: dict[str, Any]) -> str:
    """Return how many images there are, and the accuracy of the majority class."""
    train, val, test = [
        sum(report["counts"][split].values()) for split in ("train", "val", "test")
    ]
    prevalence = find_prevalence(report, "test")
    return (
        f"**Data.** {train:,} training, {val:,} validation and {test:,} test images "
        f"({image_label(report['data'])}). {find_prevalence(report, 'train'):.0%} of "
        f"train and {prevalence:.0%} of test show pneumonia."
    )


def conclude_shortcuts(report: dict[str, Any]) -> str:
    """Return whether features outside the lungs predict the label."""
    auc = report["shortcuts"]["all"]
    verb = "predict" if auc["low"] > 0.5 else "do not significantly predict"
    return (
        f"**Shortcuts** {verb} the label without any shape inside the lungs (AUC "
        f"{format_estimate(auc)}). A validation set with the same shortcuts cannot "
        "show whether a model uses them."
    )


def conclude_models(report: dict[str, Any]) -> str:
    """Return which model loses least on bias-conflicting images."""
    models = report["models"]
    drops = {
        name: columns["auc_bias_aligned"]["value"]
        - columns["auc_bias_conflicting"]["value"]
        for name, columns in models.items()
    }
    smallest = min(drops, key=lambda name: drops[name])
    cnn = models["residual_cnn"]
    return (
        "**Bias-conflicting images**, on which shortcuts mislead: the residual CNN "
        f"has an AUC of {format_estimate(cnn['auc_bias_conflicting'])} on them and of "
        f"{format_estimate(cnn['auc_bias_aligned'])} on the others. The smallest drop "
        f"is that of {smallest.replace('_', ' ').replace('cnn', 'CNN')}."
    )


def conclude_test(report: dict[str, Any]) -> list[str]:
    """Return how the scores on test differ from those on validation."""
    validation, test = report["validation"], report["test"]
    sentences = []
    for key, name in (
        ("auc", "AUC"),
        ("sensitivity", "Sensitivity"),
        ("specificity", "Specificity"),
    ):
        sentences.append(
            f"**{name}** {format_estimate(validation[key])} on validation, "
            f"{format_estimate(test[key])} on test: "
            f"{compare_estimates(validation[key], test[key])}."
        )
    prevalence = find_prevalence(report, "test")
    floor = max(prevalence, 1 - prevalence)
    better = "" if test["accuracy"]["low"] > floor else "not "
    sentences.append(
        f"**Accuracy** on test {format_estimate(test['accuracy'])}: "
        f"{better}significantly better than always predicting the more frequent class "
        f"({floor:.1%})."
    )
    return sentences


def conclude_robustness(report: dict[str, Any]) -> str:
    """Return which perturbation costs most."""
    aucs = list_measured_aucs(report["robustness"])
    if "unchanged" not in aucs:
        return "**Robustness** could not be measured."
    worst = min(aucs, key=lambda name: aucs[name])
    if worst == "unchanged":
        return "**Robustness.** No perturbation lowers the AUC on validation."
    return (
        f"**Robustness.** The perturbation that costs most is "
        f"{worst.replace('_', ' ')}: AUC {aucs[worst]:.3f} instead of "
        f"{aucs['unchanged']:.3f}."
    )


def summarize_findings(report: dict[str, Any]) -> str:
    """Return what a run found and what to remember.

    Parameters
    ----------
    report : dict
        The content of metrics.json.

    Returns
    -------
    str
        Markdown: a list of findings, each with the numbers of this run, and what
        follows from them.
    """
    findings = [
        conclude_data(report),
        conclude_shortcuts(report),
        conclude_models(report),
        *conclude_test(report),
        conclude_robustness(report),
    ]
    remember = [
        "Split by patient; choose the epoch, the calibration and the threshold on "
        "validation.",
        "Open the test set once, and show an interval with every score.",
        "A high validation score says little about images from elsewhere. Perturbed "
        "images, and images on which shortcuts mislead, say more.",
        "A threshold, a PPV and a calibration belong to a place: measure again before "
        "using them elsewhere.",
    ]
    if report["data"] == "phantom":
        findings.insert(
            0, "**PHANTOM images:** no number here says anything about patients."
        )
    lines = ["### What this run found", ""]
    lines += [f"- {finding}" for finding in findings]
    lines += ["", "### What to remember", ""]
    lines += [f"- {sentence}" for sentence in remember]
    return "\n".join(lines)
