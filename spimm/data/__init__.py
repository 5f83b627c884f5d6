"""Images or events in, batches out: data sets, splits in memory or on disk, augmentation, resumable loaders."""

from spimm.data.dataset import ImageData as ImageData
from spimm.data.files import ImageFiles as ImageFiles
from spimm.data.folds import stratified_fold as stratified_fold
from spimm.data.loader import Loader as Loader
from spimm.data.mix import Mix as Mix
from spimm.data.registry import list_data as list_data
from spimm.data.registry import load_data as load_data
from spimm.data.split import ImageSplit as ImageSplit
from spimm.data.static import stratified_split as stratified_split
from spimm.data.transforms import Augment as Augment
