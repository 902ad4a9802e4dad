"""`python -m edfcore` is the command `edfcore`."""

import sys

from edfcore.demo import main

sys.exit(main())
