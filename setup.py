# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled modules; everything else about the project stands in pyproject.toml.

VSWITCH_BUILD=debug adds bounds checks; VSWITCH_BUILD=sanitize adds AddressSanitizer and UndefinedBehaviorSanitizer too.
From a clone that cannot be written to, everything that is made on the way lies in a folder of its own.
"""
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

build = os.environ.get("VSWITCH_BUILD", "release")
checked = build in ("debug", "sanitize")
compile_args = ["-g", "-O1"] if checked else ["-g0", "-O3"]
link_args = []
if build == "sanitize":
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += sanitizers
    link_args += sanitizers

extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        extra_compile_args=[*compile_args, "-Wall", "-Wno-unused-function", "-Werror=implicit-function-declaration"],
        extra_link_args=link_args,
    )
    for source in sorted(Path("vswitch").rglob("*.pyx"))
]

options = {"build_ext": {"parallel": os.cpu_count() or 1}}
translated = None
if not os.access(".", os.W_OK):
    place = tempfile.mkdtemp(prefix="vswitch-build-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    translated = f"{place}/translated"
    options |= {
        "build": {"build_base": f"{place}/build"},
        "egg_info": {"egg_base": place},
        "bdist_wheel": {"bdist_dir": f"{place}/wheel"},
    }

if not {"egg_info", "dist_info"} & set(sys.argv):  # a name and a version need no compiler
    extensions = cythonize(
        extensions,
        build_dir=translated,
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": checked,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
    )

setup(options=options, ext_modules=extensions)
