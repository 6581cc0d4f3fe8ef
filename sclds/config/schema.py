"""The whole typed configuration: every number of the method and of a run, with its unit, default and bounds.

`sclds.config.reading` reads a YAML file and `key=value` pairs over these defaults; every fault is reported at once.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sclds.config.base import Epsilon, MayChange, Positive, Probability, Section, Share, Weight
from sclds.config.model import ModelConfig

LOSS_WEIGHTS = ("contrastive", "sigmoid", "itm", "mlm", "mvsc", "mlsc", "mltc_image", "mltc_text")
"""Fields of `losses` that are weights."""
_Deviation = Annotated[float, Field(gt=0.0, le=1.0)]
_Name = Annotated[str, Field(min_length=1)]
MAGNITUDES = 30
"""The largest magnitude of RandAugment."""


class DatasetConfig(Section):
    """One data set: a row in YAML, never a class."""

    name: _Name
    """Short name used in logs, images and the quarantine file."""
    shards: _Name
    """WebDataset tar files: a folder, a glob, a range such as `{00000..00099}`, or a URL of one (`s3://`, `gs://`, `hf://`,
    any of fsspec); `embedded:NAME` is a folder inside the package. Without it the row is the one of this name in
    sclds/data/data_sets.yaml."""
    kind: Literal["image", "video"] = "image"
    """What a sample shows: one image, or a video of which `data.frames` frames are taken."""
    key_ends: Literal["first_dot", "last_dot"] = "first_dot"
    """Where a sample's key ends in its members' names: `v1.0.jpg` is of sample `v1`, WebDataset's rule, or `v1.0`."""
    weight: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """How often a sample of this set is seen per epoch, relative to once."""
    phrase_dropout: Probability = 0.0
    """Training sets: chance that a phrase of a caption, as commas separate them, is left out; one always stays. For
    captions that are a title and keywords (clip art, stock photographs), which are otherwise learned by heart."""


