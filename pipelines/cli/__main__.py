"""``python -m pipelines.cli`` is ``cnn-codes``."""

import sys

from pipelines.cli.app import main

sys.exit(main())
