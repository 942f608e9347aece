"""The checkout itself, when a program is run in the folder that holds it and this folder is called `wcsim`.

Python then takes this folder for the package, before an editable install is asked.  So it hands on to the package that
lies within.  Easy to get wrong: this file is not part of the package, and nothing else belongs here.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_inner = Path(__file__).parent / "wcsim"
_spec = spec_from_file_location(__name__, _inner / "__init__.py", submodule_search_locations=[str(_inner)])
assert _spec is not None
assert _spec.loader is not None
_module = sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
