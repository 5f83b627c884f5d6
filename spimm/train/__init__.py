"""Training: recipes, the engine, checkpoints that resume bit for bit, evaluation."""

from spimm.train.checkpoint import Checkpoint as Checkpoint
from spimm.train.checkpoint import CheckpointError as CheckpointError
from spimm.train.checkpoint import load_weights as load_weights
from spimm.train.checkpoint import read_checkpoint as read_checkpoint
from spimm.train.config import Recipe as Recipe
from spimm.train.engine import NonFiniteLoss as NonFiniteLoss
from spimm.train.engine import Trainer as Trainer
from spimm.train.engine import TrainResult as TrainResult
from spimm.train.evaluation import evaluate as evaluate
from spimm.train.log import read_log as read_log
from spimm.train.overrides import apply_overrides as apply_overrides
from spimm.train.recipes import describe_recipe as describe_recipe
from spimm.train.recipes import list_recipes as list_recipes
from spimm.train.recipes import load_recipe as load_recipe
from spimm.train.run import build_data as build_data
from spimm.train.run import build_loader as build_loader
from spimm.train.run import build_model as build_model
from spimm.train.run import build_task as build_task
from spimm.train.run import load_run as load_run
from spimm.train.run import train as train
