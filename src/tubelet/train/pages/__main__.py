"""`python -m tubelet.train.pages STAGE.yaml`."""

import sys

from tubelet.train.pages.run import main

sys.exit(main(sys.argv[1:]))
