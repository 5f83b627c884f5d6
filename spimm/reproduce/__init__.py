"""The ledger: every figure that the papers print, what of it is reproduced here, and by which run."""

from spimm.reproduce.collect import add_runs as add_runs
from spimm.reproduce.match import Status as Status
from spimm.reproduce.page import render as render
from spimm.reproduce.page import status as status
from spimm.reproduce.published import list_rows as list_rows
from spimm.reproduce.records import Record as Record
from spimm.reproduce.records import Result as Result
from spimm.reproduce.records import load_results as load_results
from spimm.reproduce.records import save as save
from spimm.reproduce.rows import Row as Row
from spimm.reproduce.rows import find_row as find_row
from spimm.reproduce.rows import show as show
from spimm.reproduce.rows import show_printed as show_printed
from spimm.reproduce.train import prepare as prepare
from spimm.reproduce.train import reproduce as reproduce
