"""Readers of the files of event cameras; `read_recording` finds the one for a file."""

from spimm.data.formats.gesture import LabelledWindow as LabelledWindow
from spimm.data.formats.gesture import read_gesture_labels as read_gesture_labels
from spimm.data.formats.read import READERS as READERS
from spimm.data.formats.read import Format as Format
from spimm.data.formats.read import read_mended as read_mended
from spimm.data.formats.read import read_packed as read_packed
from spimm.data.formats.read import read_recording as read_recording
from spimm.data.formats.source import EventFileError as EventFileError
