"""``python -m fam_export.parity``: one check, as :func:`check_in_own_process` asks for it."""

import sys

from fam_export.parity.process import main

sys.exit(main())
