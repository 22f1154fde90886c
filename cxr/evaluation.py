"""Evaluation: predictions, metrics, and bootstrap confidence intervals by patient."""

import functools
from collections.abc import Callable, Iterator
from typing import TypedDict

import keras
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxr.batches import ImageBatches
from cxr.calibration import expected_calibration_error


class Estimate(TypedDict):
    """A metric with its 95% confidence interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def predict_in_batches(
    model: keras.Model, x: np.ndarray | ImageBatches, batch_size: int = 32
) -> np.ndarray:
    """Return the outputs of a network for each image.

    All batches have the same shape. On a GPU, every new shape would be compiled
    anew.

    Parameters
    ----------
    model : keras.Model
    x : uint8 array of shape (n, size, size, 1), or ImageBatches of n images
    batch_size : int
        For arrays only: ImageBatches have their own.

    Returns
    -------
    float64 array of shape (n, outputs)
    """
    if isinstance(x, np.ndarray):
        labels = np.zeros(len(x), np.uint8)
        x = ImageBatches([x], np.arange(len(x)), labels, batch_size)
    return model.predict(x, verbose=0)[: len(x.rows)].astype(np.float64)


def predict_probabilities(
    model: keras.Model, x: np.ndarray | ImageBatches
) -> np.ndarray:
    """Return P(PNEUMONIA) for each of n images: float64 array of shape (n,)."""
    return predict_in_batches(model, x)[:, 0]


@functools.lru_cache(maxsize=4)  # Keras compiles the prediction of each new model
def logit_model(model: keras.Model) -> keras.Model:
    """Return the part of a network that ends at its layer "logit"."""
    return keras.Model(model.inputs, model.get_layer("logit").output)


def predict_logits(model: keras.Model, x: np.ndarray | ImageBatches) -> np.ndarray:
    """Return the logit, log(p / (1 − p)), for each of n images: float64 array (n,).

    The output of the layer "logit" keeps the differences that are rounded off where a
    float32 probability is close to 0 or 1.
    """
    return predict_in_batches(logit_model(model), x)[:, 0]


def auc_and_average_precision(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Return (AUC, average precision) of weighted images; NaN if a class is missing.

    The results are those of `roc_auc_score` and `average_precision_score` of
    scikit-learn, which take ten times as long: the bootstrap calls this function
    thousands of times.

    Parameters
    ----------
    labels, probabilities, weights : arrays of shape (n,)
    """
    if not weights[labels == 1].sum() or not weights[labels == 0].sum():
        return float("nan"), float("nan")
    # Rank 0 is the highest probability; equal probabilities share a rank.
    rank = np.unique(-probabilities, return_inverse=True)[1]
    positives = np.bincount(rank, weights * (labels == 1))
    negatives = np.bincount(rank, weights * (labels == 0))
    true_positives = np.cumsum(positives)
    false_positives = np.cumsum(negatives)
    predicted = np.maximum(true_positives + false_positives, 1e-12)
    precision = true_positives / predicted
    # Of each negative: the positives ranked above it, and half of those at its rank.
    ordered_pairs = np.sum(negatives * (true_positives - positives / 2))
    auc = ordered_pairs / true_positives[-1] / false_positives[-1]
    average_precision = np.sum(positives * precision) / true_positives[-1]
    return float(auc), float(average_precision)


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """Return seven metrics of a binary classifier.

    Parameters
    ----------
    labels : int array of shape (n,), 0 (NORMAL) or 1 (PNEUMONIA)
    probabilities : float array of shape (n,)
    threshold : float
        A probability at or above the threshold is a positive prediction.
    weights : float array of shape (n,), optional
        How often each image counts; once if None.

    Returns
    -------
    dict of accuracy, sensitivity, specificity, precision, f1, auc and
    average_precision. A metric that is undefined, such as the sensitivity without a
    positive image, is NaN.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    predicted = probabilities >= threshold
    true_positives = weights[predicted & (labels == 1)].sum()
    false_negatives = weights[~predicted & (labels == 1)].sum()
    false_positives = weights[predicted & (labels == 0)].sum()
    true_negatives = weights[~predicted & (labels == 0)].sum()
    auc, average_precision = auc_and_average_precision(labels, probabilities, weights)

    def ratio(part: float, whole: float) -> float:
        return float(part / whole) if whole else float("nan")

    return {
        "accuracy": ratio(true_positives + true_negatives, weights.sum()),
        "sensitivity": ratio(true_positives, true_positives + false_negatives),
        "specificity": ratio(true_negatives, true_negatives + false_positives),
        "precision": ratio(true_positives, true_positives + false_positives),
        "f1": ratio(
            2 * true_positives, 2 * true_positives + false_negatives + false_positives
        ),
        "auc": auc,
        "average_precision": average_precision,
    }


def cluster_bootstrap_weights(
    patients: ArrayLike, bootstrap_samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield bootstrap samples of patients, as weights of their images.

    Images of the same patient are similar, so whole patients are drawn, with
    replacement. An image counts as often as its patient was drawn.

    Parameters
    ----------
    patients : array-like of shape (n,)
        The patient of each image.
    bootstrap_samples : int
    seed : int

    Yields
    ------
    float64 array of shape (n,)

    References
    ----------
    Field and Welsh, "Bootstrapping clustered data", J. R. Stat. Soc. B, 2007.
    """
    names, patient = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(bootstrap_samples):
        drawn = generator.integers(len(names), size=len(names))
        times_drawn = np.bincount(drawn, minlength=len(names))
        yield times_drawn[patient].astype(float)


