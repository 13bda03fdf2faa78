"""The small video tokenizer of configs/demo_video.py with SimVQ's 8192 codes of 16 numbers (arXiv:2411.02038).

    pip install . ./plugins/simvq && python tools/train.py plugins/simvq/configs/demo_video_simvq.py
"""

_base_ = ["../../../configs/_base_/networks/demo_video.py", "../../../configs/_base_/objectives/demo.py",
          "../../../configs/_base_/data/demo_clips.py", "../../../configs/_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="SimVQ", codebook_size=8192, dim=16))
# The paper's weights, which are the quantizer's own.
objective = dict(quantizer=None)
