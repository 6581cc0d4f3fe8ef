"""Install `sclds`, its kernels package `scl_kernels` and the shipped configurations from one source tree."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["sclds", "sclds.*"]),
        "sclds.configs",
        *find_packages("kernels", include=["scl_kernels", "scl_kernels.*"]),
    ],
    package_dir={"sclds": "sclds", "sclds.configs": "configs", "scl_kernels": "kernels/scl_kernels"},
    package_data={
        "sclds": ["py.typed", "data/embedded/**/*", "data/embedded/*", "data/*.yaml"],
        "sclds.configs": ["**/*.yaml", "cluster/*"],
        "scl_kernels": ["*.json"],
    },
)