class DataConfig(Section):
    """Where samples come from and how they are decoded."""

    train: list[DatasetConfig]
    """Training sets, mixed."""
    heldout: MayChange[list[DatasetConfig]] = []
    """Sets that training never sees: retrieval and losses are measured on them."""
    tokenizer: _Name = "roberta-base"
    """`embedded`, or any Hugging Face tokenizer name or folder."""
    max_text_tokens: Annotated[int, Field(ge=3, le=512)] = 50
    """Texts are cut to this many tokens, BOS and EOS included."""
    image_size: Positive = 288
    """Side of a training image in pixels; a multiple of `model.vision.patch_size`."""
    video_size: Positive = 224
    """Side of a frame of a video in pixels; a multiple of `model.vision.patch_size`."""
    frames: Annotated[int, Field(ge=1, le=64)] = 4
    """Frames taken from a video, one from each of as many equal segments."""
    augmentation: Literal["random_resized_crop", "shift", "resize"] = "random_resized_crop"
    """Training geometry: crop of random area and aspect, a whole image moved by a few pixels, or a plain resize."""
    crop_area: tuple[Share, Share] = (0.5, 1.0)
    """Range of the area of a random resized crop, as a share of the image."""
    shift_pixels: Annotated[int, Field(ge=0)] = 4
    """Largest move of `augmentation: shift`, in pixels of the decoded size."""
    flip: bool = False
    """Mirror half of the images. Off: captions say left and right."""
    randaugment_operations: Annotated[int, Field(ge=0, le=8)] = 0
    """RandAugment: operations on each training sample, the same on all frames of a video; 0 is off. Published for
    fine-tuning and video: 2."""
    randaugment_magnitude: Annotated[int, Field(ge=0, le=MAGNITUDES)] = 9
    """RandAugment: strength of every operation, of 30."""
    mean: tuple[Share, Share, Share] = (0.48145466, 0.4578275, 0.40821073)
    """Channel means that are subtracted, of pixels in [0, 1]; CLIP's. Means of pixels up to 255 are divided by 255."""
    std: tuple[_Deviation, _Deviation, _Deviation] = (0.26862954, 0.26130258, 0.27577711)
    """Channel standard deviations that pixels in [0, 1] are divided by; CLIP's."""
    device: MayChange[Literal["cpu", "mixed"]] = "cpu"
    """Where DALI decodes: `cpu`, or `mixed` (on the GPU, with its JPEG decoder and NVDEC)."""
    hw_decoder_load: MayChange[Share] = 0.9
    """Share of the JPEGs of a batch that the GPU's JPEG decoder takes (A100, H100), the rest its cores; `device: mixed`
    only."""
    nvdec: MayChange[bool] = True
    """Decode videos with NVDEC, else on the CPU; `device: mixed` only."""
    decode_threads: MayChange[Positive] = 2
    """DALI's threads per process."""
    prefetch: MayChange[Positive] = 2
    """Micro-batches decoded ahead."""
    prefetch_bytes: MayChange[Positive] = 2**30
    """Most bytes of the micro-batches decoded ahead, per process; one is decoded ahead whatever its size."""
    shuffle_block: Positive = 16
    """Shards whose samples are shuffled together; more shuffles better, fewer reads more sequentially."""
    cache_dir: str = "~/.cache/sclds/shards"
    """Folder on a local disk where shards behind a URL are fetched to; all processes of a machine share it."""
    cache_bytes: Positive = 200_000_000_000
    """Most bytes of `cache_dir`; shards that were not read for longest make room. At least two blocks must fit."""
    skip_batches: MayChange[list[tuple[Annotated[int, Field(ge=0)], Positive]]] = []
    """Windows of global batches that no step reads, each as its first batch, from 0, and their number. A run that goes
    on may change those that none of its steps has come to yet."""
    max_bad_share: MayChange[Share] = 0.01
    """A run stops when more than this share of the samples it has read was set aside as unusable."""
    max_pixels: Annotated[int, Field(ge=1, le=178_000_000)] = 64_000_000
    """Most pixels of an image, or of a frame of a video; a larger one is set aside before it is decoded, so that memory
    stays bounded: 3 bytes a pixel, at worst for all of a micro-batch. Pillow reads none of more than 178 million."""


class MaskingConfig(Section):
    """Shares of what each masked view hides (METHOD: views)."""

    mlm_ratio: Share = 0.15
    """t1: share of the words chosen for masked language modeling (80/10/10)."""
    scl_text_ratio: Share = 0.4
    """t2: draws, with replacement, as a share of the inner tokens."""
    scl_vision_ratio: Share = 0.8
    """v1: share of the patches dropped; one tube mask for all frames."""
    mltc_vision_ratio: Share = 0.3
    """v2 (GLSCL): share of the patches replaced by the mask token."""


class LossesConfig(Section):
    """Weights of the objectives (METHOD: losses); 0 switches one off, and then it is not computed."""

    contrastive: Weight = 0.5
    """Text and vision projections, learnable temperature."""
    sigmoid: Weight = 0.0
    """SigLIP's pairwise loss on the same projections, its own scale and bias: an alternative to contrastive."""
    itm: Weight = 1.0
    """Image-text matching, two classes."""
    itm_negatives: Literal["group", "hard"] = "group"
    """Wrong image of a text, out of its group: any of its kind, or `hard`, one drawn by contrastive similarity."""
    mlm: Weight = 1.0
    """Masked language modeling."""
    mlm_view: Literal["t1", "t2"] = "t1"
    """Masked text whose words MLM predicts: `t1`, its own as published, or `t2`, MLSC's, which saves a text view and a
    fusion pair (economy mode)."""
    mvsc: Weight = 1.0
    """Masked vision semantic completion, per frame."""
    mlsc: Weight = 1.0
    """Masked language semantic completion."""
    mltc_image: Weight = 0.0
    """GLSCL: masked vision tokens; published 0.2."""
    mltc_text: Weight = 0.0
    """GLSCL: masked text tokens; published 0.2."""
    completion_temperature: Annotated[float, Field(gt=0.0)] = 0.03
    """Fixed temperature of mvsc, mlsc, mltc_image and mltc_text."""
    negatives: Literal["global_batch", "micro_batch"] = "global_batch"
    """Which samples are negatives under gradient accumulation: the whole global batch (a second forward pass), or the
    micro-batches that run at the same time."""
    duplicates: Literal["negatives", "ignore", "positives"] = "ignore"
    """What two samples of the same caption or the same image are to each other in the losses over the global batch and
    in ITM: `negatives` as published, nothing (`ignore`), or `positives` like a sample's own partner."""
    scaling: Literal["exact", "published"] = "exact"
    """`exact`: weights mean what they say. `published`: contrastive, mvsc, mlsc and mltc_text gradients are divided by
    `published_world_size`, as the published gather did (not the temperature's)."""
    published_world_size: Positive = 1
    """Number of GPUs of the published run that `scaling: published` imitates."""


