"""One tool on one scan, in a process of its own: what `predict.py` and `preprocess.py` start and time.

    python benchmarks/workers.py TOOL IN OUT [--label FILE] [--device cpu] [--windows N]

Prints a line of JSON: seconds by stage and, for nnU-Net, how many windows it needs and how many were run. Each tool
is used as its own documentation uses it; what is timed is its own code. Heavy imports stand in the functions, so
that this file runs in the peers' environment as well, which has no lungseg_utils but finds it on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

SECONDS: dict[str, float] = defaultdict(float)
WINDOW, OVERLAP = (96, 96, 96), 0.5  # MONAI's usual ones
CLIP_HU = (-1024, 400)


@contextlib.contextmanager
def stage(name: str):
    """Add the time that the block takes to `name`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        SECONDS[name] += time.perf_counter() - started


def timed(name: str, function):
    """Give `function` with its time added to `name`."""

    def run(*arguments, **options):
        with stage(name):
            return function(*arguments, **options)

    return run


# --- this project ----------------------------------------------------------------------------------------------


def ours_predict(scan: Path, out: Path, device: str, **_) -> dict:
    """Run `lungseg predict SCAN -o OUT`, with a clock on each of its stages."""
    from lungseg_utils import cli, prediction
    from lungseg_utils.prediction import files

    files.volume.read = timed("read", files.volume.read)
    files.prepare = timed("preprocess", files.prepare)
    files.measure_tumours = timed("write", files.measure_tumours)
    files._write = timed("write", files._write)
    prediction.Predictor.probabilities = timed("network", prediction.Predictor.probabilities)
    prediction.Predictor.mask = timed("write", prediction.Predictor.mask)
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.main(["predict", str(scan), "-o", str(out), "--device", device])
    assert code == 0, code
    return {}


def ours_preprocess(scan: Path, out: Path, label: Path | None, **_) -> dict:
    """Prepare one case through the cache, as `lungseg preprocess` does."""
    from lungseg_utils.decathlon import Case
    from lungseg_utils.preprocess.cache import prepare_cases

    with stage("preprocess"):
        ready = prepare_cases(
            [Case("lung_001", scan, label)], spacing_mm=2.5, folder=out, workers=1
        )[0]
    return {"shape": ready.hu.shape}


# --- MONAI -----------------------------------------------------------------------------------------------------


def monai_transforms(keys: list[str], spacing_mm: float):
    """Give MONAI's usual chain: load, orient, resample, clip, crop the body out."""
    from monai import transforms as t

    return t.Compose(
        [
            t.LoadImaged(keys, ensure_channel_first=True),
            t.Orientationd(keys, axcodes="SPL"),
            t.Spacingd(keys, pixdim=(spacing_mm,) * 3, mode=["bilinear", "nearest"][: len(keys)]),
            t.ScaleIntensityRanged(["image"], *CLIP_HU, -1.0, 1.0, clip=True),
            t.CropForegroundd(
                keys, source_key="image", select_fn=lambda x: x > -1, allow_smaller=True
            ),
        ]
    )


def monai_predict(scan: Path, out: Path, device: str, **_) -> dict:
    """Predict as MONAI's tutorials do, with this project's own network and weights."""
    import torch
    from monai import transforms as t
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import sliding_window_inference

    from lungseg_utils.checkpoint import SHIPPED, load_weights

    model, facts = load_weights(SHIPPED)
    model = model.eval().to(device)
    before = monai_transforms(["image"], facts["spacing_mm"])
    after = t.Compose(
        [
            t.Activationsd("pred", sigmoid=True),
            t.Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", threshold=0.5),
            t.SaveImaged(
                "pred",
                output_dir=out.parent,
                output_postfix="monai",
                separate_folder=False,
                output_dtype="uint8",
                print_log=False,
            ),
        ]
    )
    with stage("read"):
        data = before.transforms[0]({"image": str(scan)})
    with stage("preprocess"):
        for transform in before.transforms[1:]:
            data = transform(data)
    batch = list_data_collate([data])
    with stage("network"), torch.inference_mode():
        batch["pred"] = sliding_window_inference(
            batch["image"].to(device),
            WINDOW,
            4 if device == "cuda" else 2,
            model,
            overlap=OVERLAP,
            mode="gaussian",
        )
    with stage("write"):
        for one in decollate_batch(batch):
            after(one)
    return {"grid": list(batch["image"].shape[2:])}


