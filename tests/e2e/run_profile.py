"""Runs profile.py as CloudLab does and prints its request: run_profile.py PROFILE [--NAME VALUE]…

The geni-lib on PyPI was written for Python 2; CloudLab runs its own newer one. Two places keep the
old one from running here and are patched before the profile runs: print statements in its portal
module, and a request that is written as bytes to a text stream.
"""

import importlib.util
import re
import runpy
import sys

import lxml.etree

spec = importlib.util.find_spec("geni.portal")
source = spec.loader.get_data(spec.origin).decode()
source = re.sub(r"^(\s*)print (.+)$", r"\1print(\2)", source, flags=re.MULTILINE)
module = importlib.util.module_from_spec(spec)
sys.modules["geni.portal"] = module
exec(compile(source, spec.origin, "exec"), module.__dict__)
sys.modules["geni"].portal = module

as_bytes = lxml.etree.tostring
lxml.etree.tostring = lambda *args, **how: as_bytes(*args, **{"encoding": "unicode", **how})

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
