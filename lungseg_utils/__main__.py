"""`python -m lungseg_utils` is `lungseg`."""

import sys

from lungseg_utils.cli import main

sys.exit(main())