def monai_preprocess(scan: Path, out: Path, label: Path | None, **_) -> dict:
    """Prepare one case with MONAI's transforms and keep it as .npy, as its PersistentDataset keeps tensors."""
    import numpy as np

    files = {"image": str(scan)} | ({"label": str(label)} if label else {})
    with stage("preprocess"):
        data = monai_transforms(list(files), 2.5)(files)
        out.mkdir(parents=True, exist_ok=True)
        for key in files:
            np.save(out / f"{key}.npy", data[key].numpy())
    return {"shape": list(data["image"].shape[1:])}


# --- nnU-Net ---------------------------------------------------------------------------------------------------


def nnunet_plan():
    """Give nnU-Net's managers for its published plan of Task06_Lung, 3d_fullres, and its network."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    channels = [32, 64, 128, 256, 320, 320]
    network = {
        "n_stages": 6,
        "features_per_stage": channels,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
        "n_conv_per_stage": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [80, 192, 160],
        "median_image_size_in_voxels": [252, 512, 512],
        "spacing": [1.245, 0.785, 0.785],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    plans = PlansManager(
        {
            "dataset_name": "Dataset006_Lung",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "configurations": {"3d_fullres": configuration},
            "foreground_intensity_properties_per_channel": {
                "0": {
                    "mean": -273.46,
                    "std": 346.95,
                    "percentile_00_5": -1024.0,
                    "percentile_99_5": 311.0,
                }
            },
        }
    )
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "cancer": 1},
        "numTraining": 63,
        "file_ending": ".nii.gz",
    }
    built = plans.get_configuration("3d_fullres")
    model = get_network_from_plans(
        built.network_arch_class_name,
        built.network_arch_init_kwargs,
        built.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=False,
    )
    return plans, built, dataset, model


def nnunet_predict(scan: Path, out: Path, device: str, windows: int, mirroring: bool, **_) -> dict:
    """Predict with nnU-Net's preprocessor, predictor and export; random weights; only `windows` windows if not 0."""
    import torch
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    plans, configuration, dataset, model = nnunet_plan()
    predictor = nnUNetPredictor(
        device=torch.device(device), use_mirroring=mirroring, allow_tqdm=False
    )
    predictor.manual_initialization(
        model, plans, configuration, [model.state_dict()], dataset, "nnUNetTrainer", (0, 1, 2)
    )
    with stage("read"):
        data, properties = plans.image_reader_writer_class().read_images([str(scan)])
    with stage("preprocess"):
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            data, None, properties, plans, configuration, dataset
        )
    needed = len(predictor._internal_get_sliding_window_slicers(data.shape[1:]))
    run = min(windows or needed, needed)
    every = predictor._internal_get_sliding_window_slicers
    predictor._internal_get_sliding_window_slicers = lambda size: every(size)[:run]
    with stage("network"):
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    logits = torch.nan_to_num(logits)  # where no window was run
    with stage("write"):
        export_prediction_from_logits(
            logits,
            properties,
            configuration,
            plans,
            dataset,
            str(out).removesuffix(".nii.gz"),
            num_threads_torch=2,
        )
    return {"windows_needed": needed, "windows_run": run, "grid": list(data.shape[1:])}


def nnunet_preprocess(scan: Path, out: Path, label: Path | None, **_) -> dict:
    """Prepare and save one case as `nnUNetv2_preprocess` does."""
    plans, configuration, dataset, _ = nnunet_plan()
    with stage("preprocess"):
        out.mkdir(parents=True, exist_ok=True)
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(
            str(out / "lung_001"),
            [str(scan)],
            str(label) if label else None,
            plans,
            configuration,
            dataset,
        )
    return {}


def main() -> None:
    """Run one tool and print its stages."""
    tools = {
        name.replace("_", "-"): f
        for name, f in globals().items()
        if name.endswith(("_predict", "_preprocess"))
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", choices=tools)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--label", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--windows", type=int, default=0, help="how many of nnU-Net's windows to run (default all)"
    )
    parser.add_argument(
        "--mirroring",
        action="store_true",
        help="nnU-Net's test-time mirroring, eight passes a window",
    )
    options = vars(parser.parse_args())
    facts = tools[options.pop("tool")](**options)
    print(json.dumps({"seconds": SECONDS} | facts))


if __name__ == "__main__":
    main()
