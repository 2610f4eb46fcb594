"""Every parameter of the course, declared once; the one check of notebooks, files and commands."""

from lungseg_utils.parameters.checking import (
    OLD_NAMES,
    check,
    coerce,
    read,
    validate,
    with_current_names,
)
from lungseg_utils.parameters.kinds import Parameter
from lungseg_utils.parameters.table import (
    PARAMETERS,
    TrainingConfig,
    defaults,
    notebook_line,
    quick_yaml,
)

__all__ = [
    "OLD_NAMES",
    "PARAMETERS",
    "Parameter",
    "TrainingConfig",
    "check",
    "coerce",
    "defaults",
    "notebook_line",
    "quick_yaml",
    "read",
    "validate",
    "with_current_names",
]
