"""Rows that others published, for a reader's bearings: every one has its own clips, crop and networks.

The paper's values were copied from secondary sources and not checked against its PDF. Figures of the same weights
differ by 10 dB between papers, so these rows never stand among ours.
"""

PUBLISHED: dict[str, list[dict[str, str]]] = {
    "same": [
        {"of": "the paper, its own test", "figures": "FID 37.50, AED 0.111, APD 0.018"},
        {"of": "VFHQ 512 (FFAvatar)", "figures": "PSNR 20.88, SSIM .780, LPIPS .154, CSIM .750, AED .150, APD .268"},
        {
            "of": "HDTF/TH-1KH 256 (Splat-Portrait)",
            "figures": "PSNR 22.40, SSIM .758, LPIPS .191, CSIM .761, FID 35.69",
        },
        {"of": "HDTF (MGGTalk)", "figures": "PSNR 31.62, FID 33.26"},
    ],
    "cross": [
        {"of": "the paper, its own test", "figures": "CSIM 0.758, FID 42.37, AED 0.138, APD 0.022"},
        {"of": "VFHQ 512 (Portrait4D-v2)", "figures": "FID 61.3, CSIM .721"},
        {"of": "HDTF (MGGTalk)", "figures": "FID 51.36"},
    ],
    "audio": [
        {"of": "the paper, its own test", "figures": "AED 0.146, Sync 6.565"},
        {"of": "HDTF/TH-1KH 256 (Splat-Portrait)", "figures": "CSIM .691, FID 40.82, Sync 6.521"},
    ],
}
