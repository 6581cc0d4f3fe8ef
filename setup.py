"""Where the packages lie; all else is in pyproject.toml.

This file remains because `configs/` beside `sclds/` becomes `sclds.configs`, and `kernels/scl_kernels` a package of its
own: setuptools finds packages of several folders, two of them under other names, only by a list that is computed.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["sclds", "sclds.*"]),
        "sclds.configs",
        *find_packages("kernels", include=["scl_kernels", "scl_kernels.*"]),
    ],
    package_dir={"sclds": "sclds", "sclds.configs": "configs", "scl_kernels": "kernels/scl_kernels"},
)
