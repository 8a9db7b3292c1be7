"""What an encoder is evaluated on: one file per task (head, loss, metrics), one row here."""

from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.tasks.regression import Regression
from fra.tasks.task import Task
from fra.tasks.years import Years

TASKS: dict[str, type[Task]] = {
    "expression": Expression,
    "attributes": Attributes,
    "landmarks": Landmarks,
    "regression": Regression,
    "years": Years,
}
"""`task` in results.json and task.safetensors → class; `settings` of task.safetensors are its fields."""