def percentile_ci(table: pd.DataFrame) -> dict[str, Estimate]:
    """Return each column's value with its 95% percentile confidence interval.

    Parameters
    ----------
    table : DataFrame
        One column a metric. The first row is computed from all images, each further
        row from one bootstrap sample. Samples in which a metric is NaN are left out.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    estimates: dict[str, Estimate] = {}
    for name in table:
        value, *samples = table[name].astype(float)
        samples = [sample for sample in samples if np.isfinite(sample)]
        low, high = float("nan"), float("nan")
        if samples:
            low, high = np.quantile(samples, (0.025, 0.975)).tolist()
        estimates[str(name)] = {"value": float(value), "low": low, "high": high}
    return estimates


def metrics_with_ci(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: ArrayLike,
    threshold: float,
    bootstrap_samples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Return the metrics of `compute_metrics` with 95% confidence intervals.

    The intervals come from a bootstrap by patient. If all images are classified
    correctly, so are those of every bootstrap sample, and the interval would shrink to
    a point. The exact interval for the number of patients replaces it: those of the
    class that sensitivity or specificity is about, and those of the smaller class for
    the other metrics.

    Parameters
    ----------
    labels, probabilities : arrays of shape (n,)
    patients : array-like of shape (n,)
    threshold : float
    bootstrap_samples : int
    seed : int

    Returns
    -------
    dict of {metric: Estimate}

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika, 1934 (the exact interval).
    """
    samples = [compute_metrics(labels, probabilities, threshold)]
    for weights in cluster_bootstrap_weights(patients, bootstrap_samples, seed):
        samples.append(compute_metrics(labels, probabilities, threshold, weights))
    estimates = percentile_ci(pd.DataFrame(samples))

    patients = np.asarray(patients)
    positives = len(np.unique(patients[labels == 1]))
    negatives = len(np.unique(patients[labels == 0]))
    smaller_class = min(positives, negatives) or max(positives, negatives)
    counts = {"sensitivity": positives, "specificity": negatives}
    for name, estimate in estimates.items():
        exact_low = 0.025 ** (1 / max(1, counts.get(name, smaller_class)))
        if estimate["value"] == estimate["low"] == estimate["high"] == 1:
            estimate["low"] = exact_low
        if estimate["value"] == estimate["low"] == estimate["high"] == 0:
            estimate["high"] = 1 - exact_low
    return estimates


