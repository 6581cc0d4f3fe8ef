"""Install `sclds` and its kernels package `scl_kernels` from one source tree."""

from setuptools import find_packages, setup

setup(
    name="sclds",
    version="0.1.0",
    description="Vision-language pre-training with Semantic Completion Learning under DeepSpeed ZeRO-3",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["sclds", "sclds.*"]),
        *find_packages("kernels", include=["scl_kernels", "scl_kernels.*"]),
    ],
    package_dir={"sclds": "sclds", "scl_kernels": "kernels/scl_kernels"},
    package_data={
        "sclds": ["py.typed", "data/embedded/**/*", "data/embedded/*", "data/*.yaml"],
        "scl_kernels": ["*.json"],
    },
    install_requires=[
        "av>=14",
        "deepspeed>=0.19,<0.20",
        "fsspec",
        "matplotlib>=3.9",
        "numpy>=2",
        "nvidia-dali-cuda120>=2.4,<3",
        "omegaconf>=2.3",
        "pillow>=11",
        "pydantic>=2.11",
        "rich>=14",
        "safetensors>=0.5",
        "tensorboard>=2.19",
        "tokenizers>=0.22",
        "torch>=2.11",
        "transformers>=5",
        "triton>=3.6",
    ],
    extras_require={
        # flash-attn builds against the installed torch; without it CUDA runs use torch's own variable-length attention.
        "gpu": ["flash-attn>=2.7"],
        "dev": ["mypy", "ninja", "pytest>=8", "pytest-timeout", "ruff", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["sclds=sclds.cli.main:main"]},
)
