"""The conclusion of a run: what it found, in sentences computed from its report."""

from typing import Any

import pandas as pd

from cxr.calibration import describe_calibration_error
from cxr.evaluation import (
    describe_findings,
    describe_test_scores,
    format_estimate,
    predictive_values,
)
from cxr.grad_cam import judge_grad_cam
from cxr.labels import display_name, image_label
from cxr.model_card import list_measured_aucs
from cxr.model_comparison import describe_choice
from cxr.robustness import describe_border_use
from cxr.thresholds import describe_adaptation


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
    """Return which model is best on bias-conflicting images, and which to keep."""
    models = report["models"]
    aucs = {
        name: columns["auc_bias_conflicting"]["value"]
        for name, columns in models.items()
    }
    best = max(aucs, key=lambda name: aucs[name])
    cnn = models["residual_cnn"]
    return (
        "**Bias-conflicting images**, on which shortcuts help least: the residual CNN "
        f"has an AUC of {format_estimate(cnn['auc_bias_conflicting'])} on them and of "
        f"{format_estimate(cnn['auc_bias_aligned'])} on the others. The highest AUC "
        f"on them is that of the {display_name(best)}. "
        f"{describe_choice(**report['model_choice'])}"
    )


def conclude_test(report: dict[str, Any]) -> list[str]:
    """Return how the scores on test differ from those on validation."""
    validation, test = report["validation"], report["test"]
    sentences = []
    for line in describe_test_scores(validation, test).splitlines():
        name, _, rest = line.partition(":")
        sentences.append(f"**{name}:**{rest}")
    prevalence = find_prevalence(report, "test")
    floor = max(prevalence, 1 - prevalence)
    better = "" if test["accuracy"]["low"] > floor else "not "
    sentences.append(
        f"**Accuracy** on test {format_estimate(test['accuracy'])}: "
        f"{better}significantly better than always predicting the more frequent class "
        f"({floor:.1%})."
    )
    return sentences


def conclude_calibration(report: dict[str, Any]) -> str:
    """Return whether the network is calibrated on validation and on test."""
    error = report["calibration_error"]
    validation = describe_calibration_error(
        "validation", error["after"], error["after_by_chance"]
    )
    test = describe_calibration_error("test", error["test"], error["test_by_chance"])
    return f"**Calibration.** {validation} {test}"


def conclude_alarms(report: dict[str, Any], prevalence: float = 0.05) -> str:
    """Return how many alarms would be right where the disease is rare."""
    values = []
    for split in ("validation", "test"):
        sensitivity = report[split]["sensitivity"]["value"]
        specificity = report[split]["specificity"]["value"]
        if sensitivity is None or specificity is None:
            return "**Alarms** could not be counted."
        values.append(predictive_values(sensitivity, specificity, prevalence)[0])
    return (
        f"**Alarms.** At a prevalence of {prevalence:.0%}, {values[0]:.0%} of the "
        "alarms would be right with the sensitivity and specificity of validation, "
        f"{values[1]:.0%} with those of test."
    )


def conclude_robustness(report: dict[str, Any]) -> str:
    """Return which perturbation costs most."""
    aucs = list_measured_aucs(report["robustness"])
    if "unchanged" not in aucs:
        return "**Robustness** could not be measured."
    worst = min(aucs, key=lambda name: aucs[name])
    if worst == "unchanged":
        return "**Robustness.** No perturbation lowers the AUC on validation."
    text = (
        f"**Robustness.** The perturbation that costs most AUC is "
        f"{worst.replace('_', ' ')}: {aucs[worst]:.3f} instead of "
        f"{aucs['unchanged']:.3f}."
    )
    rates = {
        name: metrics["sensitivity"] + metrics["specificity"]
        for name, metrics in report["robustness"].items()
        if name in aucs
    }
    hardest = min(rates, key=lambda name: rates[name])
    metrics = report["robustness"][hardest]
    return (
        f"{text} The threshold fits worst where images are "
        f"{hardest.replace('_', ' ')}: sensitivity {metrics['sensitivity']:.3f}, "
        f"specificity {metrics['specificity']:.3f}."
    )


def conclude_adaptation(report: dict[str, Any]) -> str:
    """Return how many labeled images a new place needs for a better threshold."""
    table = pd.DataFrame.from_dict(report["adaptation"], orient="index")
    table.index = table.index.astype(int)  # JSON has turned the numbers into texts
    return f"**A new place.** {describe_adaptation(table)}"


def conclude_inspection(report: dict[str, Any]) -> list[str]:
    """Return what section 8 found; nothing if it was not run for this network."""
    if "inspection" not in report:
        return []
    inspection = report["inspection"]
    border_use = describe_border_use(
        inspection["auc_border_masked"],
        inspection["auc_border_only"],
        inspection["auc_lost_without_border"],
    )
    return [
        f"**Findings.** {describe_findings(inspection['bacterial_minus_viral_auc'])}",
        f"**Grad-CAM.** {' '.join(judge_grad_cam(inspection['grad_cam']))}",
        f"**Border.** {border_use}",
    ]


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
        conclude_calibration(report),
        conclude_alarms(report),
        conclude_robustness(report),
        conclude_adaptation(report),
        *conclude_inspection(report),
    ]
    remember = [
        "Split by patient; choose the epoch, the calibration and the threshold on "
        "validation.",
        "Open the test set once, and show an interval with every score.",
        "A high validation score says little about images from elsewhere. Perturbed "
        "images, and images on which shortcuts do not help, say more.",
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
