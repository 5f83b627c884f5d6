"""`python -m spimm` is `spimm`."""

import sys

from spimm.cli.main import main

sys.exit(main())
