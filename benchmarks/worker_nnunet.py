"""nnU-Net v2 on one scan: its published plan of Task06_Lung, 3d_fullres, with random weights."""

from __future__ import annotations

import argparse
from typing import Any

from stages import stage

NETWORK = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
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
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [80, 192, 160],
    "median_image_size_in_voxels": [252, 512, 512],
    "spacing": [1.245, 0.785, 0.785],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": RESAMPLING,
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_seg_kwargs": RESAMPLING | {"is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": RESAMPLING | {"order": 1},
    "batch_dice": False,
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": NETWORK,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}
INTENSITIES = {
    "mean": -273.46,
    "std": 346.95,
    "percentile_00_5": -1024.0,
    "percentile_99_5": 311.0,
}
PLANS = {
    "dataset_name": "Dataset006_Lung",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "configurations": {"3d_fullres": CONFIGURATION},
    "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "cancer": 1},
    "numTraining": 63,
    "file_ending": ".nii.gz",
}


def read_plan() -> tuple[Any, Any]:
    """Return nnU-Net's managers of the plan and of its configuration."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(PLANS)
    return plans, plans.get_configuration("3d_fullres")


def make_predictor(request: argparse.Namespace, plans: Any, configuration: Any) -> Any:
    """Return nnU-Net's predictor with a network of random weights."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    model = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        device=torch.device(request.device), use_mirroring=request.mirroring, allow_tqdm=False
    )
    weights = [model.state_dict()]
    predictor.manual_initialization(
        model, plans, configuration, weights, DATASET, "nnUNetTrainer", (0, 1, 2)
    )
    return predictor


def predict(request: argparse.Namespace) -> dict:
    """Predict with nnU-Net's preprocessor, predictor and export; only `windows` of the windows."""
    import torch
    from nnunetv2.inference.export_prediction import export_prediction_from_logits

    plans, configuration = read_plan()
    predictor = make_predictor(request, plans, configuration)
    with stage("read"):
        reader = plans.image_reader_writer_class()
        data, properties = reader.read_images([str(request.scan)])
    with stage("preprocess"):
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            data, None, properties, plans, configuration, DATASET
        )
    every = predictor._internal_get_sliding_window_slicers
    needed = len(every(data.shape[1:]))
    run = min(request.windows or needed, needed)
    predictor._internal_get_sliding_window_slicers = lambda size: every(size)[:run]
    with stage("network"):
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    logits = torch.nan_to_num(logits)  # where no window was run
    with stage("write"):
        stem = str(request.out).removesuffix(".nii.gz")
        export_prediction_from_logits(
            logits, properties, configuration, plans, DATASET, stem, num_threads_torch=2
        )
    return {"windows_needed": needed, "windows_run": run, "grid": list(data.shape[1:])}


def preprocess(request: argparse.Namespace) -> dict:
    """Prepare and save one case as `nnUNetv2_preprocess` does."""
    plans, configuration = read_plan()
    label = str(request.label) if request.label else None
    with stage("preprocess"):
        request.out.mkdir(parents=True, exist_ok=True)
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(
            str(request.out / "lung_001"), [str(request.scan)], label, plans, configuration, DATASET
        )
    return {}
