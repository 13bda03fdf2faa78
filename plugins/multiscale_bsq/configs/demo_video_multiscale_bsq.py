"""The small video tokenizer of configs/demo_video.py with residual codes of 18 bits on three scales.

Multi-scale residual quantization is VAR's (arXiv:2404.02905), in signs Infinity's (arXiv:2412.04431). The indices of a
clip are no grid, and need no change of the toolkit.

    pip install . ./plugins/multiscale_bsq
    python tools/train.py plugins/multiscale_bsq/configs/demo_video_multiscale_bsq.py
"""

_base_ = ["../../../configs/_base_/networks/demo_video.py", "../../../configs/_base_/objectives/demo.py",
          "../../../configs/_base_/data/demo_clips.py", "../../../configs/_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="MultiScaleBSQ", bits=18, scales=(0.25, 0.5, 1.0)))
