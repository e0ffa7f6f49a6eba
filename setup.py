# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled modules; everything else about the project stands in pyproject.toml.

VSWITCH_BUILD=debug adds bounds checks; VSWITCH_BUILD=sanitize adds AddressSanitizer and UndefinedBehaviorSanitizer too.
"""
import os
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

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
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
)
