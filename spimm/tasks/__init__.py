"""Tasks: what a backbone's output is trained on and measured by. A task receives a model, it never builds one."""

from spimm.tasks.classify import Classify as Classify
from spimm.tasks.classify import ClassifyMetric as ClassifyMetric
from spimm.tasks.distill import Distill as Distill
