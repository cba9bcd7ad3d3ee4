"""The settings that are compared: those of the authors' ``main.py``, and each further choice of their code."""

from collections.abc import Mapping
from typing import Any, NamedTuple

OPTIONS: Mapping[str, tuple[str, Mapping[Any, Any]]] = {
    "distance_metric_G": ("generator_distance", {"L1": "l1", "L2": "l2", "MMD": "mean_cov", "MMD_kernel": "mmd"}),
    "distance_metric_FT": ("transform_distance", {"L1": "l1", "L2": "l2", "MMD": "mean_cov", "MMD_kernel": "mmd"}),
    "cls_criterion_type_FT": ("transform_loss", {"entropy": "entropy", "nonsatCE": "non_saturating"}),
    "use_homo_label_aug": ("labels", {0: "batch", 1: "balanced", 2: "both"}),
    "inter_form": ("schedule", {"exp": "exponential", "avg": "half", "1overx": "hyperbolic"}),
    "model_share": ("local_norm", {"no_bn_running_stats": "all", "all": "none"}),
    "model_share_G": ("generator_norm", {"all": "shared", "no_local": "local"}),
}
"""By their name: ours, and our value of each of theirs."""
SAME = {
    "use_feature_inter": "interpolate",
    "inter_gamma": "gamma",
    "lr_G": "lr_generator",
    "lr_FTNet": "lr_transform",
    "L_G_dist_lambda": "lam_generator",
    "L_FT_dist_lambda": "lam_transform",
    "latent_dim": "latent",
}
DIGITS: Mapping[str, Any] = {
    "model_share": "no_bn_running_stats",
    "model_share_G": "all",
    "use_homo_label_aug": 2,
    "cls_criterion_type_FT": "entropy",
    "use_feature_inter": False,
    "inter_gamma": 0.002,
    "inter_form": "exp",
    "lr_G": 0.05,
    "lr_FTNet": 0.025,
    "L_G_dist_lambda": 1,
    "L_FT_dist_lambda": 0.1,
    "distance_metric_G": "L2",
    "distance_metric_FT": "MMD_kernel",
}
PACS = {
    **DIGITS,
    "use_feature_inter": True,
    "inter_gamma": 0.01,
    "lr_FTNet": 0.05,
    "L_G_dist_lambda": 10,
    "L_FT_dist_lambda": 1,
    "distance_metric_G": "MMD_kernel",
    "distance_metric_FT": "L2",
}
OFFICE_HOME = {
    **DIGITS,
    "model_share_G": "no_local",
    "use_feature_inter": True,
    "inter_gamma": 0.01,
    "latent_dim": 9,
    "L_G_dist_lambda": 0.75,
    "L_FT_dist_lambda": 1.25,
    "distance_metric_G": "MMD_kernel",
}


class Setting(NamedTuple):
    name: str
    config: Mapping[str, Any]

    @property
    def ours(self) -> dict[str, Any]:
        """Our options."""
        found = {ours: values[self.config[name]] for name, (ours, values) in OPTIONS.items()}
        same = {ours: self.config[name] for name, ours in SAME.items() if name in self.config}
        return {**found, **{key: float(value) if key.startswith("lam") else value for key, value in same.items()}}


MILD = {**PACS, "L_G_dist_lambda": 0.1}
"""For the other choices: with a weight of 10 and a distance without bound the generator's numbers explode."""
SETTINGS = [
    Setting("Digits", DIGITS),
    Setting("PACS", PACS),
    Setting("OfficeHome", OFFICE_HOME),
    *(
        Setting(f"{key}={value}", {**MILD, key: value})
        for key, (_, values) in OPTIONS.items()
        for value in values
        if MILD[key] != value
    ),
]