class BatchConfig(Section):
    """One global batch; micro-batch and accumulation follow from the number of processes."""

    global_size: Annotated[int, Field(ge=1, le=2**24)] = 4096
    """Samples per optimizer step, over all processes and accumulation steps."""
    max_micro_size: MayChange[Positive] = 64
    """Most samples that one process runs at once."""
    group_size: Positive = 8
    """Neighbors in the global batch that always travel together: ITM and mltc_image negatives come from them, so that
    the result does not depend on the split. Divides every micro-batch."""
    layout: Literal["by_size", "shuffled"] = "by_size"
    """Order in which the samples of a micro-batch lie in the packed buffers: equal sizes side by side, or in disorder,
    slower and equal but for rounding, as `sclds verify invariance` uses it to show just that."""


class OptimizerConfig(Section):
    """AdamW and its groups (METHOD: pre-training settings)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-5
    """Peak rate of the encoders."""
    fusion_multiplier: Annotated[float, Field(gt=0.0)] = 5.0
    """Rate of fusion (transforms, token types, layers, poolers) as a multiple."""
    heads_multiplier: Annotated[float, Field(gt=0.0)] = 5.0
    """Rate of the MLM and ITM heads as a multiple."""
    betas: tuple[Probability, Probability] = (0.9, 0.98)
    """AdamW's betas."""
    eps: Epsilon = 1e-8
    """AdamW's epsilon."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay; none on biases, norms and the temperature."""
    clip_norm: Weight = 1.0
    """Largest global gradient norm; 0 does not clip."""
    max_skipped_in_a_row: MayChange[Positive] = 10
    """A run stops when this many steps on end are skipped because their gradient is not finite."""
    implementation: Literal["torch", "deepspeed", "apex"] = "torch"
    """Whose fused AdamW runs."""


class ScheduleConfig(Section):
    """Linear warm-up, linear decay to 0."""

    steps: Positive = 100_000
    """Optimizer steps of the run."""
    warmup_share: Share = 0.1
    """Share of the steps over which the rate rises."""


class EngineConfig(Section):
    """DeepSpeed."""

    zero_stage: MayChange[Literal[0, 1, 2, 3]] = 3
    """0 replicates everything, 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute type; master weights are fp32 in both."""
    gradient_precision: Literal["fp32", "bf16"] = "fp32"
    """Type in which bf16 gradients are added up over micro-batches and over processes; `bf16` halves what is sent and
    kept, and loses low bits with every addition."""
    activation_checkpointing: MayChange[bool] = False
    """Recompute every layer in backward instead of keeping its activations."""
    kernels: MayChange[Literal["auto", "triton", "torch"]] = "auto"
    """Our kernels: `auto` is Triton on CUDA, at sizes that gain from it, and the PyTorch twins elsewhere."""
    norms: Literal["torch", "apex", "liger"] = "torch"
    """Whose LayerNorm runs: PyTorch's, or the fused one of NVIDIA Apex or Liger Kernel (CUDA)."""
    attention: MayChange[Literal["auto", "flash_attn_3", "flash_attn_4", "flash_attn", "torch_varlen", "sdpa"]] = "auto"
    """Attention backend: `auto` takes for each call site (vision, text, fusion self, fusion cross) the first in this
    order that its dropout, precision, heads and device allow (docs/engine.md)."""
    env: MayChange[list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]]] = []
    """Names of environment variables that every host needs, such as DATA_ROOT: `sclds launch` hands their values on."""
    deepspeed: MayChange[dict[str, Any]] = {}
    """Further settings of DeepSpeed, by its own names, over ours: buckets, prefetching, monitors. Keys that would
    change what a step computes are refused, with the setting to use instead (docs/engine.md)."""


