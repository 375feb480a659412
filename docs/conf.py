"""How Sphinx builds the documentation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pyvmm import __version__

project = "pyvmm"
version = release = __version__
copyright = "the pyvmm authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "pyvmm_pictures", "pyvmm_reference"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_ext", "requirements.txt"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # os.environ, and not what is in it
html_theme = "furo"
html_title = f"pyvmm {release}"
html_static_path = ["_static"]
html_css_files = ["pyvmm.css"]
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
nitpicky = False
