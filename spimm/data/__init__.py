"""Images or events in, batches out: data sets, splits in memory or on disk, augmentation, resumable loaders."""

from spimm.data.corrupt import Corrupt as Corrupt
from spimm.data.dataset import ImageData as ImageData
from spimm.data.files import CROP_FRACTION as CROP_FRACTION
from spimm.data.files import ImageFiles as ImageFiles
from spimm.data.folds import stratified_fold as stratified_fold
from spimm.data.formats import EventFileError as EventFileError
from spimm.data.formats import read_gesture_labels as read_gesture_labels
from spimm.data.formats import read_packed as read_packed
from spimm.data.formats import read_recording as read_recording
from spimm.data.frames import Bins as Bins
from spimm.data.frames import Framing as Framing
from spimm.data.frames import Representation as Representation
from spimm.data.loader import Loader as Loader
from spimm.data.mix import Mix as Mix
from spimm.data.recording import Recording as Recording
from spimm.data.registry import list_data as list_data
from spimm.data.registry import load_data as load_data
from spimm.data.registry import takes_frames as takes_frames
from spimm.data.save import save_recording as save_recording
from spimm.data.save import save_recordings as save_recordings
from spimm.data.simulator import simulate_events as simulate_events
from spimm.data.split import ImageSplit as ImageSplit
from spimm.data.static import stratified_split as stratified_split
from spimm.data.transforms import Augment as Augment
from spimm.data.transforms import Interpolation as Interpolation