class CheckpointConfig(Section):
    """When state is saved."""

    every: Positive = 1000
    """Optimizer steps between checkpoints; one is always written at the end and on SIGTERM. A step waits for the copy
    into memory alone; another process of every rank writes it."""
    keep: Positive = 3
    """Checkpoints kept, the newest ones; older ones are removed after a newer one is complete."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Checkpoints at multiples of so many steps are kept besides, for good; a multiple of `every`. 0: none."""
    best: str | None = None
    """Figure of the measurements during training (`evaluation.every`), such as `heldout/SET/total` or
    `heldout/SET/text_to_vision_r10`: the checkpoint at which it was best is kept beside the newest ones."""


class LimitsConfig(Section):
    """How long a part of a run may take before every process ends with a message that names who held it up; seconds.

    Collectives wait a minute longer: than `start` until the run is built, than the longest of the others from then on.
    """

    start: Annotated[float, Field(gt=0.0)] = 1800.0
    """From the start of a process until all have met, and the engine is built and loaded."""
    step: Annotated[float, Field(gt=0.0)] = 1800.0
    """One optimizer step, its data included."""
    save: Annotated[float, Field(gt=0.0)] = 3600.0
    """One checkpoint."""
    evaluation: Annotated[float, Field(gt=0.0)] = 7200.0
    """One pass over the held-out data."""


class GuardsConfig(Section):
    """What a run watches itself by (docs/bad_days.md)."""

    spike_deviations: Weight = 0.0
    """A logged loss this many robust standard deviations above its median takes the run back to the checkpoint before,
    and the batches from there on are left out. 0 is off: the published recipes read every batch."""
    spike_window: Annotated[int, Field(ge=4)] = 64
    """Logged losses whose median and spread the next one is held against."""
    spike_skip: Positive = 200
    """Global batches that are left out, at least all up to the spike; PaLM left out 200 to 500."""
    memory_every: MayChange[Annotated[int, Field(ge=0)]] = 100
    """Optimizer steps between looks at whether bits of weights, optimizer or gradients changed by themselves; sums are
    taken in every step. 0 takes none."""
    probe_every: MayChange[Annotated[int, Field(ge=0)]] = 0
    """Optimizer steps between forwards of one micro-batch on every rank, which have to agree bit for bit; 0 is off."""


class LogConfig(Section):
    """What is written down."""

    every: Positive = 10
    """Optimizer steps between metric lines."""
    pictures_every: Annotated[int, Field(ge=0)] = 1000
    """Optimizer steps between images of masked inputs in TensorBoard; 0 writes none."""
    tensorboard: bool = True
    """Write TensorBoard event files."""
    wandb: str | None = None
    """Project of Weights & Biases that the run is written to, by its own library; WANDB_MODE=offline stays here."""
    mlflow: str | None = None
    """Experiment of MLflow that the run is written to, at MLFLOW_TRACKING_URI."""
    trackio: str | None = None
    """Project of trackio that the run is written to."""
    stuck_share: Share = 0.2
    """A run says so once when a loss stayed at what guessing gives for this share of its steps; 0 never says so."""
    slow_rank: Annotated[float, Field(gt=1.0)] = 1.3
    """A run names a rank and its host when a step's own work takes it this many times the middle rank's time."""


