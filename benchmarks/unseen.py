"""`python -m benchmarks.unseen FOLDER [NAME...]`: small models of many families, random weights, as ONNX files.

For `python -m benchmarks.zoo FOLDER`. Families come from what is installed: transformers, ultralytics and
segmentation-models-pytorch are exported by PyTorch's TorchScript exporter, Keras models by tf2onnx. What an
exporter refuses is said and left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.torchvision_ops import declare

Maker = Callable[[Path], None]

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "use_cache": False,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2}
HEADS = {"n_layer": 2, "n_head": 4}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "Electra": {"embedding_size": 32},
    "MPNet": {},
    "MobileBert": {"intra_bottleneck_size": 32, "embedding_size": 32, "true_hidden_size": 32},
    "SqueezeBert": {"embedding_size": 64},
    "ConvBert": {"embedding_size": 64},
    "RoFormer": {"embedding_size": 64},
    "Nystromformer": {"segment_means_seq_len": 16, "num_landmarks": 16},
    "XLNet": {
        **HEADS,
        "d_model": 64,
        "d_inner": 128,
        "use_mems_eval": False,
        "max_position_embeddings": None,
    },
}
DECODERS: dict[str, dict[str, Any]] = {
    "GPTNeoX": {},
    "GPTJ": {"n_embd": 64, **HEADS, "rotary_dim": 8, "n_positions": 64},
    "Phi": {},
    "Falcon": {"multi_query": True},
    "Bloom": HEADS,
    "Gemma2": {**GROUPED, "head_dim": 16},
    "Olmo2": GROUPED,
    "StableLm": GROUPED,
    "Granite": GROUPED,
    "Mixtral": {**GROUPED, **EXPERTS},
    "Olmoe": EXPERTS,
    "GptOss": {**GROUPED, **EXPERTS, "head_dim": 16},
    "DeepseekV3": LATENT,
}
PATCHES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 8,
}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 32, 64], "num_attention_heads": [1, 2, 2, 4]}
IMAGES: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": {**PATCHES, "use_relative_position_bias": True},
    "Dinov2Model": {**PATCHES, "use_swiglu_ffn": True},
    "Swinv2ForImageClassification": {
        "image_size": 64,
        "patch_size": 2,
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "ConvNextV2ForImageClassification": STAGES,
    "EfficientNetForImageClassification": {
        "image_size": 64,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.5,
        "hidden_dim": 320,
    },
    "PvtV2ForImageClassification": {**STAGES, "image_size": 64},
    "SegformerForSemanticSegmentation": {**STAGES, "decoder_hidden_size": 32},
    "YolosForObjectDetection": {**PATCHES, "image_size": [64, 64], "num_detection_tokens": 5},
    "DPTForDepthEstimation": {
        **PATCHES,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16, 16, 32, 32],
        "fusion_hidden_size": 16,
        "is_hybrid": False,
    },
    "PerceiverForImageClassificationLearned": {
        "image_size": 64,
        "num_latents": 16,
        "d_latents": 64,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
}
SOUNDS = "Wav2Vec2ForCTC HubertModel WavLMModel SEWModel".split()
EARS = {
    "conv_dim": [32] * 3,
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 3],
    "num_feat_extract_layers": 3,
}
EARS |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
YOLOS = "yolov3-tiny yolov5n yolov8n yolov9t yolov10n yolo11n yolo12n yolo11n-seg yolo11n-pose".split()
SEGMENTERS = {
    "Unet": "mit_b0",
    "UnetPlusPlus": "resnet18",
    "MAnet": "resnet18",
    "Linknet": "efficientnet-b0",
    "FPN": "mobilenet_v2",
    "DeepLabV3Plus": "mobilenet_v2",
    "Segformer": "mit_b0",
}
APPLICATIONS = "MobileNetV2 MobileNetV3Small EfficientNetV2B0 DenseNet121 ResNet50V2 ConvNeXtTiny".split()


def language() -> Iterator[tuple[str, Maker]]:
    """Encoders with their last hidden state exposed, decoders with logits."""
    import torch

    transformers = import_module("transformers")

    ids = torch.randint(3, 99, (2, 16))
    dynamic = {key: {0: "batch", 1: "sequence"} for key in ("ids", "mask")}
    for table, head in ((ENCODERS, "Model"), (DECODERS, "ForCausalLM")):
        for name, options in table.items():

            def make(path: Path, name: str = name, head: str = head, extra: Any = options) -> None:
                config = getattr(transformers, f"{name}Config")(
                    **{key: value for key, value in (SMALL | extra).items() if value is not None}
                )
                config._experts_implementation = "batched_mm"
                inner = getattr(transformers, f"{name}{head}")(config)

                def call(ids: Any, mask: Any) -> Any:
                    return inner(input_ids=ids, attention_mask=mask)[0]

                script(calling(call, inner), (ids, torch.ones_like(ids)), path, ["ids", "mask"], dynamic)

            yield name, make


def senses() -> Iterator[tuple[str, Maker]]:
    """Encoders of images and of sound."""
    import torch

    transformers = import_module("transformers")

    image, sound = torch.randn(2, 3, 64, 64), torch.randn(2, 4000)
    found = [(name, options, image) for name, options in IMAGES.items()]
    found += [(name, {**SMALL, **EARS}, sound) for name in SOUNDS]
    for name, options, x in found:

        def make(path: Path, name: str = name, options: Any = options, x: Any = x) -> None:
            kind = getattr(transformers, name)
            inner = kind(kind.config_class(**options))
            script(calling(lambda x: inner(x)[0], inner), (x,), path, ["x"], {"x": {0: "batch"}})

        yield name, make


def calling(call: Callable[..., Any], inner: Any) -> Any:
    """A module that does what a function of a module does."""
    import torch

    class Calling(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> Any:
            return call(*inputs)

    return Calling()


def detectors() -> Iterator[tuple[str, Maker]]:
    """YOLO heads of all generations."""
    import torch

    tasks = import_module("ultralytics.nn.tasks")

    kinds = {"seg": tasks.SegmentationModel, "pose": tasks.PoseModel}
    for name in YOLOS:

        def make(path: Path, name: str = name) -> None:
            kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
            model = kind(f"{name}.yaml", ch=3, verbose=False).float()
            for module in model.modules():
                if hasattr(module, "export"):
                    module.export, module.format = True, "onnx"
            script(model, (torch.rand(2, 3, 128, 128),), path, ["x"], {"x": {0: "batch"}})

        yield name, make


def segmenters() -> Iterator[tuple[str, Maker]]:
    """U-Nets, pyramids and the like on several encoders."""
    import torch

    smp = import_module("segmentation_models_pytorch")

    for name, encoder in SEGMENTERS.items():

        def make(path: Path, name: str = name, encoder: str = encoder) -> None:
            model = getattr(smp, name)(encoder_name=encoder, encoder_weights=None, classes=3)
            script(model, (torch.randn(2, 3, 64, 64),), path, ["x"], {"x": {0: "batch"}})

        yield name, make


def keras_images() -> Iterator[tuple[str, Maker]]:
    """Image classifiers with channels last."""
    import onnx

    keras, tensorflow, tf2onnx = map(import_module, ("keras", "tensorflow", "tf2onnx"))

    for name in APPLICATIONS:

        def make(path: Path, name: str = name) -> None:
            model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
            spec = [tensorflow.TensorSpec((None, 64, 64, 3), tensorflow.float32, name="x")]
            call = tensorflow.function(lambda x: model(x, training=False), input_signature=spec)
            onnx.save(tf2onnx.convert.from_function(call, spec, opset=17)[0], path)

        yield name, make


FAMILIES = (
    ("transformers", language),
    ("transformers", senses),
    ("ultralytics", detectors),
    ("segmentation_models_pytorch", segmenters),
    ("tf2onnx", keras_images),
)


def script(model: Any, inputs: tuple[Any, ...], path: Path, names: list[str], dynamic: Any) -> None:
    """Write a PyTorch model by the TorchScript exporter."""
    import torch

    torch.onnx.export(
        model.eval(), inputs, path, input_names=names, dynamic_axes=dynamic, opset_version=17, dynamo=False
    )


def main() -> None:
    """Build all, or those whose names are given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if find_spec("torch") is not None:
        declare()
    for package, family in FAMILIES:
        try:
            found = list(family())
        except ImportError as error:
            print(f"{package} is left out: {error}", flush=True)
            continue
        for name, make in found:
            path = options.folder / f"{package}_{name}.onnx"
            if path.exists() or (options.names and name not in options.names):
                continue
            try:
                make(path)
                print(f"{path.name}: written", flush=True)
            except Exception as error:  # whatever an exporter raises
                path.unlink(missing_ok=True)
                print(f"{path.name}: {' '.join(str(error).split())[:120]}", flush=True)


if __name__ == "__main__":
    main()
