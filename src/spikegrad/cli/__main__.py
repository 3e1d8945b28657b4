"""``python -m spikegrad.cli`` is ``spikegrad``."""

import sys

from . import main

sys.exit(main())
