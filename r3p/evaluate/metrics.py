"""What can be measured: the names of all figures, what each means, and what it needs.

Suffix `_a` is the variant of the paper's laboratory (the nearest to its tables, as far as is known), `_s` the standard
one. Stand-ins for networks that no package ships have names of their own and are never called by the table's names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """better: "more", "less", or "" where neither is (compare with the driver's own). network: what must be given."""

    name: str
    title: str
    better: str
    meaning: str
    network: str = ""


def _rows(*rows: tuple[str, ...]) -> dict[str, Metric]:
    return {row[0]: Metric(*row) for row in rows}


METRICS: dict[str, Metric] = _rows(
    ("l1_a", "L1 (a)", "less", "mean |difference| of RGB in [-1, 1]"),
    ("l1_s", "L1 (s)", "less", "the same in [0, 1]"),
    ("psnr_a", "PSNR (a)", "more", "dB, error on [-1, 1] averaged over the clip before the logarithm: 6 dB below (s)"),
    ("psnr_s", "PSNR (s)", "more", "dB, peak of the pixels' range, of each frame, then the mean"),
    (
        "ssim_a",
        "SSIM (a)",
        "more",
        "Gaussian of 11, RGB in [-1, 1]; range 1 without an output pixel below -0.5, else 2",
    ),
    ("ssim_s", "SSIM (s)", "more", "Gaussian of 11 (sigma 1.5), RGB channels apart, range fixed, no padding"),
    (
        "psnr_hair",
        "PSNR hair",
        "more",
        "dB on [0, 1] within the truth's hair, error averaged over the clip before the logarithm",
    ),
    ("psnr_torso", "PSNR torso", "more", "the same within its torso: skin below the chin, clothes"),
    ("psnr_seams", "PSNR seams", "more", "the same within 2 % of where its head, torso and background meet"),
    ("flicker", "flicker", "less", "mean |change of a frame - the truth's| on [0, 1], within the truth's person"),
    (
        "lpips_alex_a",
        "LPIPS AlexNet",
        "less",
        "version 0.1, [-1, 1]: the network of most papers",
        "lpips",
    ),
    ("lpips_vgg", "LPIPS VGG16", "less", "version 0.1, [-1, 1]: the network of the training loss", "lpips"),
    (
        "fid_a",
        "FID (a)",
        "less",
        "of each clip, then the mean; few frames read high",
        "inception",
    ),
    (
        "vgg_fd_a",
        "VGG-FD (a)",
        "less",
        "stand-in for FID: VGG16's last stage at 224 pixels, own scale",
        "lpips",
    ),
    ("csim_a", "CSIM (a)", "more", "whole frame at 112 pixels, nearest neighbour, not aligned; cosine", "arcface"),
    ("csim_s", "CSIM (s)", "more", "five points to the usual places at 112 pixels; cosine", "arcface"),
    (
        "shape_similarity",
        "shape similarity",
        "more",
        "stand-in for CSIM: cosine of fitted shapes, blind to texture",
    ),
    ("aed_a", "AED (a)", "less", "mean |difference| of Deep3DFaceRecon's coefficients 80:144", "deep3d"),
    ("apd_a1", "APD (a, v1)", "less", "mean |difference| of its three angles (radians) and translation", "deep3d"),
    ("apd_a2", "APD (a, v2)", "less", "mean |difference| of its three angles, radians", "deep3d"),
    ("aed_fit", "AED-fit", "less", "stand-in for AED: our fitted expression, which also drives our model"),
    ("apd_fit_a1", "APD-fit (v1)", "less", "stand-in: our fitted angles (radians) and translation (head units)"),
    ("apd_fit_a2", "APD-fit (v2)", "less", "stand-in: our fitted angles, radians"),
    ("akd_a", "AKD (a)", "less", "68 points by dlib, pixels", "dlib"),
    ("akd_mediapipe", "AKD MediaPipe", "less", "the same with 68 of MediaPipe's points"),
    ("lmd_a", "LMD all", "less", "pixels, each point's mean over time taken away (68 of MediaPipe's points)"),
    ("lmd_lips_a", "LMD lips", "less", "the same of the lips"),
    ("lmd_speed_a", "LMD all, speed", "less", "of differences from frame to frame"),
    ("lmd_lips_speed_a", "LMD lips, speed", "less", "the same of the lips"),
    ("lse_c", "LSE-C", "more", "SyncNet v2's confidence, faces by MediaPipe instead of S3FD", "syncnet"),
    ("lse_d", "LSE-D", "less", "SyncNet v2's distance, faces by MediaPipe instead of S3FD", "syncnet"),
    ("lse_lag", "LSE, lag", "", "frames by which the sound goes before the lips there", "syncnet"),
    ("sync_proxy", "sync proxy", "more", "stand-in for LSE: correlation of lip gap and loudness, best within 5 frames"),
    ("sync_proxy_lag", "sync proxy, lag", "", "frames by which the lips come after the sound there"),
    ("lip_correlation", "lip correlation", "more", "of the lip gap with the driver's, best within 2 frames"),
    ("lip_lag", "lip lag", "", "frames by which the lips come after the driver's there"),
    ("yaw_correlation", "yaw correlation", "more", "of the nose's turn with the driver's, frame by frame"),
    ("blinks_per_minute", "blinks a minute", "", "lids below half of their usual gap for 2 to 20 frames"),
    ("blink_seconds", "blink duration", "", "seconds"),
    ("blink_depth", "blink depth", "", "1: lids meet"),
    ("jitter", "jitter", "", "squared second difference of landmarks, in hundredths of the eyes' distance"),
    (
        "background_change",
        "background change",
        "less",
        "mean |difference| of frames outside of the person, [0, 1]",
    ),
    ("face_found", "face found", "more", "share of frames in which the landmark network sees a face"),
)

# Of a method's frames together, not of clips.
POOLED: dict[str, Metric] = _rows(
    ("fid_s", "FID (s)", "less", "Inception of December 2015, all clips pooled", "inception"),
    ("kid_s", "KID (s)", "less", "kernel distance on at most 1,000 frames a side", "inception"),
    ("vgg_fd_s", "VGG-FD (s)", "less", "stand-in for FID, all clips pooled", "lpips"),
    ("vgg_kd_s", "VGG-KD (s)", "less", "stand-in for KID, at most 1,000 frames a side", "lpips"),
)

# Why a network's figures may be missing, and what would bring them.
NETWORKS = {
    "lpips": "LPIPS weights are not in the cache: run `r3p assets`",
    "inception": "Inception weights are user-supplied: r3p convert them, then --network inception=WEIGHTS",
    "arcface": "ArcFace weights are user-supplied: r3p convert them, then --network arcface=WEIGHTS",
    "deep3d": "Deep3DFaceRecon and its face model are user-supplied: r3p convert them, then --network deep3d=WEIGHTS",
    "dlib": "dlib's 68-point model is not for commercial use and not shipped; AKD MediaPipe stands in",
    "syncnet": "SyncNet v2 is user-supplied: r3p convert it, then --network syncnet=WEIGHTS; the sync proxy stands in",
}