def bootstrap_estimate(
    statistic: Callable[[np.ndarray], float],
    patients: ArrayLike,
    bootstrap_samples: int,
    seed: int,
) -> Estimate:
    """Return a statistic with its 95% interval from a bootstrap by patient.

    Parameters
    ----------
    statistic : function of the weights of the images, an array of shape (n,)
    patients : array-like of shape (n,)
    bootstrap_samples : int
    seed : int
    """
    values = [statistic(np.ones(len(np.asarray(patients))))]
    for weights in cluster_bootstrap_weights(patients, bootstrap_samples, seed):
        values.append(statistic(weights))
    return percentile_ci(pd.DataFrame({"statistic": values}))["statistic"]


def mean_with_ci(
    values: np.ndarray, patients: ArrayLike, bootstrap_samples: int, seed: int
) -> Estimate:
    """Return the mean of values (n,) with a 95% bootstrap CI by patient."""
    if not len(values):
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    means = [
        np.average(values, weights=weights)
        for weights in cluster_bootstrap_weights(patients, bootstrap_samples, seed)
    ]
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return {"value": float(np.mean(values)), "low": low, "high": high}


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:
    """Return (PPV, NPV) at a prevalence, by Bayes' theorem.

    The positive predictive value is the fraction of positive predictions that are
    correct, the negative predictive value that of negative predictions; NaN if there
    is no such prediction.
    """
    true_positives = sensitivity * prevalence
    false_negatives = (1 - sensitivity) * prevalence
    true_negatives = specificity * (1 - prevalence)
    false_positives = (1 - specificity) * (1 - prevalence)
    positives = true_positives + false_positives
    negatives = true_negatives + false_negatives
    return (
        true_positives / positives if positives else float("nan"),
        true_negatives / negatives if negatives else float("nan"),
    )


def describe_confusion_matrix(
    matrix: np.ndarray, metrics: dict[str, Estimate], image_label: str
) -> str:
    """Return in words the errors, and whether the accuracy beats a constant prediction.

    Parameters
    ----------
    matrix : int array of shape (2, 2), rows are the true classes
    metrics : dict of {metric: Estimate}, with "accuracy"
    image_label : str, such as "chest radiographs"
    """
    (true_negatives, false_positives), (false_negatives, true_positives) = matrix
    positives = false_negatives + true_positives
    negatives = true_negatives + false_positives
    prevalence = positives / max(positives + negatives, 1)
    accuracy = metrics["accuracy"]
    verdict = "significantly above"
    if not accuracy["low"] > prevalence:
        verdict = "not significantly above"
    return (
        f"Missed {false_negatives} of {positives} {image_label} with pneumonia; "
        f"{false_positives} false positives among {negatives} normal ones.\n"
        f"Accuracy {accuracy['value']:.1%} (95% CI {accuracy['low']:.1%} to "
        f"{accuracy['high']:.1%}): {verdict} the {prevalence:.1%} of always "
        "predicting PNEUMONIA."
    )


def compare_datasets(
    datasets: dict[str, tuple[np.ndarray, np.ndarray]], threshold: float
) -> pd.DataFrame:
    """Return a table of what a dataset shift changes.

    Parameters
    ----------
    datasets : dict of {name: (labels, probabilities)}
    threshold : float

    Returns
    -------
    DataFrame with a row for each data set
    """
    rows = {}
    for name, (labels, probabilities) in datasets.items():
        metrics = compute_metrics(labels, probabilities, threshold)
        rows[name] = {
            "prevalence": labels.mean(),
            "mean probability": probabilities.mean(),
            "sensitivity": metrics["sensitivity"],
            "specificity": metrics["specificity"],
            "PPV": metrics["precision"],
            "calibration error": expected_calibration_error(labels, probabilities),
        }
    return pd.DataFrame(rows).T


