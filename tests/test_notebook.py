import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from r3p import audio, video

NOTEBOOK = Path(__file__).parents[1] / "colab" / "inference.ipynb"


@pytest.mark.filterwarnings("default")
def test_the_notebook_makes_a_video(tmp_path, monkeypatch):
    from scipy.io import wavfile

    from r3p.talk import DEMO_SPEECH

    short = tmp_path / "short.wav"
    wavfile.write(short, audio.RATE, np.float32(audio.load(DEMO_SPEECH)[: audio.RATE // 5]))
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (choose,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    choose.source += f"\nspeech, steps = {str(short)!r}, 1"
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out.data for out in notebook.cells[-1].outputs]
    assert any("text/html" in data for data in shown) and any("image/png" in data for data in shown)
    frames = list(video.read_frames(tmp_path / "talk.mp4"))
    assert len(frames) == 5 and frames[0].std() > 10
    assert video.probe(tmp_path / "talk.mp4").has_audio
