"""`python -m r3p` is `r3p`."""

import sys

from r3p.cli import main

sys.exit(main())
