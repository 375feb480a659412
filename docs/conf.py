"""How Sphinx builds the documentation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pyvmm import __version__

project = "pyvmm"
version = release = __version__
copyright = "the pyvmm authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "pyvmm_reference"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_ext", "requirements.txt"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # os.environ, and not what is in it
html_theme = "alabaster"
html_theme_options = {
    "description": "A VMM whose devices are Python packages",
    "page_width": "1080px",
    "fixed_sidebar": True,
}
nitpicky = False
