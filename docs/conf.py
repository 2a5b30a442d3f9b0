"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build``."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

from sb3_nigt import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for the pictures

project = "sb3_nigt"
author = "The sb3_nigt developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_heading_anchors = 4  # pages link to headings of other pages
exclude_patterns = ["_build", "defaults", "results"]  # tables that a page includes
html_theme = "furo"
html_title = f"{project} {version}"
# Fonts that have all symbols of the formulas at one width:
MONOSPACE = {"font-stack--monospace": "'DejaVu Sans Mono', Menlo, 'Cascadia Mono', Consolas, monospace"}
html_theme_options = {"light_css_variables": MONOSPACE}
autodoc_mock_imports = ["ray"]  # an extra that the documentation does not need
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
nitpicky = False  # types of Stable-Baselines3 and torch are not ours to resolve


def setup(app: Sphinx) -> None:
    """Draw the pictures before the pages are read, unless ``-D draws_pictures=0`` says that only the pages are checked."""
    from curves import draw_all

    app.add_config_value("draws_pictures", True, "env")
    app.connect("builder-inited", lambda app: draw_all() if int(app.config.draws_pictures) else None)
