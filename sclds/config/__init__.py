"""Every setting of a run: its schema, the rules across fields, how it is read, and what a user did wrong."""

from sclds.config.base import Section
from sclds.config.model import FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.config.rules import cross_field_problems, keys_that_may_change
from sclds.config.schema import (
    MAGNITUDES,
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DatasetConfig,
    EngineConfig,
    EvaluationConfig,
    GuardsConfig,
    LogConfig,
    LossesConfig,
    MaskingConfig,
    OptimizerConfig,
    ScheduleConfig,
    TaskConfig,
)

__all__ = [
    "MAGNITUDES",
    "BatchConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DatasetConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FusionConfig",
    "GuardsConfig",
    "LogConfig",
    "LossesConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "Section",
    "TaskConfig",
    "TextConfig",
    "VisionConfig",
    "cross_field_problems",
    "keys_that_may_change",
]
