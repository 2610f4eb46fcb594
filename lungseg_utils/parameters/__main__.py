"""Print what is written from the table of parameters.

python -m lungseg_utils.parameters > params/quick.yaml
python -m lungseg_utils.parameters epochs seed     (lines for a notebook's parameters cell)
"""

import sys

from lungseg_utils.parameters import notebook_line, quick_yaml

if sys.argv[1:]:
    print("\n".join(notebook_line(name) for name in sys.argv[1:]))
else:
    print(quick_yaml(), end="")
