"""Probabilities that mean what they say: one temperature, from labelled faces that taught nothing. N images.

Networks that are trained by cross-entropy are usually surer than they are right. Dividing all outputs by one number,
the temperature, mends most of that and changes no decision (Guo et al., On Calibration of Modern Neural Networks, ICML
2017).
"""

import math

from torch import Tensor

from fra.tasks.task import Task

FEWEST = 50
"""Held-out faces below which a temperature would be guessed (ours)."""
SMALLEST, LARGEST = 0.05, 20.0
"""Temperatures that are looked through; a head that is right about every held-out face would ask for none at all."""


def fit_temperature(task: Task, outputs: Tensor, targets: Tensor) -> float | None:
    """The temperature at which the task's criterion is lowest; None for a task without probabilities or for few faces.

    `outputs` and `targets` are those of faces that the head has not learned from.
    """
    from scipy.optimize import minimize_scalar

    known = task.known(targets)
    outputs, targets = outputs[known].double(), targets[known]
    if len(outputs) < FEWEST or task.certainties(outputs, targets) is None:
        return None

    def loss(logarithm: float) -> float:
        return float(task.criterion(outputs / math.exp(logarithm), targets))

    found = minimize_scalar(loss, bounds=(math.log(SMALLEST), math.log(LARGEST)), method="bounded")
    return math.exp(float(found.x))


def calibration_error(task: Task, outputs: Tensor, targets: Tensor) -> float | None:
    """How far stated and true certainty lie apart on average, in percent: the expected calibration error of 15 bins.

    None for a task without probabilities.
    """
    from torchmetrics.functional.classification import binary_calibration_error

    known = task.known(targets)
    found = task.certainties(outputs[known], targets[known])
    if found is None:
        return None
    stated, right = found
    return 100 * float(binary_calibration_error(stated.float(), right.long(), n_bins=15))


def calibration(
    task: Task, outputs: Tensor, targets: Tensor, *, temperature: float | None, held_out: int
) -> dict[str, float | int | None] | None:
    """`calibration` of results.json: the temperature, the faces it comes from, and the error on the test split."""
    if temperature is None:
        return None
    return {
        "temperature": temperature,
        "held_out_images": held_out,
        "error": calibration_error(task, outputs / temperature, targets),
        "error_uncalibrated": calibration_error(task, outputs, targets),
    }


def tempered(output: Tensor, temperature: float | None) -> Tensor:
    """The output as a task is to read it."""
    return output if temperature is None else output / temperature
