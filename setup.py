"""Put the notebooks and their parameters into the wheel; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithCourse(build_py):
    """Copy what lies beside the package in a clone into the package that is built."""

    def run(self) -> None:
        """Build the package, then add to it; an editable installation uses the clone's own."""
        super().run()
        if self.editable_mode:
            return
        for path in (*ROOT.glob("notebooks/0*.ipynb"), *ROOT.glob("params/*.yaml")):
            target = Path(self.build_lib) / "lungseg_utils" / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithCourse})
