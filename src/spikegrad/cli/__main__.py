"""``python -m spikegrad.cli`` is ``spikegrad``."""

import sys

from spikegrad_command import main

sys.exit(main())