class EvaluationConfig(Section):
    """What is measured on held-out data at the end and, if asked for, during training; losses at step 0 too."""

    tasks: list[Literal["losses", "retrieval", "align_bench", "vqa", "snli_ve", "nlvr2"]] = ["losses", "retrieval"]
    """What is measured: the mean of every loss, and retrieval in both directions; in a fine-tuning its task; of both,
    how much of the attention lies where a caption's phrases are."""
    align_bench: Annotated[str, Field(min_length=1)] | None = None
    """The folder of ALIGN-BENCH (images/, pkls/) that the task `align_bench` reads, all of it."""
    batch_size: Positive = 64
    """Samples encoded, or pairs matched, at once."""
    captions: Literal["first", "all"] = "first"
    """Captions of a sample that take part in retrieval: the first, or all, any of which is right for its image, as
    published for COCO and Flickr30k."""
    rerank: Annotated[int, Field(ge=0)] = 0
    """First candidates of every query that the matching head sorts anew in retrieval; as many as there are sorts all, 0
    sorts none."""
    frames: Annotated[int, Field(ge=1, le=64)] | None = None
    """Frames of a video that held-out measurements take; none takes `data.frames`."""
    max_samples: Positive = 1000
    """Most samples of each held-out set that are read."""
    every: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between measurements during training; 0 measures at the start and the end only."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the batches of each held-out set that a measurement during training reads, at even distances and always
    the same; the end reads all."""


class TaskConfig(Section):
    """A downstream task that is fine-tuned instead of pre-training (docs/tasks.md)."""

    name: Literal["vqa", "snli_ve", "nlvr2", "retrieval"]
    """`vqa` answers questions, `snli_ve` judges whether an image entails a statement, `nlvr2` whether a statement about
    two images is true, `retrieval` ranks the captions of a group."""
    min_answer_count: Positive = 9
    """`vqa`: an answer is one of the classes if it is given to so many training questions."""
    questions_per_image: Positive = 1
    """Most questions, or statements, about an image that make a sample: it is encoded once for all of them. Batches are
    counted in samples. 1, as published, asks each by itself; not of `retrieval`."""
    use_image: bool = True
    """Off: the same model with a blank image, as a measure of what the text alone tells."""


class Config(Section):
    """A run."""

    name: MayChange[_Name]
    """Name of the run."""
    run_dir: MayChange[_Name] = "runs/${name}"
    """Folder that holds everything the run writes."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Keys every draw: order, crops, masks, negatives, initial weights, dropout."""
    data: DataConfig
    """Samples."""
    batch: BatchConfig = BatchConfig()
    """Batch."""
    model: ModelConfig = ModelConfig()
    """Architecture."""
    task: TaskConfig | None = None
    """What is fine-tuned; none pre-trains."""
    masking: MaskingConfig = MaskingConfig()
    """Masked views."""
    losses: LossesConfig = LossesConfig()
    """Objectives."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning-rate schedule."""
    engine: EngineConfig = EngineConfig()
    """DeepSpeed and kernels."""
    checkpoint: MayChange[CheckpointConfig] = CheckpointConfig()
    """Saved state."""
    limits: MayChange[LimitsConfig] = LimitsConfig()
    """Longest waits."""
    guards: GuardsConfig = GuardsConfig()
    """What a run watches itself by."""
    log: MayChange[LogConfig] = LogConfig()
    """Logging."""
    evaluation: MayChange[EvaluationConfig] = EvaluationConfig()
    """Held-out measurements."""

    @model_validator(mode="before")
    @classmethod
    def _of_task(cls, tree: Any) -> Any:
        """Give a fine-tuning its own defaults: no objective of pre-training, and its own task as what is measured."""
        name = tree["task"].get("name") if isinstance(tree, dict) and isinstance(tree.get("task"), dict) else None
        if name is None:
            return tree
        own: dict[str, dict[str, Any]] = {"losses": dict.fromkeys(LOSS_WEIGHTS, 0.0), "evaluation": {"tasks": [name]}}
        given = {section: tree.get(section, {}) for section in own}
        return tree | {key: own[key] | value if isinstance(value, dict) else value for key, value in given.items()}