def format_estimate(estimate: Estimate, undefined: str = "not measurable") -> str:
    """Return "0.912 [0.890–0.931]", or another text where there is no value.

    In metrics.json, None stands for NaN.
    """
    values = [estimate["value"], estimate["low"], estimate["high"]]
    if any(value is None or not np.isfinite(value) for value in values):
        return undefined
    return "{:.3f} [{:.3f}–{:.3f}]".format(*values)


def format_metrics(**columns: dict[str, Estimate]) -> pd.DataFrame:
    """Return a table of metrics as texts, "value [low–high]", or "–" if undefined."""
    return pd.DataFrame(
        {
            column: {
                name: format_estimate(estimate, "–")
                for name, estimate in metrics.items()
            }
            for column, metrics in columns.items()
        }
    )


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return `second` minus `first`, two estimates from different patients.

    References
    ----------
    Zou and Donner, "Construction of confidence limits about effect measures",
    Statistics in Medicine, 2008.
    """
    value = second["value"] - first["value"]
    below = np.hypot(second["value"] - second["low"], first["high"] - first["value"])
    above = np.hypot(second["high"] - second["value"], first["value"] - first["low"])
    return {"value": value, "low": value - below, "high": value + above}


def compare_estimates(first: Estimate, second: Estimate) -> str:
    """Return in words how `second` differs from `first`, from other patients."""
    if "" in (format_estimate(first, ""), format_estimate(second, "")):
        return "not comparable"
    difference = independent_difference(first, second)
    value, low, high = difference["value"], difference["low"], difference["high"]
    verdict = "no significant difference"
    if high < 0:
        verdict = "significantly lower"
    if low > 0:
        verdict = "significantly higher"
    shown = round(value, 3) + 0.0  # never -0.000
    return f"{verdict}, {shown:+.3f} (95% CI {low:+.3f} to {high:+.3f})"


def describe_test_scores(
    validation: dict[str, Estimate], test: dict[str, Estimate]
) -> str:
    """Return a line for AUC, sensitivity and specificity: is test harder?

    Parameters
    ----------
    validation, test : dict of {metric: Estimate}
    """
    names = {
        "auc": "AUC",
        "sensitivity": "Sensitivity",
        "specificity": "Specificity",
    }
    return "\n".join(
        f"{name}: {format_estimate(validation[key])} on validation, "
        f"{format_estimate(test[key])} on test: "
        f"{compare_estimates(validation[key], test[key])}."
        for key, name in names.items()
    )


def describe_mean_probability(difference: Estimate) -> str:
    """Return in words whether the probabilities are too high or too low on average.

    `difference`: mean of probability minus label, see `mean_with_ci`.
    """
    mean, low, high = difference["value"], difference["low"], difference["high"]
    verdict = "not significantly too high or too low"
    if low > 0:
        verdict = "significantly too high"
    if high < 0:
        verdict = "significantly too low"
    return (
        f"The mean probability exceeds the prevalence by {mean:+.3f} (95% CI "
        f"{low:+.3f} to {high:+.3f}): {verdict}."
    )


def describe_adapted(before: pd.Series, after: pd.Series, prevalence: float) -> str:
    """Return in words what an adaptation to another prevalence improves.

    Changes that the table does not show, below 0.0005, do not count.

    Parameters
    ----------
    before, after : Series
        Rows of the table of `compare_datasets`.
    prevalence : float
        The true prevalence, which the mean probability should equal.
    """
    verdicts = []
    for name in ("sensitivity", "specificity", "PPV"):
        verdicts.append((name, after[name] - before[name]))
    for name, target in (("mean probability", prevalence), ("calibration error", 0.0)):
        gain = abs(before[name] - target) - abs(after[name] - target)
        verdicts.append((name, gain))
    better = [name for name, gain in verdicts if gain >= 0.0005]
    worse = [name for name, gain in verdicts if gain <= -0.0005]
    return (
        f"The adaptation improves {', '.join(better) or 'nothing'}; "
        f"it worsens {', '.join(worse) or 'nothing'}."
    )


def metrics_by_finding(
    labels: np.ndarray,
    probabilities: np.ndarray,
    files: pd.DataFrame,
    threshold: float,
    bootstrap_samples: int,
    seed: int,
) -> pd.DataFrame:
    """Return a table of metrics for each kind of pneumonia that the file names tell.

    Parameters
    ----------
    labels, probabilities : arrays of shape (n,)
    files : DataFrame of n rows, with the columns finding and patient
    threshold : float
    bootstrap_samples : int
    seed : int

    Returns
    -------
    DataFrame with a row for "bacterial" and "viral", as far as there are such images:
    their number, the sensitivity, and the AUC against all normal images, with 95%
    confidence intervals
    """
    rows = {}
    for finding in ("bacterial", "viral"):
        has_finding = (files.finding == finding).to_numpy()
        if not has_finding.any():
            continue
        compared = has_finding | (labels == 0)
        metrics = metrics_with_ci(
            labels[compared],
            probabilities[compared],
            files.patient[compared],
            threshold,
            bootstrap_samples,
            seed,
        )
        texts = format_metrics(value=metrics).value
        rows[finding] = {
            "images": int(has_finding.sum()),
            "sensitivity": texts["sensitivity"],
            "AUC against normal": texts["auc"],
        }
    return pd.DataFrame(rows).T


def paired_auc_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: ArrayLike,
    bootstrap_samples: int,
    seed: int,
) -> Estimate:
    """Return the AUC of `first` minus that of `second`, both for the same images.

    Both are measured on the same bootstrap samples of patients.

    Parameters
    ----------
    labels, first, second : arrays of shape (n,)
    patients : array-like of shape (n,)
    bootstrap_samples : int
    seed : int
    """

    def difference(weights: np.ndarray) -> float:
        aucs = [
            auc_and_average_precision(labels, probabilities, weights)[0]
            for probabilities in (first, second)
        ]
        return aucs[0] - aucs[1]

    return bootstrap_estimate(difference, patients, bootstrap_samples, seed)


def compare_findings(
    labels: np.ndarray,
    probabilities: np.ndarray,
    files: pd.DataFrame,
    bootstrap_samples: int,
    seed: int,
) -> Estimate:
    """Return how much the AUC of bacterial images exceeds that of viral images.

    Both are measured against the same normal images, so their difference is taken in
    each bootstrap sample of patients.

    Parameters
    ----------
    labels, probabilities : arrays of shape (n,)
    files : DataFrame of n rows, with the columns finding and patient
    bootstrap_samples : int
    seed : int
    """

    def difference(weights: np.ndarray) -> float:
        bacterial, viral = [
            auc_and_average_precision(
                labels,
                probabilities,
                weights * ((files.finding == finding).to_numpy() | (labels == 0)),
            )[0]
            for finding in ("bacterial", "viral")
        ]
        return bacterial - viral

    return bootstrap_estimate(difference, files.patient, bootstrap_samples, seed)


def describe_findings(difference: Estimate) -> str:
    """Return in words which form of pneumonia the network detects more easily.

    Parameters
    ----------
    difference : Estimate
        As `compare_findings` returns it.
    """
    value, low, high = difference["value"], difference["low"], difference["high"]
    if not np.isfinite([value, low, high]).all():
        return "The bacterial and the viral form cannot be compared on these images."
    verdict = "no significant difference"
    if low > 0:
        verdict = "the bacterial form is detected more easily"
    if high < 0:
        verdict = "the viral form is detected more easily"
    return (
        f"AUC of bacterial minus AUC of viral images: {value:+.3f} "
        f"(95% CI {low:+.3f} to {high:+.3f}), {verdict}."
    )
